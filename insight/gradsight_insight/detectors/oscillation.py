"""The loss swings instead of falling (FM-13)."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from gradsight_insight.held_out import newest
from gradsight_insight.kinds import Family, FindingKind, Number, Observation, Threshold
from gradsight_insight.signals import Floats, Signals
from gradsight_insight.statistics import finite, lag_one_autocorrelation, mann_kendall_z, robust_spread
from gradsight_insight.wording import figure, percent

OSCILLATION = FindingKind(
    code="FM-13",
    name="oscillation",
    title="Oscillation",
    severity="warning",
    you_see=(
        "The training loss goes up and down by a good part of itself and is no lower after many steps; or held-out "
        "error jumps from evaluation to evaluation by more than its rows can explain."
    ),
    mechanism=(
        "In a direction in which the loss curves strongly, a step longer than twice the distance to the bottom lands "
        "higher on the other side, and the next one comes back: the weights swing across the valley. Momentum makes "
        "the swings longer and slower. Along the valley, where progress would be, little happens meanwhile. The same "
        "picture comes from rows in a periodic order: the model forgets at one end of the file what it learnt at the "
        "other."
    ),
    rule=(
        "No trend over the last 40 blocks of the training loss (Mann–Kendall's |z| < 1.64), a level above "
        "`least_level` of the loss of no model, and one of: single steps alternate (correlation of neighbours below "
        "`alternation` over the newest 200 steps, spread above `spread` of the level); or the means of blocks vary "
        "by more than `spread` of the level, with more than `overdispersion` times the variance that the noise of "
        "single steps explains, and cross their median at least 6 times. Or held-out error, at the last 6 "
        "evaluations without a trend, varies by more than `spread` of its mean and more than 4 times what chance "
        "among so many rows would bring. Spreads are robust ones: a single spike does not count."
    ),
    look_alikes=(
        "Noise of small batches: single steps differ, but blocks of them have the same mean. The rule compares the "
        "two.",
        "A small validation set: with 50 rows, error jumps by some points by chance.",
        "Edge of stability: the loss ripples and falls nevertheless. With a falling trend nothing is said.",
        "A learning rate with restarts: the loss rises at each of them.",
    ),
    actions=(
        "Halve the learning rate, or let it decay.",
        "Lower the momentum, or clip the gradient's norm.",
        "Shuffle the rows, if they are read in an order of their own.",
        "Average the weights over the steps (`optimizer.average_decay`): the mean of a swing lies in the valley.",
    ),
    gradsight_does=(
        "ADVISE reports the finding. REPAIR tries half the learning rate and keeps it only if the swings end and "
        "held-out rows are no worse; otherwise it goes back."
    ),
    sources=(
        "Cohen et al., Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability, arXiv "
        "2103.00065",
        "BTTackler (thuml), oscillation over 6 evaluations",
        "TheDeepChecker, arXiv 2204.00694 (smoothness of the loss)",
    ),
    thresholds={
        "spread": Threshold(
            default=0.2, low=0.01, high=10.0, meaning="Spread as a share of the mean, at least."
        ),
        "least_level": Threshold(
            default=0.2,
            low=0.0,
            high=1.0,
            meaning="Loss as a share of that of no model below which swings are small.",
        ),
        "alternation": Threshold(
            default=-0.4,
            low=-1.0,
            high=0.0,
            meaning="Correlation of the losses of neighbouring steps, below it.",
        ),
        "overdispersion": Threshold(
            default=10.0, low=1.0, high=1e6, meaning="Variance of block means over what single steps explain."
        ),
    },
    repairs=("scale_learning_rate",),
)
_BLOCKS = 40
_EVALUATIONS = 6


def _find(signals: Signals, thresholds: Mapping[str, Mapping[str, float]]) -> Sequence[Observation]:
    """At most one: swings of the training loss, else of held-out error."""
    limits = thresholds[OSCILLATION.name]
    found = _of_training(signals, limits) or _of_held_out(signals, limits)
    return () if found is None else (found,)


OSCILLATIONS = Family(kinds=(OSCILLATION,), find=_find)


def _of_training(signals: Signals, limits: Mapping[str, float]) -> Observation | None:
    blocks, losses = finite(signals.block_loss[-_BLOCKS:]), finite(signals.steps.loss)
    prior, level = signals.facts.prior_loss, float(blocks.mean()) if len(blocks) else 0.0
    if len(blocks) < _BLOCKS or not level > limits["least_level"] * prior or len(losses) < 200:
        return None
    alternation = lag_one_autocorrelation(losses[-200:])
    step_spread, block_spread = robust_spread(losses[-200:]) / level, robust_spread(blocks) / level
    alternates = alternation < limits["alternation"] and step_spread > limits["spread"]
    dispersion = _overdispersion(blocks, signals)
    swings = (
        block_spread > limits["spread"] and dispersion > limits["overdispersion"] and _crossings(blocks) >= 6
    )
    if not (alternates or swings) or abs(mann_kendall_z(blocks)) >= 1.64:
        return None
    first = min(signals.step, int(signals.block_step[-_BLOCKS:][0]))
    number = partial(Number, first_step=first, last_step=signals.step)
    name = "from step to step" if alternates else "from one stretch of steps to the next"
    return Observation(
        kind=OSCILLATION.name,
        first_step=first,
        last_step=signals.step,
        evidence=(
            number(name="alternation", observed=alternation, threshold=limits["alternation"]),
            number(name="overdispersion", observed=dispersion, threshold=limits["overdispersion"]),
            number(
                name="spread",
                observed=step_spread if alternates else block_spread,
                threshold=limits["spread"],
            ),
        ),
        confidence=0.7,
        explanation=(
            f"Since step {first} the training loss swings {name} around {figure(level)}, by "
            f"{percent(step_spread if alternates else block_spread)} of it, and does not fall. The updates go across "
            "the valley of the loss and back instead of along it: the step is too long for the curvature there, or "
            "the rows come in a periodic order."
        ),
    )


def _of_held_out(signals: Signals, limits: Mapping[str, float]) -> Observation | None:
    evaluations = newest(signals, _EVALUATIONS)
    errors = [evaluation.error_ratio for evaluation in evaluations if evaluation.error_ratio is not None]
    if (
        len(errors) < _EVALUATIONS
        or not signals.learned
        or evaluations[0].step <= signals.facts.warm_up_steps
    ):
        return None
    mean, spread = float(np.mean(errors)), float(np.std(errors, ddof=1))
    chance = math.sqrt(max(mean * (1 - mean), 1e-12) / max(1, evaluations[-1].examples))
    if not (spread > limits["spread"] * mean and spread > 4 * chance) or abs(mann_kendall_z(errors)) >= 1.64:
        return None
    blocks = finite(signals.block_loss[-_BLOCKS:])
    if len(blocks) < _BLOCKS or abs(mann_kendall_z(blocks)) >= 1.64:
        return None
    number = partial(Number, first_step=evaluations[0].step, last_step=evaluations[-1].step)
    return Observation(
        kind=OSCILLATION.name,
        first_step=evaluations[0].step,
        last_step=evaluations[-1].step,
        evidence=(
            number(name="held_out_error_spread", observed=spread / mean, threshold=limits["spread"]),
            number(name="over_chance", observed=spread / chance, threshold=4.0),
        ),
        confidence=0.7,
        explanation=(
            f"At the last {_EVALUATIONS} evaluations held-out error went between {percent(min(errors))} and "
            f"{percent(max(errors))}, {spread / chance:.0f} times as much as chance among {evaluations[-1].examples} "
            "rows would do. What is learnt at one moment is lost at the next: the steps are too long, or the rows "
            "come in a periodic order. The best evaluation's weights are kept."
        ),
    )


def _overdispersion(blocks: Floats, signals: Signals) -> float:
    """Variance of the block means over what it would be if steps differed only by chance; 1 for pure noise."""
    steps = signals.block_step
    length = int(steps[-1] - steps[-2]) if len(steps) > 1 else 10
    newest_steps = finite(signals.steps.loss)
    whole = newest_steps[len(newest_steps) % length :].reshape(-1, length)
    within = float(np.mean(whole.var(axis=1, ddof=1))) if len(whole) and length > 1 else 0.0
    return robust_spread(blocks) ** 2 * length / within if within > 0 else 0.0


def _crossings(blocks: Floats) -> int:
    """How often the blocks go from one side of their median to the other."""
    sides = np.sign(blocks - np.median(blocks))
    sides = sides[sides != 0]
    return int((sides[1:] != sides[:-1]).sum())
