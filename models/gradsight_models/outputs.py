"""What a model's outputs mean: classes, labels, numbers or tokens."""

from typing import Any, Protocol

import numpy.typing as npt
from torch import Tensor


class Outputs(Protocol):
    """Turns targets into tensors, and scores into answers.

    | kind | targets | scores |
    |---|---|---|
    | `classes` | int64 [rows] | [rows, size], logits |
    | `labels` | float32 [rows, size], 0 or 1 | [rows, size], logits |
    | `numbers` | float32 [rows, size], in deviations from train's mean | [rows, size], the same |
    | `tokens` | int64 [rows, tokens], -100 where none counts | [rows, tokens, size], logits |
    """

    @property
    def kind(self) -> str:
        """`classes`, `labels`, `numbers` or `tokens`."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Names of classes or labels in the order of the scores; of the numbers' columns; empty for tokens."""
        ...

    @property
    def size(self) -> int:
        """Length of the scores' last dimension."""
        ...

    def encode(self, targets: npt.NDArray[Any]) -> Tensor:
        """A chunk of the target column as a tensor. Raises ValueError that names the row, from 1 within the chunk."""
        ...

    def to_json(self) -> dict[str, Any]:
        """The documented JSON, for `outputs.json`."""
        ...
