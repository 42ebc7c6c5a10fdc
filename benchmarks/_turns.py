"""What a loop's turn is, and by which clock it is measured."""

import time
from collections.abc import Callable

Turn = Callable[[int], float]
"""Takes so many steps; the seconds that they took."""


def clock() -> float:
    """Seconds; by the wall, unless the process was told otherwise."""
    return _clock()


def measure_processor_time() -> None:
    """From now on, seconds are those that this process computed: what others take from the cores is no part of them."""
    global _clock
    _clock = time.process_time


_clock: Callable[[], float] = time.perf_counter
