"""Rows of one file or one split, as columns."""

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gradsight_worker.training.errors import TrainingFailed

NumberColumn = npt.NDArray[np.float64]
TextColumn = npt.NDArray[np.object_]
"""Of `str`."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Columns of equal length; every cell was checked."""

    input_names: tuple[str, ...]
    inputs: tuple[NumberColumn | TextColumn, ...]
    """Finite numbers or texts, in the order of `input_names`."""
    targets: TextColumn
    """Names of classes, never empty."""
    categories: TextColumn | None
    ids: TextColumn
    """A row's own id, or its number from 1."""

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def columns(self) -> list[Any]:
        """The inputs, for those who take any sequence of values."""
        return list(self.inputs)

    def take(self, chosen: npt.NDArray[Any]) -> "Rows":
        """The rows at these indices, or where this mask is true."""
        return replace(
            self,
            inputs=tuple(column[chosen] for column in self.inputs),
            targets=self.targets[chosen],
            categories=None if self.categories is None else self.categories[chosen],
            ids=self.ids[chosen],
        )


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Which column of a file is what."""

    inputs: tuple[str, ...]
    """Empty: every numeric column that has no other role."""
    numeric: bool
    """True: inputs are numbers; False: texts."""
    target: str
    category: str | None
    id: str | None

    def __post_init__(self) -> None:
        if self.numeric and (both := set(self.inputs) & set(self.texts)):
            name = json.dumps(min(both))
            raise TrainingFailed.by_spec(
                f"column {name} is an input and has another role, too; leave it out of the inputs",
                field="data.input_columns",
            )

    @property
    def texts(self) -> tuple[str, ...]:
        """Columns that are read as text."""
        named = (None if self.numeric else self.inputs, (self.target, self.category, self.id))
        return tuple(name for names in named if names for name in names if name)

    @property
    def named(self) -> tuple[tuple[str, str], ...]:
        """Every column that must be there, with the path of the spec's field that names it."""
        roles = [(name, "data.input_columns") for name in self.inputs]
        roles.append((self.target, "data.target_column"))
        roles += [(self.category, "data.category_column")] if self.category else []
        roles += [(self.id, "data.id_column")] if self.id else []
        return tuple(roles)
