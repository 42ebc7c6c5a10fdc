"""Figures as people read them: short numbers, percentages, sizes, times, sparklines."""

import datetime
import itertools
import math
from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"
_BROKEN = "×"
_LARGEST = 1e300


def number(value: float | None) -> str:
    """Returns four significant digits: `0.4123`, `1.2e-05`, `–` for nothing."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if value == 0:
        return "0"
    return f"{value:.4g}" if 1e-4 <= abs(value) < 1e5 else f"{value:.2e}"


def count(value: float) -> str:
    """Returns a count with a unit where it is large: `950`, `12.4k`, `3.1M`."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.1f}{unit}"
    return f"{value:,.0f}"


def percent(ratio: float | None) -> str:
    """Returns a ratio as a percentage: `9.1 %`."""
    return "–" if ratio is None else f"{ratio * 100:.1f} %"


def points(ratio: float) -> str:
    """Returns a difference of ratios in percentage points: `−4.9`."""
    text = f"{ratio * 100:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def nonfinite(steps: int) -> str:
    """Returns how many steps were not finite, as half a sentence."""
    return "1 step was not finite" if steps == 1 else f"{steps:,} steps were not finite"


def size(count_bytes: int) -> str:
    """Returns a size: `512 B`, `4.2 MB`."""
    value = float(count_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("the loop returns")


def span(value: float | datetime.timedelta) -> str:
    """Returns a span of time in two units at most: `42s`, `1m12s`, `3h05m`."""
    seconds = value.total_seconds() if isinstance(value, datetime.timedelta) else value
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"


def clock(time: datetime.datetime | None) -> str:
    """Returns the local time of day."""
    return time.astimezone().strftime("%H:%M:%S") if time else "--:--:--"


def date(time: datetime.datetime | None) -> str:
    """Returns the local date and time to the minute."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M") if time else "–"


def sparkline(values: Sequence[float], width: int, *, logarithmic: bool = False) -> str:
    """Returns a curve in at most `width` characters; a stretch with a non-finite value shows as `×`.

    `logarithmic` is for norms, which differ by factors.
    """
    return sparklines([(values, width)], logarithmic=logarithmic)[0]


def sparklines(curves: Sequence[tuple[Sequence[float], int]], *, logarithmic: bool = False) -> list[str]:
    """Returns curves on one scale, each in at most its own width."""
    drawn = [_bucket_means(values, width, logarithmic) for values, width in curves]
    finite = [mean for means in drawn for mean in means if math.isfinite(mean)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    # A flat curve is drawn flat: without this, noise of a millionth would fill the whole height.
    height = max(high - low, 1e-6 * max(abs(low), abs(high)), 1e-12)
    return ["".join(_bar_at((mean - low) / height) for mean in means) for means in drawn]


def _bucket_means(values: Sequence[float], width: int, logarithmic: bool) -> list[float]:
    buckets = min(width, len(values))
    edges = [round(index * len(values) / buckets) for index in range(buckets + 1)] if buckets else []
    means = [_mean(values[start:end]) for start, end in itertools.pairwise(edges)]
    if logarithmic:
        means = [math.log10(max(mean, 1e-30)) if math.isfinite(mean) else mean for mean in means]
    # A run that diverges reaches numbers whose differences overflow.
    return [max(-_LARGEST, min(_LARGEST, mean)) if math.isfinite(mean) else mean for mean in means]


def _bar_at(height: float) -> str:
    return _BARS[min(7, int(height * 8))] if math.isfinite(height) else _BROKEN


def bar(value: float, largest: float, width: int) -> str:
    """Returns a bar of at most `width` characters, in eighths of a character."""
    if not (math.isfinite(value) and largest > 0 and value > 0):
        return ""
    eighths = max(1, round(min(value / largest, 1) * width * 8))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
