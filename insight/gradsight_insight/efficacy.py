"""Did the weight updates bring the improvement? One verdict for a window of probes.

Two questions, and both must be answered well. Did the updates do on their own batch what the gradient promised (the
gain ratio, see `gain.py`)? And did rows that took no part get better (paired, over the same held-out rows)? The first
alone proves nothing: a same-batch decrease is nearly certain for small steps, and a dead network has a healthy ratio.
"""

import enum
from dataclasses import dataclass

import numpy as np

from gradsight_insight.gain import pooled_ratio
from gradsight_insight.held_out import Paired, paired
from gradsight_insight.signals import EvaluationSignals, Floats, Probes, Signals
from gradsight_insight.statistics import SIGNIFICANT, finite, mann_kendall_z

WINDOW = 20
"""Probes in a window; between evaluations that are far apart there are more."""
LEAST = 8
"""Probes from which a window is read."""


class EfficacyVerdict(enum.StrEnum):
    """What the updates of a window achieved; as `gradsight.v1.EfficacyVerdict`."""

    EFFECTIVE = "effective"
    """They did what they promised, and held-out rows got better."""
    OVERSHOOT = "overshoot"
    """The steps go past the minimum along their way: less than a quarter of the promise was kept."""
    CAUTIOUS = "cautious"
    """The steps are so small that all happens as promised; larger ones would be faster."""
    ASCENT = "ascent"
    """Over the whole window the updates go against the current gradient."""
    INERT = "inert"
    """They do what they promise, and nothing gets better."""
    MISDIRECTED = "misdirected"
    """The batches get better and held-out rows worse: their loss rises, and where there are errors they rise too."""
    UNRESOLVED = "unresolved"
    """The promise is too small to be measured, or held-out rows do not tell yet."""


@dataclass(frozen=True, kw_only=True)
class Efficacy:
    """What the updates of a window achieved; as `gradsight.v1.UpdateEfficacy`."""

    verdict: EfficacyVerdict
    gain_ratio: float | None
    """Sum of actual over sum of predicted decrease; None when the promise is too small to measure or none."""
    held_out_z: float | None
    """Held-out loss at the end less that at the start, in standard errors over the same rows: below 0 is better."""
    first_step: int
    last_step: int
    probes: int
    layer_credit: tuple[float, ...]
    """Share of each layer in the predicted decrease; they add up to 1. Empty when there is nothing to share."""


def judge_updates(signals: Signals) -> Efficacy:
    """The updates since the evaluation before the newest, or of the newest 20 probes where those are more.

    Held-out rows are compared between the newest evaluation and the last one before the window, as far as their rows
    are still there.
    """
    evaluations = signals.evaluations
    since = evaluations[-2].step if len(evaluations) > 1 else 0
    count = max(min(WINDOW, len(signals.probes)), int((signals.probes.step > since).sum()))
    first = int(signals.probes.step[-count]) if count else signals.step
    recent = signals.steps.step >= first
    pair = _over_window(evaluations, first)
    return judge_window(
        signals.probes,
        count=count,
        training_loss=signals.steps.loss[recent],
        held_out_z=None if pair is None else pair.loss_z,
        error_z=None if pair is None else pair.error_z,
        resolution=1e-2 if signals.facts.precision == "bfloat16" else 1e-6,
    )


def judge_window(
    probes: Probes,
    *,
    count: int = WINDOW,
    training_loss: Floats,
    held_out_z: float | None,
    error_z: float | None = None,
    resolution: float = 1e-6,
) -> Efficacy:
    """The newest probes.

    Args:
        probes: Probed steps, oldest first.
        count: How many of them, the newest.
        training_loss: Of the steps of the window, for its trend.
        held_out_z: Paired z of the held-out loss over the window, below 0 is better; None without two evaluations.
        error_z: McNemar's z of the errors likewise; None where answers are not right or wrong.
        resolution: Smallest sum of promises that can be measured, as a share of the sum of losses; 1e-2 for a
            bfloat16 forward.
    """
    steps = probes.step[-count:] if count > 0 else probes.step[:0]
    columns = np.stack([probes.predicted_decrease, probes.actual_decrease, probes.loss])[
        :, len(probes) - len(steps) :
    ]
    sound = np.isfinite(columns).all(axis=0)
    predicted, actual = (float(total) for total in columns[:2, sound].sum(axis=1))
    losses = float(np.abs(columns[2, sound]).sum())
    ratio = pooled_ratio(predicted, actual, losses, resolution)
    enough = int(sound.sum()) >= LEAST and abs(predicted) >= resolution * losses > 0
    verdict = EfficacyVerdict.UNRESOLVED
    if enough:
        verdict = _verdict(ratio, held_out_z, error_z, falling=_trend(training_loss) <= -1.64)
    return Efficacy(
        verdict=verdict,
        gain_ratio=ratio if enough else None,
        held_out_z=held_out_z,
        first_step=int(steps[0]) if len(steps) else 0,
        last_step=int(steps[-1]) if len(steps) else 0,
        probes=len(steps),
        layer_credit=_credit(probes.layer_predicted_decrease[len(probes) - len(steps) :]),
    )


def _verdict(
    ratio: float | None, held_out_z: float | None, error_z: float | None, *, falling: bool
) -> EfficacyVerdict:
    """First match; what is wrong with the steps themselves comes before what it led to."""
    loss_z = 0.0 if held_out_z is None else held_out_z
    better = loss_z <= -SIGNIFICANT or (error_z is not None and error_z <= -SIGNIFICANT)
    if ratio is None:
        return EfficacyVerdict.ASCENT
    if ratio < 0.25:
        return EfficacyVerdict.OVERSHOOT
    # Held-out loss that rises while the errors stay is over-confidence: nothing is lost, but nothing won either.
    if loss_z >= SIGNIFICANT and not better and (error_z is None or error_z >= 1.64):
        return EfficacyVerdict.MISDIRECTED
    if held_out_z is not None and not better and (not falling or loss_z >= SIGNIFICANT):
        return EfficacyVerdict.INERT
    if ratio > 0.9:
        return EfficacyVerdict.CAUTIOUS
    return EfficacyVerdict.EFFECTIVE if better else EfficacyVerdict.UNRESOLVED


def _trend(losses: Floats) -> float:
    """Mann–Kendall's z over at most 20 means of equally many steps."""
    values = finite(losses)
    size = max(1, len(values) // 20)
    return mann_kendall_z(values[len(values) % size :].reshape(-1, size).mean(axis=1)) if len(values) else 0.0


def _over_window(evaluations: tuple[EvaluationSignals, ...], first_step: int) -> Paired | None:
    """From the last evaluation at or before the window, else the earliest after it, to the newest."""
    before = [evaluation for evaluation in evaluations[:-1] if evaluation.rows is not None]
    if not before:
        return None
    at_start = [evaluation for evaluation in before if evaluation.step <= first_step]
    return paired(at_start[-1] if at_start else before[0], evaluations[-1])


def _credit(decrease: Floats) -> tuple[float, ...]:
    by_layer = np.where(np.isfinite(decrease), decrease, 0.0).sum(axis=0)
    total = float(by_layer.sum())
    return tuple((by_layer / total).tolist()) if total > 0 and np.isfinite(by_layer / total).all() else ()
