"""Units that are 0 for every held-out row: dead ones, whose weights get no gradient any more."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gradsight_models import kind_of
from gradsight_worker.training.tapping import LayerTap

ENOUGH_ROWS = 256
FEWEST_ROWS = 100
"""Fewer rows would call units dead that only wait for a rare one."""
_DEAD = 1e-5
_CAN_DIE = frozenset({"relu", "relu6"})
_CHANNELS_FIRST = ("Conv", "BatchNorm", "GroupNorm", "InstanceNorm")


class UnitWatch:
    """Largest output of every unit over the first rows of an evaluation.

    Only plain hooks, no function mode: before or after its activation, a unit of ReLU is dead exactly when none of its
    outputs is above 0. Which layers have one is known from the probes' tap.
    """

    def __init__(self, tap: LayerTap) -> None:
        self._tap = tap
        self._channels_first = [_has_channels_first(owner) for owner in tap.owners]
        self._largest: dict[int, Tensor] = {}
        self._rows = 0

    def attach(self) -> None:
        """An evaluation begins."""
        self._largest, self._rows = {}, 0
        if _CAN_DIE.intersection(filter(None, self._tap.activations)):
            self._tap.attach(self, functions=False)

    def answered(self, rows: int) -> None:
        """A block of so many rows was answered; enough of them end the watch."""
        self._rows += rows
        if self._rows >= ENOUGH_ROWS:
            self._tap.detach()

    def detach(self) -> None:
        """The evaluation ended, or failed."""
        self._tap.detach()

    def see(self, layer: int, call: int, output: Tensor, activation: str | None) -> None:
        """As `Sink.see`."""
        if activation not in _CAN_DIE or output.ndim < 2:
            return
        unit = 1 if self._channels_first[layer] else output.ndim - 1
        largest = output.amax(dim=[dim for dim in range(output.ndim) if dim != unit])
        before = self._largest.get(layer)
        self._largest[layer] = largest if before is None else torch.maximum(before, largest)

    def see_attention(
        self, query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scale: float
    ) -> None:
        """As `Sink.see_attention`; no units."""

    def dead_ratios(self) -> Sequence[float]:
        """Share of each layer's units that were never above 0; NaN for layers that cannot die; empty for few rows."""
        if not self._largest or self._rows < FEWEST_ROWS:
            return ()
        shares = torch.stack([(largest <= _DEAD).double().mean() for largest in self._largest.values()])
        found = dict(zip(self._largest, shares.tolist(), strict=True))
        return [found.get(layer, torch.nan) for layer in range(len(self._tap.owners))]


def _has_channels_first(module: nn.Module) -> bool:
    return kind_of(module).startswith(_CHANNELS_FIRST)
