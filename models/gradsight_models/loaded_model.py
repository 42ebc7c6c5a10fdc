"""A trained model, ready to answer rows."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradsight_models.answers import Answer, answers_of
from gradsight_models.columns import Chunk, Column, Encoded
from gradsight_models.outputs import Outputs
from gradsight_models.preprocessing import Preprocessing
from gradsight_models.rows import Row, chunk_of
from gradsight_models.source import ModelSource

_BATCH = 256
"""Rows answered at a time: memory stays flat, matrices are large enough."""


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A result, ready to answer. `figures` is what the trainer wrote about the run."""

    module: nn.Module
    source: ModelSource
    columns: tuple[Column, ...]
    """The input columns, in the order in which the model reads them."""
    preprocessing: Preprocessing
    outputs: Outputs
    figures: Mapping[str, Any]

    @property
    def input_columns(self) -> tuple[str, ...]:
        """Names of `columns`."""
        return tuple(column.name for column in self.columns)

    def predict(self, rows: Sequence[Row], *, most: int = 3, threshold: float = 0.5) -> list[Answer]:
        """Answer rows: dicts with the input columns, or bare values where the model reads one column.

        A number may be None (missing, handled as in training); an image is an array, the bytes of a PNG or JPEG
        file, or its path. Classes give `Prediction`, labels `LabelsPrediction`, numbers `NumberPrediction`.

        Args:
            rows: What to answer.
            most: How many classes each answer lists.
            threshold: Probability from which on a label holds, 0 to 1.

        Raises:
            ValueError: A row lacks an input column or has a value of another kind; row and column are named.
        """
        if not rows:
            return []
        scores = self._scores(self.encode(rows))
        return list(answers_of(scores, self.outputs, most=most, threshold=threshold))

    def encode(self, rows: Sequence[Row]) -> Encoded:
        """Rows as the module takes them. Raises ValueError that names row and column."""
        optional: frozenset[str] = getattr(self.preprocessing, "optional", frozenset())
        return self.preprocessing.encode(chunk_of(rows, self.columns, optional=optional))

    def scores(self, chunk: Chunk) -> Tensor:
        """Scores of a chunk of the input columns, encoded row by encoded row, on the processor."""
        return self._scores(self.preprocessing.encode(chunk))

    def _scores(self, encoded: Encoded) -> Tensor:
        rows = len(encoded.inputs[0])
        with _answering(self.module):
            parts = [
                self.module(*(part[start : start + _BATCH] for part in encoded.inputs))
                for start in range(0, max(rows, 1), _BATCH)
            ]
        return torch.cat(parts)


@contextmanager
def _answering(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every part is left in the mode it was in."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True
