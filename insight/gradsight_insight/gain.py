"""Gain ratio: how much of what the updates promised did they bring?

On a probe step the gradient promises a decrease of the batch's loss, −⟨g, Δw⟩, and the same batch measured after the
update shows the actual one. One probe says little and its quotient explodes when the promise is near zero; over a
window, the ratio of the sums is 1 for tiny steps, about 0.5 for steps that land on the minimum along the update, 0
for steps that overshoot to the same height, and negative when the loss went up.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self


@dataclass(frozen=True, kw_only=True)
class GainSettings:
    """What a window is."""

    window: int = 20
    """Probes in a full window, at least `least`."""
    least: int = 8
    """Probes from which a window is read, at least 1."""
    resolution: float = 1e-6
    """Smallest sum of promises that can be measured, as a share of the sum of losses; 1e-2 for a bfloat16 forward."""

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.window:
            raise ValueError(
                f"window of {self.window}, read from {self.least} probes; allowed: 1 ≤ least ≤ window"
            )
        if not 0 < self.resolution < 1:
            raise ValueError(f"resolution: got {self.resolution!r}, allowed: between 0 and 1")


class GainReading(NamedTuple):
    """A window of probes, as it stands."""

    first_step: int
    """Step of the oldest probe in the window; 0 while there is none."""
    probes: int
    """Probes in the window."""
    predicted: float
    """Sum of the promised decreases; at most 0 when the updates go against the gradient."""
    actual: float
    """Sum of the actual decreases."""
    ratio: float | None
    """`actual` over `predicted`; None while the window is too short, or when the promise is too small to measure or
    none at all."""


def pooled_ratio(predicted: float, actual: float, losses: float, resolution: float) -> float | None:
    """The ratio of a window's sums; None when the promise is none, or too small to measure.

    Args:
        predicted: Sum of the promised decreases.
        actual: Sum of the actual ones.
        losses: Sum of the losses' magnitudes.
        resolution: As in GainSettings.
    """
    return actual / predicted if predicted > 0 and predicted >= resolution * losses else None


class _Probe(NamedTuple):
    step: int
    predicted: float
    actual: float
    loss: float


_DEFAULT_SETTINGS = GainSettings()


class GainWindow:
    """The newest probes of a run. Its state travels in the training state, so a resumed run reads on unbroken."""

    def __init__(self, settings: GainSettings = _DEFAULT_SETTINGS) -> None:
        self._settings = settings
        self._probes: deque[_Probe] = deque(maxlen=settings.window)

    def add(
        self, step: int, *, predicted_decrease: float, actual_decrease: float, loss: float
    ) -> GainReading:
        """Take in the probe of one step and read the window that ends with it.

        A probe with a number that is not finite is left out: such a step changed nothing.

        Args:
            step: Number of the step, above those before.
            predicted_decrease: −⟨g, Δw⟩, in the loss's unit.
            actual_decrease: Loss of the batch before the update less the loss after it, same randomness.
            loss: Loss of the batch before the update.
        """
        probe = _Probe(step, predicted_decrease, actual_decrease, loss)
        if all(map(math.isfinite, probe)):
            self._probes.append(probe)
        return self.read()

    def read(self) -> GainReading:
        """The window as it stands."""
        predicted = math.fsum(probe.predicted for probe in self._probes)
        actual = math.fsum(probe.actual for probe in self._probes)
        losses = math.fsum(abs(probe.loss) for probe in self._probes)
        readable = len(self._probes) >= self._settings.least
        return GainReading(
            first_step=self._probes[0].step if self._probes else 0,
            probes=len(self._probes),
            predicted=predicted,
            actual=actual,
            ratio=pooled_ratio(predicted, actual, losses, self._settings.resolution) if readable else None,
        )

    def state(self) -> list[list[float]]:
        """The probes as plain JSON values, exact."""
        return [list(probe) for probe in self._probes]

    @classmethod
    def from_state(cls, state: Sequence[Sequence[Any]], settings: GainSettings = _DEFAULT_SETTINGS) -> Self:
        """A window with the probes of `state()`.

        Raises:
            ValueError: The state is not one that `state()` gave.
        """
        window = cls(settings)
        for fields in state:
            if len(fields) != len(_Probe._fields):
                raise ValueError(
                    f"state of a gain window: got {list(fields)!r}, allowed: {', '.join(_Probe._fields)}"
                )
            step, predicted, actual, loss = fields
            window._probes.append(_Probe(int(step), float(predicted), float(actual), float(loss)))
        return window
