"""What a probe costs: the time of a probed step beside that of the plain step before it."""

import time
from dataclasses import dataclass, field
from typing import Protocol

import torch


class Stopwatch(Protocol):
    """Times steps, and pairs each probed one with the plain one before it."""

    def begin(self) -> None:
        """A step begins."""

    def end(self, *, probed: bool) -> None:
        """The step that began was issued."""

    def pairs(self) -> list[tuple[float, float]]:
        """Seconds of plain step and probed step, for the pairs that became known since the last call."""


def stopwatch_for(device: torch.device) -> Stopwatch:
    """By the device's own clock where steps run behind the host's back, else by the host's."""
    return CudaStopwatch() if device.type == "cuda" else HostStopwatch()


@dataclass
class HostStopwatch:
    """Times probes and the plain step before each, by the host's clock."""

    _began: float = 0.0
    _plain: float | None = None
    _pairs: list[tuple[float, float]] = field(default_factory=list)

    def begin(self) -> None:
        """As `Stopwatch.begin`."""
        self._began = time.perf_counter()

    def end(self, *, probed: bool) -> None:
        """As `Stopwatch.end`."""
        seconds = time.perf_counter() - self._began
        if probed and self._plain is not None:
            self._pairs.append((self._plain, seconds))
        self._plain = None if probed else seconds

    def pairs(self) -> list[tuple[float, float]]:
        """As `Stopwatch.pairs`."""
        found, self._pairs = self._pairs, []
        return found


class CudaStopwatch:
    """The same by the device's clock; pairs come out once the device has passed them."""

    def __init__(self) -> None:
        self._began = self._event()
        self._plain: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        self._open: list[tuple[torch.cuda.Event, ...]] = []

    def begin(self) -> None:
        """As `Stopwatch.begin`."""
        self._began = self._event()
        self._began.record()

    def end(self, *, probed: bool) -> None:
        """As `Stopwatch.end`."""
        ended = self._event()
        ended.record()
        if probed and self._plain is not None:
            self._open.append((*self._plain, self._began, ended))
        self._plain = None if probed else (self._began, ended)

    def pairs(self) -> list[tuple[float, float]]:
        """As `Stopwatch.pairs`."""
        passed = [pair for pair in self._open if pair[3].query()]  # type: ignore[no-untyped-call]
        self._open = [pair for pair in self._open if pair not in passed]
        return [(a.elapsed_time(b) / 1e3, c.elapsed_time(d) / 1e3) for a, b, c, d in passed]

    @staticmethod
    def _event() -> torch.cuda.Event:
        return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
