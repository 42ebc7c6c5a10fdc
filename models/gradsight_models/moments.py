"""Mean and deviation of columns of numbers, gathered a chunk at a time."""

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

_NEGLIGIBLE = 1e-12
"""A spread below this share of the largest magnitude is rounding: the column is constant."""


class Moments:
    """Counts, means and squared deviations of `size` columns, merged chunk by chunk in float64.

    Merging deviations from each chunk's own mean loses no digits, where a sum of squares would (Chan, Golub, LeVeque:
    Algorithms for computing the sample variance, 1983). NaN stands for a missing value.
    """

    def __init__(self, size: int) -> None:
        self.count = np.zeros(size, dtype=np.int64)
        """Values present, by column."""
        self.missing = np.zeros(size, dtype=np.int64)
        self.mean: Numbers = np.zeros(size)
        """0 for a column without values."""
        self._squares: Numbers = np.zeros(size)
        self._smallest: Numbers = np.full(size, np.inf)
        self._largest: Numbers = np.full(size, -np.inf)

    def add(self, values: npt.NDArray[np.floating]) -> None:
        """Take in some rows, [rows, size]."""
        if not len(values):
            return
        values = values.astype(np.float64, copy=False)
        present = ~np.isnan(values)
        count = present.sum(axis=0)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.where(present, values, 0.0).sum(axis=0) / np.maximum(count, 1)
            squares = np.square(np.where(present, values - mean, 0.0)).sum(axis=0)
            both = np.maximum(self.count + count, 1)
            apart = mean - self.mean
            self._squares += squares + np.square(apart) * (self.count * (count / both))
            self.mean = self.mean + apart * (count / both)
        self.count += count
        self.missing += len(values) - count
        self._smallest = np.minimum(self._smallest, np.where(present, values, np.inf).min(axis=0))
        self._largest = np.maximum(self._largest, np.where(present, values, -np.inf).max(axis=0))

    @property
    def deviation(self) -> Numbers:
        """Root of the mean squared deviation, 0 for a column that is constant or without values."""
        magnitude = np.maximum(np.abs(self._smallest), np.abs(self._largest))
        with np.errstate(over="ignore", invalid="ignore"):
            constant = (self.count == 0) | ~(self._largest - self._smallest > _NEGLIGIBLE * magnitude)
        deviation: Numbers = np.where(constant, 0.0, np.sqrt(self._squares / np.maximum(self.count, 1)))
        return deviation

    def require_finite(self, names: tuple[str, ...]) -> None:
        """Raise ValueError that names the first column whose mean or deviation overflows."""
        bad = np.flatnonzero(~(np.isfinite(self.mean) & np.isfinite(self.deviation)))
        if len(bad):
            raise ValueError(
                f"column {names[bad[0]]!r}: got numbers whose deviation overflows, allowed: magnitudes below 1e150"
            )
