"""What saving costs a run: a state of 100 MB, saved as often as the rule allows that saving take 5 % of the time.

The loop and its saver are a job's own, here in one process; what the attempt does with a file, in a process of its own
and while training goes on, is left out. A job that says nothing saves once a minute.
"""

import statistics
import time
from typing import Any

import psutil
import torch
from _household import scratch_directory
from _our_loop import INTERVAL_S, job_loop
from _report import Figure, arguments, report
from _step_cases import Case, number_rows
from torch import nn

from gradsight_worker.training.saving import MOST_SHARE, CheckpointSaver
from gradsight_worker.training.state import TrainingState

_WIDTH = 2480
_SHORTEST_INTERVAL_S = 1
_STEPS = 4


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    case = Case(
        build=_network, rows=number_rows, batch_size=64, learning_rate=1e-4, warm_up=1, steps=1, bars={}
    )
    before = 0
    with scratch_directory() as directory:
        loop = job_loop(case, case.model(), directory, saver=_Timed, interval_s=_SHORTEST_INTERVAL_S)
        saver = loop.saver
        assert isinstance(saver, _Timed)
        end = time.perf_counter() + (25 if options.quick else 150)
        while time.perf_counter() < end or len(saver.saves) < 3:
            loop.total_steps += _STEPS
            loop.run()
            if not saver.saves:
                before = _resident_bytes()
        after = _resident_bytes()
    report("checkpoint_cost", _figures(saver, before, after), as_json=options.json)


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def _network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, 10)
    )


class _Timed(CheckpointSaver):
    """Saves by the clock alone, and remembers when and for how long."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.saves: list[tuple[float, float]] = []
        """When each began and ended."""
        self.state_bytes = 0
        self._by_the_clock = False

    def due(self, step: int, now: float) -> bool:
        """As always."""
        self._by_the_clock = super().due(step, now)
        return self._by_the_clock

    def save(self, state: TrainingState) -> None:
        """Save, but not for the end of a turn of this benchmark."""
        if not self._by_the_clock:
            return
        began = time.perf_counter()
        super().save(state)
        self.saves.append((began, time.perf_counter()))
        self.state_bytes = sum(tensor.nbytes for tensor in state.tensors().values())
        for path in self._directory.iterdir():
            path.unlink()


def _figures(saver: _Timed, before: int, after: int) -> list[Figure]:
    first, last = saver.saves[0][0], saver.saves[-1][0]
    # From the beginning of a save to the beginning of another: as many pauses as saves.
    spent = sum(end - began for began, end in saver.saves[:-1])
    one = statistics.median(end - began for began, end in saver.saves)
    return [
        Figure(name="state", value=saver.state_bytes / 1e6, unit="MB"),
        Figure(name="one save", value=1e3 * one, unit="ms"),
        Figure(name="  its speed", value=saver.state_bytes / 1e6 / one, unit="MB/s"),
        Figure(name="saves", value=len(saver.saves), unit=""),
        Figure(
            name="share of the time, as often as the rule allows",
            value=spent / (last - first),
            unit="ratio",
            bar=MOST_SHARE,
            direction="at_most",
        ),
        Figure(
            name=f"share of the time, every {INTERVAL_S} s as by default",
            value=one / INTERVAL_S,
            unit="ratio",
        ),
        Figure(name="resident set before the first save", value=before / 1e6, unit="MB"),
        Figure(name="resident set at the end", value=after / 1e6, unit="MB"),
    ]


if __name__ == "__main__":
    main()
