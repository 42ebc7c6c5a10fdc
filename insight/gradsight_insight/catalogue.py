"""All failure modes that gradsight can find, and what finds them."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from gradsight_insight.detectors.attention import ATTENTION
from gradsight_insight.detectors.categories import CATEGORIES
from gradsight_insight.detectors.collapse import COLLAPSE
from gradsight_insight.detectors.contracts import CONTRACTS
from gradsight_insight.detectors.decay import DECAY
from gradsight_insight.detectors.depth import DEPTH
from gradsight_insight.detectors.generalization import GENERALIZATION
from gradsight_insight.detectors.initialization import INITIALIZATION
from gradsight_insight.detectors.large_steps import LARGE_STEPS
from gradsight_insight.detectors.leakage import LEAKS
from gradsight_insight.detectors.memorization import MEMORIZED
from gradsight_insight.detectors.noise import NOISE
from gradsight_insight.detectors.nonfinite import NONFINITE
from gradsight_insight.detectors.oscillation import OSCILLATIONS
from gradsight_insight.detectors.small_steps import SMALL_STEPS
from gradsight_insight.detectors.spikes import SPIKES
from gradsight_insight.detectors.stalls import STALLS
from gradsight_insight.detectors.trends import TRENDS
from gradsight_insight.detectors.units import UNITS
from gradsight_insight.kinds import Detector, FindingKind
from gradsight_insight.suspects import SUSPECT_LABELS

DETECTORS: Sequence[Detector] = (
    CONTRACTS, NONFINITE, INITIALIZATION, DECAY, UNITS, DEPTH, ATTENTION, LARGE_STEPS, SMALL_STEPS, SPIKES, NOISE,
    OSCILLATIONS, TRENDS, LEAKS, MEMORIZED, GENERALIZATION, COLLAPSE, CATEGORIES, STALLS,
)  # fmt: skip
"""In the order of `attribution.ORDER`."""

KINDS: Mapping[str, FindingKind] = MappingProxyType(
    {kind.name: kind for detector in DETECTORS for kind in detector.kinds}
    # Found once, when training is over.
    | {SUSPECT_LABELS.name: SUSPECT_LABELS}
)
"""Every kind by its name."""


def kind_named(name: str) -> FindingKind:
    """The kind of this name.

    Raises:
        ValueError: There is none; the message names the nearest.
    """
    if name in KINDS:
        return KINDS[name]
    raise ValueError(f"kind of finding {name!r}: {_nearest(name, KINDS)}")


def default_thresholds() -> dict[str, dict[str, float]]:
    """Every threshold's default, by kind and name."""
    return {
        name: {threshold: about.default for threshold, about in kind.thresholds.items()}
        for name, kind in KINDS.items()
    }


def complete_thresholds(changed: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The defaults with a job's changes.

    Raises:
        ValueError: A kind or threshold that does not exist, or a value outside its range.
    """
    thresholds = default_thresholds()
    for name, values in changed.items():
        kind = kind_named(name)
        for threshold, value in values.items():
            about = kind.thresholds.get(threshold)
            if about is None:
                raise ValueError(f"threshold {threshold!r} of {name}: {_nearest(threshold, kind.thresholds)}")
            if not about.low <= value <= about.high:
                raise ValueError(
                    f"threshold {threshold!r} of {name}: got {value!r}, allowed: {about.low:g} to {about.high:g}. "
                    + about.meaning
                )
            thresholds[name][threshold] = value
    return thresholds


def _nearest(name: str, allowed: Collection[str]) -> str:
    near = difflib.get_close_matches(name, allowed, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}allowed: {', '.join(sorted(allowed)) or 'none'}"
