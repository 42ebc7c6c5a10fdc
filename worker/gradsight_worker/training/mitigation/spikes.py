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
_REFRESH = 8
"""Steps between two looks at what is ordinary."""
_LOSS, _NORM = 0, 1


class SpikeGuard:
    """Decides of every step whether it is a spike. Everything it remembers is on the device.

    Args:
        device: Where the steps are computed.
        prior_loss: Training loss of answering without a model.
    """

    def __init__(self, device: torch.device, *, prior_loss: float) -> None:
        # One, loss and norm of the newest steps; 0 throughout where a step did not count.
        self._ring = torch.zeros(3, STEPS, device=device)
        self._columns = self._ring.unbind(dim=1)
        self._floor = torch.zeros(2, dtype=torch.float64, device=device)
        """Smallest jump of loss and norm that is a spike."""
        self._limit = torch.full((3,), torch.inf, device=device)
        """Of the one, which never is above it, of loss and norm; above is a spike."""
        self._in_a_row = torch.zeros((), device=device)
        self._one = torch.ones((), device=device)
        self._values = torch.zeros(3, device=device)
        self._prior_loss = prior_loss
        self.steps = 0
        """Steps judged since the beginning, or since it began anew; a resume sets it."""

    @property
    def state(self) -> Mapping[str, Tensor]:
        """What a resume needs on the device, by name."""
        return {
            "ring": self._ring,
            "floor": self._floor,
            "limit": self._limit,
            "in_a_row": self._in_a_row,
        }

    def begin_anew(self) -> None:
        """Forget all: a repair has changed what is ordinary."""
        self._ring.zero_()
        self._limit.fill_(torch.inf)
        self._in_a_row.zero_()
        self.steps = 0

    def judge(self, loss: Tensor, norm: Tensor, nonfinite: Tensor, spike: Tensor) -> None:
        """Write 1.0 to `spike` where this step must change nothing, else 0.0. All are scalars on the device.

        Only steps that count are remembered: neither spikes nor steps that are not finite.
        """
        values = torch.stack((self._one, loss, norm), out=self._values)
        jumps = torch.gt(values, self._limit).any()
        # A step that is not finite is none of ours, and neither is one after too many spikes in a row.
        spike.copy_(jumps & (torch.add(self._in_a_row, nonfinite, alpha=MOST_IN_A_ROW) < MOST_IN_A_ROW))
        self._in_a_row.add_(self._one).mul_(spike)
        counts = torch.sub(self._one, torch.maximum(nonfinite, spike))
        # NaN times 0 is NaN: it has to go first.
        remembered = values.nan_to_num_(0.0, 0.0, 0.0).mul_(counts)
        self._columns[self.steps % STEPS].copy_(remembered)
        self.steps += 1
        if self.steps <= STEPS:
            self._set_floor(remembered[1:].double())
        if self.steps % _REFRESH == 0 and self.steps >= FEWEST:
            self._set_limit()

    def _set_floor(self, values: Tensor) -> None:
        """The first steps say what is large: the first loss, and the mean norm of the first full ring."""
        if self.steps == 1:
            self._floor[_LOSS] = LOSS_FLOOR * values[_LOSS].clamp(min=self._prior_loss)
        self._floor[_NORM] += (NORM_FLOOR * values[_NORM] - self._floor[_NORM]) / self.steps

    def _set_limit(self) -> None:
        counted, numbers = self._ring[0].double(), self._ring[1:].double()
        count = counted.sum()
        mean = numbers.sum(dim=1) / count
        spread = ((numbers - mean[:, None] * counted).square().sum(dim=1) / count).sqrt_()
        self._limit[1:] = mean + torch.maximum(spread * DEVIATIONS, self._floor)
