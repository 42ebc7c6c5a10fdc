"""What every preprocessing offers: columns in, tensors out, JSON both ways."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch


class Preprocessing(Protocol):
    """Fitted on training rows only; saved with the result, so that prediction sees what training saw."""

    @property
    def kind(self) -> str:
        """`numeric` or `text`."""
        ...

    def encode(self, columns: Sequence[Sequence[Any]]) -> tuple[torch.Tensor, ...]:
        """One sequence of values per input column to the model's input tensors, rows first."""
        ...

    def to_json(self) -> dict[str, Any]:
        """The documented JSON."""
        ...
