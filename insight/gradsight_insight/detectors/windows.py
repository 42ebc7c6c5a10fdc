"""What detectors share: the newest window of probes, medians by layer, and numbers as people read them."""

import math
from collections.abc import Sequence

import numpy as np

from gradsight_insight.findings import WINDOW_PROBES
from gradsight_insight.kinds import Number
from gradsight_insight.rings import newest
from gradsight_insight.signals import Floats, LayerFacts, Probes, Signals
from gradsight_insight.statistics import gain_ratio

FULL_WINDOW = WINDOW_PROBES
READABLE_WINDOW = 8
"""Probes from which a window says something."""
EARLY_WINDOW = 5
"""Probes from which something that is far out of line is called so."""
SATURATED = 0.5
"""Share of a layer's outputs in the flat part of its activation, from which the layer is saturated as a whole."""


def window(signals: Signals, probes: int = FULL_WINDOW) -> Probes:
    """The newest probes, at most so many."""
    return newest(signals.probes, probes)


def span(probes: Probes) -> tuple[int, int]:
    """First and last step of the probes; 0 when there are none."""
    return (int(probes.step[0]), int(probes.step[-1])) if len(probes) else (0, 0)


def medians(by_layer: Floats) -> Floats:
    """Median of each layer's finite values, shape (layers,); NaN where a layer has none.

    Args:
        by_layer: Shape (probes, layers).
    """
    kept = np.isfinite(by_layer)
    counts = kept.sum(axis=0)
    if not by_layer.size:
        return np.full(by_layer.shape[1], np.nan)
    ordered = np.sort(np.where(kept, by_layer, np.inf), axis=0)
    columns = np.arange(by_layer.shape[1])
    low = ordered[np.maximum(0, (counts - 1) // 2), columns]
    high = ordered[np.minimum(np.maximum(0, counts // 2), len(ordered) - 1), columns]
    middle: Floats = np.where(counts > 0, (low + high) / 2, np.nan)
    return middle


def window_gain_ratio(probes: Probes) -> float:
    """Gain ratio of these probes, pooled; NaN where it cannot be read."""
    return gain_ratio(probes.predicted_decrease, probes.actual_decrease, probes.loss)


def newest_loss(signals: Signals) -> float:
    """Mean training loss of the newest block with a finite step; NaN before the first."""
    finite = signals.block_loss[np.isfinite(signals.block_loss)]
    return float(finite[-1]) if len(finite) else math.nan


def is_kind(layer: LayerFacts, *words: str) -> bool:
    """Whether the layer's kind contains one of the words, whatever their case."""
    kind = layer.kind.lower()
    return any(word in kind for word in words)


def number(
    name: str, observed: float, probes: Probes, *, threshold: float | None = None, unit: str = ""
) -> Number:
    """A number observed over these probes."""
    first, last = span(probes)
    return Number(
        name=name, observed=float(observed), threshold=threshold, unit=unit, first_step=first, last_step=last
    )


def plain(value: float) -> str:
    """A number as people read it: three digits, powers of ten only when it is very large or small."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    mantissa, power = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(power)}"


def percent(share: float) -> str:
    """A share in %, without decimals that nobody needs."""
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0 else f"{100 * share:.2g} %"


def and_others(names: Sequence[str]) -> str:
    """` (also: a, b and 3 more)` for all names but the first; empty when there is only one."""
    others = list(names[1:])
    if not others:
        return ""
    shown = ", ".join(f"`{name}`" for name in others[:4])
    return f" (also: {shown}{f' and {len(others) - 4} more' if len(others) > 4 else ''})"
