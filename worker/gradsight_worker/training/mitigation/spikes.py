"""Steps whose loss or gradient jumps: judged on the device, where the numbers are, and skipped without asking anyone.

After OLMo-core's optimizer that skips steps (Groeneveld et al., arXiv 2402.00838): a value more than six standard
deviations above the mean of the newest 128 is a spike. Two things are ours. A spike must also be large against what
the run began with, because near a small loss ordinary batches are many deviations apart. And no more than three steps
in a row are skipped: what goes on is no spike, it is what the data are like now.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

STEPS = 128
"""Steps that the mean and the deviation are taken over."""
FEWEST = 32
"""With fewer steps nothing is a spike yet."""
DEVIATIONS = 6.0
LOSS_FLOOR = 0.25
"""Of what no model would cost, or of the first loss, whichever is larger: a smaller jump of the loss is no spike."""
NORM_FLOOR = 3.0
"""Times the mean norm of the first steps, likewise."""
MOST_IN_A_ROW = 3
_LOSS, _NORM = 0, 1


class SpikeGuard:
    """Decides of every step whether it is a spike. Everything it remembers is on the device, float64.

    Args:
        device: Where the steps are computed.
        prior_loss: Training loss of answering without a model.
    """

    def __init__(self, device: torch.device, *, prior_loss: float) -> None:
        # Ones and values, then their squares, of steps that counted; 0 where a step did not.
        self._ring = torch.zeros(5, STEPS, dtype=torch.float64, device=device)
        self._floor = torch.zeros(2, dtype=torch.float64, device=device)
        """Smallest jump of loss and norm that is a spike; of the norm, the mean of the first steps."""
        self._in_a_row = torch.zeros((), dtype=torch.float64, device=device)
        self._values = torch.zeros(2, device=device)
        self._prior_loss = prior_loss
        self.steps = 0
        """Steps judged so far; a resume sets it."""

    @property
    def state(self) -> Mapping[str, Tensor]:
        """What a resume needs on the device, by name."""
        return {"ring": self._ring, "floor": self._floor, "in_a_row": self._in_a_row}

    def begin_anew(self) -> None:
        """Forget the newest steps: a repair has changed what is ordinary."""
        self._ring.zero_()
        self._in_a_row.zero_()

    def judge(self, loss: Tensor, norm: Tensor, nonfinite: Tensor, spike: Tensor) -> None:
        """Write 1.0 to `spike` where this step must change nothing, else 0.0. All are scalars on the device.

        Only steps that count are remembered: neither spikes nor steps that are not finite.
        """
        torch.stack((loss, norm), out=self._values)
        sums = self._ring.sum(dim=1)
        count = sums[0].clamp(min=1.0)
        mean = sums[1:3] / count
        deviation = (sums[3:5] / count - mean.square()).clamp_(min=0.0).sqrt_()
        allowed = torch.maximum(deviation * DEVIATIONS, self._floor)
        jumps = (self._values - mean > allowed).any()
        may_skip = (sums[0] >= FEWEST) & (self._in_a_row < MOST_IN_A_ROW)
        spike.copy_(jumps & may_skip & (nonfinite == 0))
        self._in_a_row.add_(1.0).mul_(spike)
        self._remember(((nonfinite == 0) & (spike == 0)).double())

    def _remember(self, counts: Tensor) -> None:
        column = self._ring[:, self.steps % STEPS]
        # NaN times 0 is NaN: what does not count must not be multiplied away.
        values = torch.where(counts.bool(), self._values, 0.0).double()
        column[0] = counts
        column[1:3] = values
        column[3:5] = values.square()
        self.steps += 1
        self._set_floor(values)

    def _set_floor(self, values: Tensor) -> None:
        """The first steps say what is large: the first loss, and the mean norm of the first full ring."""
        if self.steps == 1:
            self._floor[_LOSS] = LOSS_FLOOR * values[_LOSS].clamp(min=self._prior_loss)
        if self.steps <= STEPS:
            self._floor[_NORM] += (NORM_FLOOR * values[_NORM] - self._floor[_NORM]) / self.steps
