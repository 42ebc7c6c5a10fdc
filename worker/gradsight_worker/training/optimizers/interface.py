"""What every optimizer offers."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class Optimizer(Protocol):
    """Turns gradients into an update of the values."""

    @property
    def state(self) -> Mapping[str, Tensor]:
        """Everything that a resume needs, by name; written to in place."""

    def step(self, learning_rate: float, *, divisor: Tensor | None, nonfinite: Tensor) -> None:
        """Update the values in place.

        `divisor` (scalar, above 0) divides the gradients first: clipping, and the scale of a loss. `nonfinite` (scalar,
        0.0 or 1.0): 1 leaves values and state as they are. Gradients may be overwritten.
        """
