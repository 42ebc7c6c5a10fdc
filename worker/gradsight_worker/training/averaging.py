"""A moving average of the weights: what a run learnt, without the noise of its last steps."""

from collections.abc import Mapping

import torch
from torch import Tensor

from gradsight_worker.training.parameters import FlatParameters

_WARM_STEPS = 10
"""How slowly the average opens up: at step n it looks back over no more than about n / 9 steps."""


class AveragedWeights:
    """Follows the weights, and BatchNorm's statistics with them, step by step.

    Early weights are far from good ones, so the average begins with a short memory, min(decay, (1 + n) / (10 + n)) at
    step n, rather than with a correction afterwards: it is then usable at any step. Statistics are averaged at the same
    pace, because those of the newest weights do not fit averaged ones; counters are copied.
    """

    def __init__(self, parameters: FlatParameters, decay: float) -> None:
        self._parameters = parameters
        self._decay = decay
        # Adding 0 takes the sign off a zero; without, an update by nothing could change that one bit.
        self.values = parameters.values + 0.0
        self.buffers = tuple(buffer.clone() for buffer in parameters.buffers)
        self._one = torch.ones((), device=self.values.device)

    @property
    def state(self) -> Mapping[str, Tensor]:
        """What a resume needs, by name."""
        return {"values": self.values} | {f"buffers.{n}": buffer for n, buffer in enumerate(self.buffers)}

    def update(self, step: int, nonfinite: Tensor) -> None:
        """Take in the weights after this step; nothing where `nonfinite` (scalar, 0.0 or 1.0) is 1."""
        decay = min(self._decay, (1 + step) / (_WARM_STEPS + step))
        share = torch.sub(self._one, nonfinite).mul_(1 - decay)
        torch.lerp(self.values, self._parameters.values, share, out=self.values)
        for average, buffer in zip(self.buffers, self._parameters.buffers, strict=True):
            if average.is_floating_point():
                # A constant may be infinite, a mask say, and infinity less infinity is not a number.
                moved = torch.lerp(average, buffer, share)
                torch.where(average == buffer, average, moved, out=average)
            else:
                average.copy_(buffer)

    def swap(self) -> None:
        """Exchange the weights and the average, in place; once more puts them back."""
        mine = (self.values, *self.buffers)
        theirs = (self._parameters.values, *self._parameters.buffers)
        for average, current in zip(mine, theirs, strict=True):
            kept = average.clone()
            average.copy_(current)
            current.copy_(kept)
