"""Statistics for curves and paired rows: trends, tests, intervals, Prechelt's measures, robust spread.

Pure functions of numbers. None raises on NaN, infinity or empty input: what is not finite is left out, and what cannot
be said is 0 (a test that sees nothing) or NaN (a figure that does not exist). Below zero is better wherever an old
and a new loss or error are compared.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gradsight_insight.gain import pooled_ratio
from gradsight_insight.signals import Floats

Bools = npt.NDArray[np.bool_]
SIGNIFICANT = 2.58
"""Standard errors from which a paired difference counts: 99 % of what chance does is nearer to 0."""
AUTOCORRELATED = 0.2
"""Lag-1 autocorrelation from which a trend test takes it into account."""
_NORMAL_SPREAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


def mann_kendall_z(x: npt.ArrayLike) -> float:
    """Is there a trend? z of the Mann–Kendall test: above 0 it rises, below 0 it falls, |z| > 1.64 is a trend.

    It only asks which of any two values is larger, so it is the same for every rising transformation of `x`. Values
    that follow one another are often alike, which the plain test takes for a trend: its variance is widened as Hamed
    and Rao do (doi 10.1016/S0022-1694(97)00125-X) when the lag-1 autocorrelation about the trend is above 0.2.

    Args:
        x: Values in order of time, shape (n,); what is not finite is left out.

    Returns:
        The z; 0 for fewer than 4 values, and for constant ones.
    """
    values = _scaled(finite(x))
    n = len(values)
    if n < 4:
        return 0.0
    earlier, later = _pairs(n)
    rises = int(np.sign(values[later] - values[earlier]).sum())
    _, tied = np.unique(values, return_counts=True)
    variance = (n * (n - 1) * (2 * n + 5) - (tied * (tied - 1) * (2 * tied + 5)).sum()) / 18
    if rises == 0 or not variance > 0:
        return 0.0
    rest = values - theil_sen_slope(values) * np.arange(n)
    if lag_one_autocorrelation(rest) > AUTOCORRELATED:
        variance *= _hamed_rao_factor(rest)
    return float((rises - math.copysign(1, rises)) / math.sqrt(variance))


def theil_sen_slope(x: npt.ArrayLike) -> float:
    """Median slope between any two values, per place: a line that a few wild values do not bend.

    Returns:
        The slope; NaN for fewer than 2 finite values. What is not finite is left out and takes no place.
    """
    values = finite(x)
    if len(values) < 2:
        return math.nan
    earlier, later = _pairs(len(values))
    return float(np.median((values[later] - values[earlier]) / (later - earlier)))


def lag_one_autocorrelation(x: npt.ArrayLike) -> float:
    """Correlation of each value with the next, −1 to 1; 0 for fewer than 4 values, and for constant ones."""
    values = _scaled(finite(x))
    if len(values) < 4:
        return 0.0
    centred = values - values.mean()
    power = float(centred @ centred)
    return float(centred[:-1] @ centred[1:]) / power if power > 0 else 0.0


def paired_z(old: npt.ArrayLike, new: npt.ArrayLike) -> float:
    """Are the same rows better off now? Mean of new less old over its standard error; below 0 is better.

    Args:
        old: Loss of each row before, shape (rows,).
        new: Loss of the same rows after, in the same order; a row with a loss that is not finite is left out.

    Returns:
        The z; 0 for fewer than 2 rows or no difference at all; infinite where all rows differ by the same amount.

    Raises:
        ValueError: Vectors of different lengths.
    """
    before, after = np.asarray(old, dtype=np.float64), np.asarray(new, dtype=np.float64)
    _check_paired(len(before), len(after))
    with np.errstate(invalid="ignore", over="ignore"):
        differences = after - before
    differences = _scaled(finite(differences))
    if len(differences) < 2 or not differences.any():
        return 0.0
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    mean = float(differences.mean())
    return mean / error if error > 0 else math.copysign(math.inf, mean)


def mcnemar_z(old_wrong: Bools, new_wrong: Bools) -> float:
    """Are the same rows answered better now? Newly wrong less newly right over the root of both; below 0 is better.

    Args:
        old_wrong: Whether each row was answered wrong before, shape (rows,).
        new_wrong: The same after, in the same order.

    Returns:
        The z, about standard normal when nothing changed; 0 when no row changed.

    Raises:
        ValueError: Vectors of different lengths.
    """
    _check_paired(len(old_wrong), len(new_wrong))
    newly_wrong = int(np.count_nonzero(new_wrong & ~old_wrong))
    newly_right = int(np.count_nonzero(old_wrong & ~new_wrong))
    changed = newly_wrong + newly_right
    return (newly_wrong - newly_right) / math.sqrt(changed) if changed else 0.0


class Interval(NamedTuple):
    """Bounds of a share, 0 to 1."""

    low: float
    high: float


def wilson(errors: int, n: int, z: float = 1.959963984540054) -> Interval:
    """Wilson's score interval of a share, doi 10.1080/01621459.1927.10502953.

    Unlike the textbook interval it stays within 0 to 1 and keeps its promise for few rows and for no errors.

    Args:
        errors: Rows that count, 0 to `n`.
        n: Rows.
        z: The normal quantile, 1.96 for 95 %.

    Returns:
        The interval; all of 0 to 1 when there are no rows.
    """
    if n <= 0:
        return Interval(0.0, 1.0)
    share, weight = errors / n, z * z / n
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / n + weight / (4 * n))
    return Interval(
        low=0.0 if errors <= 0 else max(0.0, middle - half),
        high=1.0 if errors >= n else min(1.0, middle + half),
    )


def generalization_loss(figures: npt.ArrayLike) -> float:
    """How far the newest held-out figure is above the best so far, in % (Prechelt's GL), at least 0.

    Args:
        figures: Held-out losses or errors in order of time, smaller is better; what is not finite is left out, unless
            it is the newest.

    Returns:
        The loss in %: infinite when the newest figure is not finite or the best is 0 and the newest is not; 0 without
        figures.
    """
    values = np.asarray(figures, dtype=np.float64)
    if not len(values):
        return 0.0
    newest = float(values[-1])
    if not math.isfinite(newest):
        return math.inf
    best = float(finite(values).min())
    if newest <= best:
        return 0.0
    return 100 * (newest - best) / abs(best) if best else math.inf


def rises_in_succession(figures: npt.ArrayLike, strip: int = 5, times: int = 4) -> bool:
    """Has the held-out figure risen from strip to strip, `times` times in a row (Prechelt's UP_s)?

    Args:
        figures: Held-out losses or errors in order of time.
        strip: Figures in a strip; the last ones of strips are compared.
        times: Rises in a row.
    """
    values = finite(figures)
    ends = values[::-1][::strip][: times + 1]
    return len(ends) == times + 1 and bool((ends[:-1] > ends[1:]).all())


def robust_spread(x: npt.ArrayLike) -> float:
    """Standard deviation as the median absolute deviation tells it: wild values do not widen it; 0 without values."""
    values = finite(x)
    return float(_NORMAL_SPREAD * np.median(np.abs(values - np.median(values)))) if len(values) else 0.0


def median(x: npt.ArrayLike) -> float:
    """Median of the finite values; NaN when there are none."""
    values = finite(x)
    return float(np.median(values)) if len(values) else math.nan


def mean(x: npt.ArrayLike) -> float:
    """Mean of the finite values; NaN when there are none."""
    values = finite(x)
    return float(values.mean()) if len(values) else math.nan


def gain_ratio(predicted: npt.ArrayLike, actual: npt.ArrayLike, loss: npt.ArrayLike) -> float:
    """Actual over predicted decrease of a window of probes, pooled; see `gain.py` for what it means.

    Args:
        predicted: −⟨g, Δw⟩ of each probe, shape (probes,).
        actual: Loss of the batch before less after the update.
        loss: Loss of the batch before the update.

    Returns:
        The ratio of the sums; NaN when the promise is none or too small to measure (1e-6 of the losses).
    """
    columns = np.stack([np.asarray(column, dtype=np.float64) for column in (predicted, actual, loss)])
    promised, brought, losses = columns[:, np.isfinite(columns).all(axis=0)]
    ratio = pooled_ratio(float(promised.sum()), float(brought.sum()), float(np.abs(losses).sum()), 1e-6)
    return math.nan if ratio is None else ratio


def finite(x: npt.ArrayLike) -> Floats:
    """The finite values, in order, flattened."""
    values: Floats = np.asarray(x, dtype=np.float64).reshape(-1)
    kept: Floats = values[np.isfinite(values)]
    return kept


@functools.lru_cache(maxsize=8)
def _pairs(n: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Places of the earlier and of the later of any two of `n` values. Building them costs more than the test."""
    earlier, later = np.triu_indices(n, 1)
    return earlier, later


def _scaled(values: Floats) -> Floats:
    """The values as shares of the largest magnitude, so that no square overflows."""
    largest = float(np.abs(values).max(initial=0.0))
    return values / largest if largest > 0 else values


def _hamed_rao_factor(rest: Floats) -> float:
    """By how much autocorrelation of what a trend leaves widens the variance of Mann–Kendall's statistic."""
    n = len(rest)
    ranks = rest.argsort().argsort().astype(np.float64)
    centred = ranks - ranks.mean()
    correlations = np.correlate(centred, centred, "full")[n:] / float(centred @ centred)
    lags = np.arange(1, n)
    # Only what differs from 0 at 95 %: the sum of the noise of all lags would be larger than what it is to measure.
    significant = np.abs(correlations) > 1.96 / math.sqrt(n)
    weights = (n - lags) * (n - lags - 1.0) * (n - lags - 2.0)
    factor = 1 + 2 / (n * (n - 1.0) * (n - 2.0)) * float((weights * correlations * significant).sum())
    return max(1.0, factor)


def _check_paired(old: int, new: int) -> None:
    if old != new:
        raise ValueError(
            f"paired test: got {old} rows before and {new} after, allowed: the same rows, in order"
        )
