"""Are the steps too small? FM-09 learning rate too low."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from gradsight_insight.detectors.windows import (
    FULL_WINDOW,
    READABLE_WINDOW,
    SATURATED,
    medians,
    number,
    percent,
    plain,
    window,
    window_gain_ratio,
)
from gradsight_insight.kinds import Family, FindingKind, Observation, Threshold
from gradsight_insight.signals import Probes, Signals
from gradsight_insight.statistics import finite, median, theil_sen_slope

LINEAR = 0.9
"""Gain ratio above which the loss along a step is nearly a straight line, so that a longer one is safe."""


LEARNING_RATE_TOO_LOW = FindingKind(
    code="FM-09",
    name="learning_rate_too_low",
    title="Learning rate too low",
    severity="warning",
    you_see="The loss falls, smoothly and hardly: at this pace the budget ends long before anything is learned.",
    mechanism=(
        "A step so small that the loss along it is a straight line brings exactly what the gradient promises: "
        "the gain ratio is 1. That sounds good and means the opposite: the step could be several times longer "
        "before curvature took anything away. Progress per step is the learning rate times the squared "
        "gradient, and when the first factor is 1,000 times too small, so is the progress. The model is "
        "sound; it only needs 1,000 times the steps."
    ),
    rule=(
        "Over a window of 8 to 20 probes, after warm-up, while the model has not learned: the gain ratio is above "
        "`gain_ratio`, or weights move and the promise is too small to be measured; the layers' median update is "
        "below `projected_update_ratio` of the weights; and all remaining steps together promise less than "
        "`least_promise` of the loss of guessing, or every layer's update is below `update_ratio`. With a full "
        "window also when its slope cannot bring the loss below 0.8 of guessing within the remaining steps. Where a "
        "layer is saturated, only a full window speaks."
    ),
    look_alikes=(
        "Vanishing gradients (FM-05), dead units (FM-06), frozen layers (FM-10): updates are small for "
        "another reason. They are asked first, and this finding is then their consequence.",
        "Warm-up: the learning rate is still to come.",
        "The end of a cosine schedule: the model has learned by then.",
        "A model that ignores its inputs (FM-12): its updates are of the usual size and lead nowhere.",
    ),
    actions=(
        "Multiply the learning rate by 4 until the gain ratio falls below 0.9; 0.2 to 0.65 is the best range.",
        "Run a range test: 100 steps from 1e-8 upwards, until the loss is 4 times its best.",
        "For SGD without momentum, use Adam or momentum 0.9.",
        "For Adam, look at `epsilon`: above the gradient's size it swallows the update; 1e-8 is usual.",
        "Train longer, if the learning rate is what you want.",
    ),
    gradsight_does=(
        "Under `REPAIR` it raises the learning rate every three probes for as long as the gain ratio is above 0.9: "
        "to where the largest layer's updates are a thousandth of its weights, at most a hundredfold at once, and "
        "from there by fours. It is a trial that is kept only if held-out rows are answered better. `STOP` does "
        "nothing, for the run is only slow."
    ),
    sources=(
        "Conn, Gould, Toint: Trust-region methods, 2000 (expansion where the model predicts well)",
        "Smith: Cyclical learning rates for training neural networks, arXiv 1506.01186 (range test)",
        "Karpathy: CS231n course notes, neural networks 3 (updates of about 1e-3 of the weights)",
    ),
    thresholds={
        "gain_ratio": Threshold(
            default=LINEAR,
            low=0.5,
            high=1.0,
            meaning="Share of the promised decrease from which a step is a straight line.",
        ),
        "update_ratio": Threshold(
            default=1e-5,
            low=0.0,
            high=1e-2,
            meaning="Size of an update over the weights' size, below which no layer moves.",
        ),
        "projected_update_ratio": Threshold(
            default=3e-4,
            low=0.0,
            high=1e-1,
            meaning="Median of the same, below which the pace is projected to the budget's end.",
        ),
        "least_promise": Threshold(
            default=0.05,
            low=0.0,
            high=1.0,
            meaning="Share of the loss of guessing that all steps to come must promise at the present pace.",
        ),
    },
    repairs=("scale_learning_rate",),
)


def steps_are_small(probes: Probes, linear: float = LINEAR) -> bool:
    """Whether every step does what it promises, or moves the weights and promises too little to be measured."""
    gain = window_gain_ratio(probes)
    if not math.isnan(gain):
        return gain > linear
    promised, moved = finite(probes.predicted_decrease), finite(medians(probes.update_ratio))
    return len(promised) == len(probes) > 0 and float(promised.sum()) >= 0 and median(moved) > 0


def _too_low(signals: Signals, limits: Mapping[str, float]) -> list[Observation]:
    probes = window(signals)
    enough = FULL_WINDOW if _is_saturated(probes) else READABLE_WINDOW
    if signals.learned or len(probes) < enough or signals.step <= signals.facts.warm_up_steps:
        return []
    by_layer = finite(medians(probes.update_ratio))
    if not len(by_layer) or not steps_are_small(probes, limits["gain_ratio"]):
        return []
    typical, largest = median(by_layer), float(by_layer.max())
    if not typical < limits["projected_update_ratio"]:
        return []
    promise, projected = _promise(signals, probes), _projected_loss(signals)
    slow = len(probes) >= FULL_WINDOW and projected > 0.8 * signals.facts.prior_loss
    if not (largest < limits["update_ratio"] or promise < limits["least_promise"] or slow):
        return []
    gain, seen = window_gain_ratio(probes), partial(number, probes=probes)
    evidence = [
        seen("update_ratio", typical, threshold=limits["projected_update_ratio"]),
        seen("promised_share", promise, threshold=limits["least_promise"]),
        seen("learning_rate", probes.learning_rate[-1]),
    ]
    if math.isfinite(gain):
        evidence.insert(0, seen("gain_ratio", gain, threshold=limits["gain_ratio"]))
    if math.isfinite(projected):
        evidence.append(seen("projected_loss", projected, threshold=0.8 * signals.facts.prior_loss))
    return [
        Observation(
            kind=LEARNING_RATE_TOO_LOW.name,
            first_step=int(probes.step[0]),
            last_step=int(probes.step[-1]),
            evidence=tuple(evidence),
            confidence=0.85,
            explanation=f"{_kept(gain)} At a learning rate of {plain(float(probes.learning_rate[-1]))} a step "
            f"changes the weights by only {plain(typical)} of their size. At this pace all remaining steps together "
            f"promise {percent(promise)} of what guessing costs.",
        )
    ]


def _is_saturated(probes: Probes) -> bool:
    """Whether most of a layer's outputs lie where the activation is flat: then steps are small for that reason."""
    return bool(np.nan_to_num(medians(probes.saturated_ratio)).max(initial=0.0) > SATURATED)


def _kept(gain: float) -> str:
    if math.isnan(gain):
        return "The updates promise so little that it cannot be measured on the loss."
    return (
        f"The updates brought {percent(gain)} of what their gradients promised, so each could be several times "
        "longer."
    )


def _promise(signals: Signals, probes: Probes) -> float:
    """What all remaining steps promise together if each promises as much as the median of these, over guessing."""
    remaining = max(0, signals.facts.total_steps - signals.step)
    each = median(finite(probes.predicted_decrease))
    return float(each * remaining / max(signals.facts.prior_loss, 1e-12))


def _projected_loss(signals: Signals) -> float:
    """Training loss at the end of the budget, if it goes on as in the newest blocks; NaN before there are any."""
    recent = np.isfinite(signals.block_loss[-FULL_WINDOW:])
    loss, step = signals.block_loss[-FULL_WINDOW:][recent], signals.block_step[-FULL_WINDOW:][recent]
    if len(loss) < 3:
        return math.nan
    per_step = theil_sen_slope(loss) * (len(loss) - 1) / max(1, int(step[-1] - step[0]))
    remaining = max(0, signals.facts.total_steps - signals.step)
    # A line would fall below 0; what matters is only whether it arrives below what counts as learned.
    return float(np.median(loss[-3:]) + per_step * remaining)


def _find(signals: Signals, thresholds: Mapping[str, Mapping[str, float]]) -> Sequence[Observation]:
    return _too_low(signals, thresholds[LEARNING_RATE_TOO_LOW.name])


SMALL_STEPS = Family(kinds=(LEARNING_RATE_TOO_LOW,), find=_find)
