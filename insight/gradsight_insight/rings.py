"""What a monitor remembers of a run: the newest steps and probes, and the loss of the whole run in blocks."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from gradsight_insight.json_values import packed_array, unpacked_array
from gradsight_insight.signals import Floats, Probes, State, Steps

MOST_STEPS = 1024
MOST_PROBES = 64
MOST_BLOCKS = 256
SMALLEST_BLOCK = 10
"""Steps: a mean of fewer says more about its batches than about the model."""

Columns = TypeVar("Columns", Steps, Probes)


def no_steps() -> Steps:
    """Columns of length 0."""
    types = {"step": np.int64, "nonfinite": np.bool_, "skipped": np.bool_}
    return Steps(**{column.name: np.zeros(0, types.get(column.name, np.float64)) for column in fields(Steps)})


def no_probes(layers: int) -> Probes:
    """Columns of length 0 for so many layers."""
    empty: dict[str, Any] = {column.name: np.zeros((0, layers)) for column in fields(Probes)}
    empty |= {name: np.zeros(0) for name in _OF_THE_RUN}
    return Probes(**{**empty, "step": np.zeros(0, np.int64)})


_OF_THE_RUN = (
    "step", "loss", "predicted_decrease", "actual_decrease", "learning_rate", "gradient_noise_scale",
    "attention_logit_max",
)  # fmt: skip


def appended(kept: Columns, new: Columns, most: int) -> Columns:
    """The newest `most` rows of both, oldest first."""
    kind = type(kept)
    columns = {
        column.name: np.concatenate((getattr(kept, column.name), getattr(new, column.name)))[-most:]
        for column in fields(kind)
    }
    return kind(**columns)


def newest(columns: Columns, count: int) -> Columns:
    """The last `count` rows at most."""
    kind, first = type(columns), max(0, len(columns) - count)
    return kind(**{column.name: getattr(columns, column.name)[first:] for column in fields(kind)})


class LossBlocks:
    """Mean training loss of equally long stretches of the whole run: curves for trend tests, never more than 256.

    When there is no room for another block, each two neighbours become one, and new blocks are twice as long.
    """

    def __init__(self) -> None:
        self.length = SMALLEST_BLOCK
        self._last_step = np.zeros(0, np.int64)
        self._sum = np.zeros(0)
        self._count = np.zeros(0)
        self._open: list[tuple[int, float, float]] = []
        """Of the unfinished block: last step, sum and number of its finite losses, by flush."""
        self._open_steps = 0

    def add(self, steps: Steps) -> None:
        """Take in consecutive steps. Those that changed nothing say nothing about the model."""
        step = steps.step
        loss = np.where(steps.nonfinite | steps.skipped, np.nan, steps.loss)
        place = 0
        while place < len(step):
            end = min(len(step), place + self.length - self._open_steps)
            finite = np.isfinite(loss[place:end])
            total = float(loss[place:end][finite].sum())
            self._open.append((int(step[end - 1]), total, float(finite.sum())))
            self._open_steps += end - place
            place = end
            if self._open_steps >= self.length:
                self._close()

    def _close(self) -> None:
        self._last_step = np.append(self._last_step, self._open[-1][0])
        self._sum = np.append(self._sum, sum(part[1] for part in self._open))
        self._count = np.append(self._count, sum(part[2] for part in self._open))
        self._open, self._open_steps = [], 0
        if len(self._sum) == MOST_BLOCKS:
            self._last_step = self._last_step[1::2]
            self._sum = self._sum[::2] + self._sum[1::2]
            self._count = self._count[::2] + self._count[1::2]
            self.length *= 2

    @property
    def step(self) -> npt.NDArray[np.int64]:
        """Last step of each block."""
        return self._last_step

    @property
    def loss(self) -> Floats:
        """Mean of each block's finite losses; NaN where it has none."""
        means: Floats = np.divide(
            self._sum, self._count, out=np.full(len(self._sum), np.nan), where=self._count > 0
        )
        return means

    def state(self) -> State:
        """All of it as plain JSON values, exact."""
        return {
            "length": self.length,
            "last_step": packed_array(self._last_step),
            "sum": packed_array(self._sum),
            "count": packed_array(self._count),
            "open": packed_array(np.array(self._open, np.float64).reshape(-1, 3)),
            "open_steps": self._open_steps,
        }

    @classmethod
    def from_state(cls, state: State) -> "LossBlocks":
        """The blocks that gave `state`."""
        blocks = cls()
        blocks.length, blocks._open_steps = state["length"], state["open_steps"]
        blocks._last_step = unpacked_array(state["last_step"])
        blocks._sum, blocks._count = unpacked_array(state["sum"]), unpacked_array(state["count"])
        parts: Sequence[Sequence[float]] = unpacked_array(state["open"]).tolist()
        blocks._open = [(int(step), total, count) for step, total, count in parts]
        return blocks
