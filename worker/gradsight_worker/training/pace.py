"""How fast the steps go, by the host's clock: what tells a starved or stalled run."""

from collections import deque
from collections.abc import Callable
from statistics import median

from gradsight_insight.signals import Timing

_BATCHES = 8
"""Newest batches of steps that say how fast the steps go."""


class Pace:
    """Times steps. Where they run behind the host's back, the host waits for them now and then, and that evens out.

    Args:
        waited: Seconds that the attempt has waited for rows so far.
    """

    def __init__(self, waited: Callable[[], float]) -> None:
        self._waited = waited
        self._last: float | None = None
        self._seconds = self._longest = 0.0
        self._batches: deque[tuple[float, float]] = deque(maxlen=_BATCHES)
        """Mean and longest step of each."""

    def step_ended(self, now: float) -> None:
        """A step was issued."""
        if self._last is not None:
            seconds = now - self._last
            self._seconds += seconds
            self._longest = max(self._longest, seconds)
        self._last = now

    def resume(self, now: float) -> None:
        """What happened until now was no training."""
        self._last = now

    def timing(self, steps: int, attempt_seconds: float) -> Timing:
        """A batch of so many steps has arrived; how fast the newest ones were.

        `attempt_seconds` is the time that the attempt has trained.
        """
        if steps and self._seconds:
            self._batches.append((self._seconds / steps, self._longest))
            self._seconds = self._longest = 0.0
        if not self._batches:
            return Timing()
        return Timing(
            step_seconds=median(mean for mean, _ in self._batches),
            longest_step_seconds=max(longest for _, longest in self._batches),
            data_wait_ratio=min(1.0, self._waited() / max(attempt_seconds, 1e-9)),
        )
