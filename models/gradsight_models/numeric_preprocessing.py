"""From columns of numbers to standardised ones: what `mlp` reads."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch


@dataclass(frozen=True, kw_only=True)
class NumericPreprocessing:
    """Mean and standard deviation per column, of the training rows.

    A constant column has nothing to say: its deviation counts as 1, so it is 0 in training and finite elsewhere.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    kind: str = field(default="numeric", init=False)

    @classmethod
    def fit(cls, columns: Sequence[Sequence[Any]]) -> Self:
        """Columns of finite numbers, one sequence each."""
        matrix = _matrix(columns)
        deviation = matrix.std(axis=0)
        # Rounding leaves a constant column a deviation far below its mean.
        constant = deviation <= 1e-12 * np.maximum(np.abs(matrix.mean(axis=0)), 1.0)
        return cls(
            mean=tuple(matrix.mean(axis=0).tolist()),
            deviation=tuple(np.where(constant, 1.0, deviation).tolist()),
        )

    def encode(self, columns: Sequence[Sequence[Any]]) -> tuple[torch.Tensor, ...]:
        """Columns of numbers to one float32 tensor [rows, columns]. Raises ValueError for another number of columns."""
        if len(columns) != len(self.mean):
            raise ValueError(
                f"got {len(columns)} columns, allowed: the {len(self.mean)} that the model was fitted on"
            )
        standard = (_matrix(columns) - np.asarray(self.mean)) / np.asarray(self.deviation)
        return (torch.from_numpy(standard.astype(np.float32)),)

    def to_json(self) -> dict[str, Any]:
        """The documented JSON: `(value - mean) / deviation`, column by column."""
        return {"kind": self.kind, "mean": list(self.mean), "deviation": list(self.deviation)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(mean=tuple(document["mean"]), deviation=tuple(document["deviation"]))


def _matrix(columns: Sequence[Sequence[Any]]) -> "np.ndarray[Any, np.dtype[np.float64]]":
    try:
        matrix = np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)
    except (TypeError, ValueError):
        raise _refusal(columns) from None
    if not np.isfinite(matrix).all():
        raise _refusal(columns)
    return matrix


def _refusal(columns: Sequence[Sequence[Any]]) -> ValueError:
    """Name the first value that is no finite number, places counted from 1."""
    for place, column in enumerate(columns, start=1):
        for row, value in enumerate(column, start=1):
            try:
                finite = math.isfinite(float(value))
            except (TypeError, ValueError):
                finite = False
            if not finite:
                return ValueError(f"row {row}, input column {place}: got {value!r}, allowed: a finite number")
    return ValueError("the columns differ in length")
