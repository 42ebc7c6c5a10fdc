"""The one wrapper that makes any optimizer leave everything alone in a step that is not finite."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gradsight_worker.training.optimizers.interface import Optimizer


class Guarded:
    """Lets the optimizer inside compute, and then selects old or new numbers on the device.

    The optimizer inside may ignore `nonfinite`. It may write to these values and to its state, and to nothing else.
    """

    def __init__(self, inside: Optimizer, values: Sequence[Tensor]) -> None:
        self._inside = inside
        self._written = [*values, *inside.state.values()]
        self._before = [torch.empty_like(tensor) for tensor in self._written]

    @property
    def state(self) -> Mapping[str, Tensor]:
        """That of the optimizer inside."""
        return self._inside.state

    def step(self, learning_rate: float, *, divisor: Tensor | None, nonfinite: Tensor) -> None:
        """As `Optimizer.step`."""
        torch._foreach_copy_(self._before, self._written)
        self._inside.step(learning_rate, divisor=divisor, nonfinite=nonfinite)
        changes_nothing = nonfinite.bool()
        for before, written in zip(self._before, self._written, strict=True):
            torch.where(changes_nothing, before, written, out=written)
