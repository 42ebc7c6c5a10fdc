"""Gradient noise scale: how many rows a batch needs before its gradient is more signal than noise.

The square of a batch's gradient norm is, on average, that of the true gradient plus the noise of one row over the
batch's rows. Two batch sizes give two equations for two unknowns; both unknowns are smoothed before their quotient is
taken, because the quotient of single measurements has no mean (McCandlish et al., An empirical model of large-batch
training, arXiv 1812.06162, appendix A.1).
"""

import math
from collections.abc import Mapping
from typing import Any, Self

_MEMORY = 0.9
"""Share of the past in the averages: about ten measurements, which span a few hundred steps."""


class NoiseScaleAverage:
    """The smoothed noise scale of a run. Its state travels in the training state."""

    def __init__(
        self, *, noise: float = 0.0, signal: float = 0.0, weight: float = 0.0, waited: int = 0
    ) -> None:
        self._noise, self._signal, self._weight = noise, signal, weight
        self._waited = waited

    def due(self, *, every: int) -> bool:
        """Whether it is time for a measurement that costs something: at every so many calls."""
        self._waited = (self._waited + 1) % every
        return not self._waited

    def add(self, small_square: float, small_rows: float, square: float, rows: float) -> float:
        """Take in a measurement; the noise scale in rows, NaN while it cannot be said.

        Args:
            small_square: Square of the gradient's norm over part of a batch.
            small_rows: Rows in that part, at least 1.
            square: The same over the whole batch.
            rows: Rows in the batch, more than in the part.
        """
        if 0 < small_rows < rows and math.isfinite(small_square) and math.isfinite(square):
            noise = (small_square - square) / (1 / small_rows - 1 / rows)
            signal = (rows * square - small_rows * small_square) / (rows - small_rows)
            self._noise = _MEMORY * self._noise + (1 - _MEMORY) * noise
            self._signal = _MEMORY * self._signal + (1 - _MEMORY) * signal
            self._weight = _MEMORY * self._weight + (1 - _MEMORY)
        return self.read()

    def read(self) -> float:
        """The noise scale in rows, at least 0; NaN before the first measurement and where no signal shows."""
        if not self._weight or not self._signal > 0:
            return math.nan
        return max(0.0, self._noise) / self._signal

    def state(self) -> dict[str, float]:
        """Plain JSON values, exact."""
        return {
            "noise": self._noise,
            "signal": self._signal,
            "weight": self._weight,
            "waited": self._waited,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The average that `state()` described; an empty mapping is none yet."""
        return cls(**state)
