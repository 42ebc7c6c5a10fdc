"""When too many steps were not finite, the run is over: no policy and no patience mends that."""

from collections.abc import Sequence

from gradsight_worker.training.errors import TrainingFailed

MOST_IN_A_ROW = 10
MOST_SHARE = 0.03
"""Of the steps taken so far."""
FEWEST = 20
"""Fewer than these are never a share worth failing for."""


class NonfiniteWatch:
    """Counts the steps whose loss or gradient was not finite."""

    def __init__(self, *, total: int = 0, in_a_row: int = 0) -> None:
        self.total = total
        self.in_a_row = in_a_row

    def add(self, first_step: int, count: int, indices: Sequence[int]) -> None:
        """Of `count` steps from `first_step` on, those at `indices` were not finite. Raises TrainingFailed."""
        previous = -1
        for index in indices:
            self.in_a_row = self.in_a_row + 1 if index == previous + 1 else 1
            self.total += 1
            previous = index
            self._judge(first_step + index)
        if previous != count - 1:
            self.in_a_row = 0

    def _judge(self, step: int) -> None:
        advice = (
            "These steps changed nothing. Lower the learning rate, lengthen the warm-up, clip gradients, or look for "
            "extreme values in the rows."
        )
        if self.in_a_row >= MOST_IN_A_ROW:
            raise TrainingFailed.by_nonfinite_loss(
                f"Loss or gradient was not finite in {self.in_a_row} steps in a row, up to step {step}. {advice}"
            )
        if self.total >= FEWEST and self.total > MOST_SHARE * step:
            raise TrainingFailed.by_nonfinite_loss(
                f"Loss or gradient was not finite in {self.total} of {step} steps; allowed are "
                f"{MOST_SHARE:.0%}. {advice}"
            )
