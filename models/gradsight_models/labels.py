"""Names of a target's classes and their numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch


@dataclass(frozen=True)
class LabelNames:
    """Class names in the order of the model's outputs: sorted, each once."""

    names: tuple[str, ...]

    @classmethod
    def fit(cls, values: Iterable[Any]) -> Self:
        """The names that occur, sorted, as strings."""
        return cls(tuple(sorted({str(value) for value in values})))

    def encode(self, values: Sequence[Any]) -> torch.Tensor:
        """Names to class numbers, int64 [rows].

        Raises ValueError naming the first row (from 1) whose name is unknown.
        """
        numbers = {name: number for number, name in enumerate(self.names)}
        try:
            return torch.tensor([numbers[str(value)] for value in values], dtype=torch.int64)
        except KeyError:
            row = next(row for row, value in enumerate(values, start=1) if str(value) not in numbers)
            raise UnknownLabel(str(values[row - 1]), row, self.names) from None

    def to_json(self) -> list[str]:
        """The names, in order."""
        return list(self.names)

    @classmethod
    def from_json(cls, document: list[str]) -> Self:
        """The inverse of `to_json`."""
        return cls(tuple(document))


class UnknownLabel(ValueError):
    """A target that the classes do not have. `row` counts from 1."""

    def __init__(self, label: str, row: int, names: Sequence[str]) -> None:
        shown = ", ".join(repr(name) for name in names[:5]) + (" …" if len(names) > 5 else "")
        super().__init__(f"row {row}: got {label!r}, allowed: the {len(names)} classes of train ({shown})")
        self.label = label
        self.row = row
