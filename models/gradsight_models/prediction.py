"""A trained model that answers rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gradsight_models.errors import UnusableValue
from gradsight_models.labels import LabelNames
from gradsight_models.preprocessing import Preprocessing

_ROWS_AT_ONCE = 1024
"""Keeps the memory of an evaluation small whatever the number of rows."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answer to one row."""

    label: str
    """Name of the most probable class."""
    confidence: float
    """Its probability, 0 to 1, as the model sees it."""
    probabilities: Mapping[str, float]
    """The most probable classes with their probabilities, most probable first."""


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A module in evaluation mode with everything that turns rows into its inputs and its outputs into names."""

    architecture: str
    module: nn.Module
    preprocessing: Preprocessing
    labels: LabelNames
    input_columns: tuple[str, ...]
    """Names of the columns, in the order in which the model reads them."""
    device: torch.device
    """Where it computes."""

    def predict(self, rows: Sequence[str] | Sequence[Mapping[str, Any]], *, top: int = 5) -> list[Prediction]:
        """The most probable classes of each row.

        Args:
            rows: Mappings from column names to values; plain texts or numbers where the model reads one column.
            top: Number of probabilities in each answer, at least 1.

        Raises:
            UnusableValue: A row lacks a column, or a value cannot be read.
        """
        if isinstance(rows, (str, Mapping)):
            raise ValueError(f"rows: got one {type(rows).__name__}, allowed: a list of rows")
        if not rows:
            return []
        probabilities = self.logits(self._columns(rows)).softmax(dim=1)
        values, places = probabilities.topk(min(top, len(self.labels.names)), dim=1)
        return [self._prediction(*row) for row in zip(values.tolist(), places.tolist(), strict=True)]

    def logits(self, columns: Sequence[Sequence[Any]]) -> torch.Tensor:
        """Class scores of rows given by column, float32 [rows, classes] on the CPU, in the order of `labels.names`.

        Raises:
            UnusableValue: A value cannot be read.
            ValueError: Another number of columns than the model reads.
        """
        inputs = self.preprocessing.encode(columns)
        with torch.inference_mode():
            parts = [
                self.module(*(part.to(self.device) for part in parts)).float().cpu()
                for parts in zip(*(tensor.split(_ROWS_AT_ONCE) for tensor in inputs), strict=True)
            ]
        return torch.cat(parts) if parts else torch.empty(0, len(self.labels.names))

    def _columns(self, rows: Sequence[Any]) -> list[list[Any]]:
        if len(self.input_columns) == 1:
            only = self.input_columns[0]
            rows = [row if isinstance(row, Mapping) else {only: row} for row in rows]
        return [
            [_value(row, name, place, number) for number, row in enumerate(rows)]
            for place, name in enumerate(self.input_columns)
        ]

    def _prediction(self, probabilities: list[float], places: list[int]) -> Prediction:
        names = [self.labels.names[place] for place in places]
        return Prediction(
            label=names[0],
            confidence=probabilities[0],
            probabilities=dict(zip(names, probabilities, strict=True)),
        )


def _value(row: Any, name: str, place: int, number: int) -> Any:
    if not isinstance(row, Mapping) or name not in row:
        raise UnusableValue(f"the row has no column {name!r}", row=number, column=place)
    return row[name]
