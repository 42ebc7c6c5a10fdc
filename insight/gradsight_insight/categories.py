"""Which row belongs to which category."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

MOST_CATEGORIES = 100
"""Categories that are told apart; the rarer ones are one, OTHER."""
OTHER = "other"


@dataclass(frozen=True, kw_only=True)
class Categories:
    """The category of every row: `names[codes[row]]`.

    Raises:
        ValueError: A code names no category.
    """

    names: tuple[str, ...]
    codes: npt.NDArray[np.int64]
    """One per row, 0 to below the number of names."""

    def __post_init__(self) -> None:
        if len(self.codes) and not (self.codes.min() >= 0 and self.codes.max() < len(self.names)):
            raise ValueError(
                f"category codes: got {self.codes.min()} to {self.codes.max()}, allowed 0 to {len(self.names) - 1}"
            )

    @classmethod
    def of(cls, column: npt.NDArray[Any]) -> Self:
        """Categories of rows from a column of names."""
        names, codes = np.unique(column.astype(str), return_inverse=True)
        return cls(names=tuple(names.tolist()), codes=codes.astype(np.int64))

    def __len__(self) -> int:
        return len(self.codes)

    def counts(self) -> npt.NDArray[np.int64]:
        """Rows per category."""
        return np.bincount(self.codes, minlength=len(self.names))

    def folded(self, most: int = MOST_CATEGORIES) -> "Categories":
        """The same rows under at most `most` categories and `other`, most frequent first; empty ones are dropped.

        Equally frequent categories are ordered by name. `other` comes last and takes in a category of that name.
        """
        counts = self.counts()
        present = [code for code in range(len(self.names)) if counts[code]]
        present.sort(key=lambda code: (-int(counts[code]), self.names[code]))
        kept = present
        if len(present) > most:
            kept = [code for code in present if self.names[code] != OTHER][:most]
        places = np.full(len(self.names), len(kept), dtype=np.int64)
        places[kept] = np.arange(len(kept))
        names = [self.names[code] for code in kept]
        return Categories(
            names=(*names, OTHER) if len(kept) < len(present) else tuple(names), codes=places[self.codes]
        )
