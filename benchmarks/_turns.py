"""What a loop's turn is, by which clock it is measured, and the process that it is taken in."""

import gc
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, Generic, TypeVar

Answer = TypeVar("Answer")
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


class LoopProcess(Generic[Answer]):
    """One loop in a process of its own, for as many turns as are wanted. A context manager.

    `set_up` is called there, with the arguments, and answers with the loop's turn: a `Turn`, or something else that
    takes a number.
    """

    def __init__(self, set_up: Callable[..., Callable[[int], Answer]], *arguments: object) -> None:
        self._pool = ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=partial(_begin, set_up, *arguments),
        )

    def take(self, count: int) -> Answer:
        """Let it take so many steps, or what its turn counts; what the turn says of them."""
        answer: Answer = self._pool.submit(_take, count).result()
        return answer

    def __enter__(self) -> "LoopProcess[Answer]":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


_turns: list[Callable[[int], Any]] = []


def _begin(set_up: Callable[..., Callable[[int], Any]], *arguments: object) -> None:
    _turns.append(set_up(*arguments))
    # As the worker does before it forks a trainer; here for every loop.
    gc.collect()
    gc.freeze()


def _take(count: int) -> Any:
    return _turns[0](count)
