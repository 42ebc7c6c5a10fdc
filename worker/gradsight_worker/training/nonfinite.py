"""Steps whose loss or gradient is not finite: they change nothing, and too many of them end the run."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gradsight_worker.training.errors import TrainingFailed

MOST_IN_A_ROW = 10
MOST_SHARE = 0.03
"""Of the steps taken so far."""
FEWEST = 20
"""Fewer than these are never a share worth failing for."""
SMALLEST_SCALE = 1.0
"""Of a float16 loss: below it the scale no longer helps small gradients, it hides large ones."""


class BufferGuard:
    """Puts a model's buffers back: BatchNorm has learnt from a batch before anyone knows whether the step counts."""

    def __init__(self, buffers: Sequence[Tensor]) -> None:
        self._buffers = buffers
        self._before = [torch.empty_like(buffer) for buffer in buffers]

    def remember(self) -> None:
        """The step begins."""
        for before, buffer in zip(self._before, self._buffers, strict=True):
            before.copy_(buffer)

    def put_back(self) -> None:
        """The step begins anew."""
        for before, buffer in zip(self._before, self._buffers, strict=True):
            buffer.copy_(before)

    def put_back_where(self, nonfinite: Tensor) -> None:
        """The step ends; it must leave no trace where `nonfinite` (scalar, 0.0 or 1.0) is 1."""
        for before, buffer in zip(self._before, self._buffers, strict=True):
            torch.where(nonfinite.bool(), before, buffer, out=buffer)


class NonfiniteWatch:
    """Counts the steps whose loss or gradient was not finite.

    Steps that only search for the scale of a float16 loss are none of them, as long as there is a scale to be found.
    """

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

    def judge_scale(self, step: int, scale: float) -> None:
        """The gradient of this step overflowed although its loss was multiplied by no more than `scale`.

        Raises TrainingFailed when that was no search any more.
        """
        if scale < SMALLEST_SCALE:
            raise TrainingFailed.by_nonfinite_loss(
                f"The gradient of step {step} overflows float16 at any scale of the loss. These steps changed nothing. "
                f"Set compute.precision to bfloat16, which has the range of float32, or to float32."
            )

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
