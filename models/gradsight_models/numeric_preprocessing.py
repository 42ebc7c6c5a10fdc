"""From columns of numbers to standardised floats: what `mlp` reads."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from gradsight_models.errors import UnusableValue

_RELATIVE_DEVIATION = 1e-12
"""A column that varies less than this share of its mean varies by rounding only."""


@dataclass(frozen=True, kw_only=True)
class NumericPreprocessing:
    """Mean and standard deviation of each column, fitted on training rows only.

    A constant column has the deviation 1, so that it becomes 0 and stays harmless.
    """

    means: tuple[float, ...]
    deviations: tuple[float, ...]
    kind: str = field(default="numeric", init=False)

    @classmethod
    def fit(cls, columns: Sequence[Sequence[Any]]) -> Self:
        """Measure the columns.

        Raises:
            UnusableValue: A value is missing, no number, or not finite.
            ValueError: There is no column or no row, or numbers too large to square.
        """
        if not columns or not len(columns[0]):
            raise ValueError("there is nothing to fit: at least one numeric column and one row are needed")
        means, deviations = [], []
        for place, column in enumerate(columns):
            numbers = _numbers(column, place)
            with np.errstate(over="ignore", invalid="ignore"):
                mean, deviation = float(numbers.mean()), float(numbers.std())
            if not math.isfinite(mean + deviation):
                raise ValueError(f"column {place} (from 0): its numbers are too large to standardise")
            means.append(mean)
            deviations.append(deviation if deviation > _RELATIVE_DEVIATION * abs(mean) else 1.0)
        return cls(means=tuple(means), deviations=tuple(deviations))

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.means)

    def encode(self, columns: Sequence[Sequence[Any]]) -> tuple[torch.Tensor, ...]:
        """One sequence of numbers (or texts of numbers) per column to one tensor, float32 [rows, columns].

        Raises:
            UnusableValue: A value is missing, no number, or too large.
            ValueError: Another number of columns than was fitted.
        """
        if len(columns) != self.width:
            raise ValueError(f"got {len(columns)} columns, expected {self.width}")
        encoded = np.empty((len(columns[0]), self.width), dtype=np.float32)
        for place, column in enumerate(columns):
            standardised = (_numbers(column, place) - self.means[place]) / self.deviations[place]
            with np.errstate(over="ignore"):
                encoded[:, place] = standardised
            _require_finite(encoded[:, place], column, place)
        return (torch.from_numpy(encoded),)

    def to_json(self) -> dict[str, Any]:
        """The documented JSON: a value x of column i becomes (x - means[i]) / deviations[i]."""
        return {"kind": self.kind, "means": list(self.means), "deviations": list(self.deviations)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(means=tuple(document["means"]), deviations=tuple(document["deviations"]))


def _numbers(column: Sequence[Any], place: int) -> npt.NDArray[np.float64]:
    try:
        numbers = np.asarray(column, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.array([_number(value) for value in column], dtype=np.float64)
    _require_finite(numbers, column, place)
    return numbers


def _number(value: Any) -> float:
    """The number, or NaN for what is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _require_finite(numbers: npt.NDArray[Any], column: Sequence[Any], place: int) -> None:
    finite = np.isfinite(numbers)
    if not finite.all():
        row = int(np.argmin(finite))
        raise UnusableValue(f"got {_shown(column[row])}, allowed: finite numbers", row=row, column=place)


def _shown(value: Any) -> str:
    return "no value" if value is None else repr(value)[:60]
