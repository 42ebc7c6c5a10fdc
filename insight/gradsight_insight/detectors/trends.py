"""Trends of the training loss: it never leaves what no model would cost (FM-12), or it has stopped (FM-14)."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

from gradsight_insight.held_out import against_best, prior_z
from gradsight_insight.kinds import Family, FindingKind, Number, Observation, Threshold
from gradsight_insight.signals import Floats, Signals
from gradsight_insight.statistics import SIGNIFICANT, finite, mann_kendall_z
from gradsight_insight.wording import figure, listed, percent

WINDOW = 20
"""Blocks of the training loss that a trend is read from; a block is at least 10 steps."""

NOT_LEARNING = FindingKind(
    code="FM-12",
    name="not_learning",
    title="Not learning",
    severity="critical",
    you_see=(
        "The training loss stays where it began: near what it costs to know how often each answer occurs and to "
        "ignore the inputs. Held-out error is that of always giving the commonest answer, or hardly better."
    ),
    mechanism=(
        "A model can lower its loss in two ways. The cheap one is to learn how frequent each answer is; a few steps "
        "on the last layer's bias are enough, and the loss then equals the entropy of the answers (for numbers: "
        "their variance). Everything below that must come from the inputs. When the inputs carry nothing about the "
        "targets (columns joined to the wrong rows, features that are all zero, text cut away), when the model "
        "cannot use what they carry, or when updates do not reach the layers that would, the gradient averages out "
        "to zero right there. The model then gives every row the same answer, and more steps do not help."
    ),
    rule=(
        "After warm-up, two windows of 20 blocks of the training loss (at least 10 steps a block) and "
        "`least_budget` of the budget: the mean of the last 5 blocks is above `prior_share` × the loss of no "
        "model, and either the last window is not lower than the one before by `smallest_fall` of that loss, "
        "or Mann–Kendall's test over both sees no falling trend (z > −1.64). Where held-out error is "
        "nevertheless clearly better than the prior's (z < −2.58), the model has learnt a little: then it is "
        "a warning, else critical."
    ),
    look_alikes=(
        "A slow start: some models sit on this level for hundreds of steps and then fall. The rule waits for two "
        "windows and closes by itself when the loss falls.",
        "A learning rate that is too low: the loss falls, but too slowly, and the gain ratio is above 0.9. That is "
        "FM-09, and is named as the cause where both hold.",
        "Dead, saturated or frozen layers: seen by themselves and then named as the cause.",
        "Targets that are mostly noise: a regression that explains a tenth of the variance sits here too and "
        "is right to; held-out loss then still beats the prior's.",
    ),
    actions=(
        "Look at ten training rows, inputs beside targets, as the model gets them: are they the right pairs?",
        "Train on 16 rows only, without dropout and augmentation: if the loss does not go to zero in 1,000 steps it "
        "is a bug in model or data, and not a matter of tuning.",
        "Compare with the inputs shuffled among the rows: if the loss is the same, the inputs do not reach the "
        "answer.",
        "Try a learning rate ten times as high, then ten times as low.",
        "Give the model more capacity, or inputs that tell more.",
    ),
    gradsight_does=(
        "Under every policy it reports the finding and names the inputs. Under REPAIR, as long as the gain ratio "
        "shows that larger steps would be safe (above 0.9), it tries four times the learning rate and keeps it only "
        "if held-out rows get better; data it cannot repair. Under STOP the run ends when the finding is critical."
    ),
    sources=(
        "A. Karpathy, A Recipe for Training Neural Networks (2019): input-independent baseline, overfit one batch",
        "TheDeepChecker, arXiv 2204.00694",
        "Hamed and Rao, doi 10.1016/S0022-1694(97)00125-X (trend test under autocorrelation)",
    ),
    thresholds={
        "prior_share": Threshold(
            default=0.8,
            low=0.1,
            high=1.0,
            meaning="Share of the loss of no model above which nothing is learnt.",
        ),
        "smallest_fall": Threshold(
            default=0.02,
            low=0.0,
            high=0.5,
            meaning="Fall from window to window, as a share of the loss of no model, that counts as progress.",
        ),
        "least_budget": Threshold(
            default=0.1, low=0.0, high=1.0, meaning="Share of the budget that must be used before it is said."
        ),
    },
    repairs=("scale_learning_rate",),
)

PLATEAU = FindingKind(
    code="FM-14",
    name="plateau",
    title="Plateau",
    severity="info",
    you_see=(
        "The training loss has fallen and now stays where it is, well above zero; held-out figures do not move "
        "either, although the learning rate is still high."
    ),
    mechanism=(
        "With steps of a fixed size, training ends in a balance: each update gains about as much along the slope as "
        "it loses by overshooting in steep directions and by the noise of its batch. The loss then wanders at a "
        "height that is set by the learning rate, and not by what the model could do. Smaller steps sink below it. "
        "The same flat curve appears when the model's capacity is used up, or on a saddle; then smaller steps "
        "change nothing. That is why a plateau is not convergence: only lowering the learning rate tells the two "
        "apart."
    ),
    rule=(
        "Learnt (below 0.8 of the loss of no model), Mann–Kendall's |z| < `trend_z` over the last two windows of 20 "
        "blocks, training loss still above `fitted_share` of the loss of no model, learning rate still above a "
        "tenth of its highest, and no significant difference of held-out rows to the best evaluation (|z| < 2) at "
        "the last three evaluations, where there are three."
    ),
    look_alikes=(
        "Convergence: the same flat curves, and a lower learning rate brings nothing. The verdict tells the "
        "two apart by trying it.",
        "The end of a schedule: the loss is flat because the steps have become tiny. Not reported.",
        "A fitted model: the training loss is close to zero. Not reported.",
        "Underfitting: a model that is too small stops at a high level; look at how far above zero that is.",
    ),
    actions=(
        "Lower the learning rate, at once by a factor of 10 or by a schedule that decays (`cosine` is the default).",
        "If that brings nothing and the training error is still high, the model is too small or the inputs tell too "
        "little: give it more of either.",
        "If the training error is low, stop here and save the time.",
    ),
    gradsight_does=(
        "It reports the finding. At the end of a flat run it tries a tenth of the learning rate for one "
        "window on the side, and the verdict says PLATEAUED if held-out rows got better and CONVERGED if not. "
        "Under REPAIR it tries the lower learning rate during the run and keeps it only if held-out rows get "
        "better."
    ),
    sources=(
        "Deep Learning Tuning Playbook, google-research (2023)",
        "A. Karpathy, A Recipe for Training Neural Networks (2019): networks train for unintuitively long",
        "PyTorch, ReduceLROnPlateau",
    ),
    thresholds={
        "trend_z": Threshold(
            default=1.64, low=0.5, high=4.0, meaning="z of the trend test below which there is no trend."
        ),
        "fitted_share": Threshold(
            default=0.05,
            low=0.0,
            high=1.0,
            meaning="Share of the loss of no model below which the training rows count as fitted.",
        ),
    },
    repairs=("scale_learning_rate",),
)


def _find(signals: Signals, thresholds: Mapping[str, Mapping[str, float]]) -> Sequence[Observation]:
    """Either, or none: a run that has learnt nothing is on no plateau."""
    found = _not_learning(signals, thresholds[NOT_LEARNING.name]) or _plateau(
        signals, thresholds[PLATEAU.name]
    )
    return () if found is None else (found,)


TRENDS = Family(kinds=(NOT_LEARNING, PLATEAU), find=_find)


def _not_learning(signals: Signals, limits: Mapping[str, float]) -> Observation | None:
    prior, blocks = signals.facts.prior_loss, _after_warm_up(signals)
    if not (math.isfinite(prior) and prior > 0) or len(blocks) < _enough(signals):
        return None
    if signals.step < limits["least_budget"] * signals.facts.total_steps:
        return None
    now = float(blocks[-5:].mean())
    if now <= limits["prior_share"] * prior:
        return None
    half = min(WINDOW, len(blocks) // 2)
    last, before = blocks[-half:], blocks[-2 * half : -half]
    fall, z = float(before.mean() - last.mean()), mann_kendall_z(blocks[-2 * half :])
    if fall >= limits["smallest_fall"] * prior and z <= -1.64:
        return None
    evaluation = signals.evaluations[-1] if signals.evaluations else None
    better = None if evaluation is None else prior_z(signals.facts, evaluation)
    learnt_a_little = better is not None and better < -SIGNIFICANT
    number = partial(Number, first_step=_first_step(signals, 2 * half), last_step=signals.step)
    evidence = [
        number(name="training_loss_over_prior", observed=now / prior, threshold=limits["prior_share"]),
        number(name="fall_over_prior", observed=fall / prior, threshold=limits["smallest_fall"]),
        number(name="trend_z", observed=z, threshold=-1.64, unit="z"),
    ]
    if better is not None:
        evidence.append(number(name="prior_z", observed=better, threshold=-SIGNIFICANT, unit="z"))
    return Observation(
        kind=NOT_LEARNING.name,
        first_step=evidence[0].first_step,
        last_step=signals.step,
        evidence=tuple(evidence),
        confidence=0.7 if learnt_a_little else 0.9,
        severity="warning" if learnt_a_little else "critical",
        explanation=_said_of_not_learning(signals, now, prior, learnt_a_little=learnt_a_little),
    )


def _said_of_not_learning(signals: Signals, now: float, prior: float, *, learnt_a_little: bool) -> str:
    names = [entry.name for entry in signals.facts.inputs]
    inputs = (
        f"the inputs {listed(names)}" if len(names) > 1 else f"the input {listed(names) or '(all of it)'}"
    )
    stays = (
        f"The training loss stays at {figure(now)}; always answering with the frequencies (or the mean) of the "
        f"training rows would cost {figure(prior)}."
    )
    if learnt_a_little:
        return (
            f"{stays} Held-out rows are answered better than that, so something was learnt, but the loss has stopped "
            f"falling with {percent(now / prior)} of it left: the model is too small for the task, or {inputs} "
            "say too little about the targets."
        )
    return (
        f"{stays} So the answers hardly depend on {inputs}. Either the data do not belong together (targets "
        "joined to the wrong rows, inputs that are empty, constant or shuffled), or the model and its updates "
        "cannot use them; training on 16 rows tells which."
    )


def _plateau(signals: Signals, limits: Mapping[str, float]) -> Observation | None:
    prior, blocks = signals.facts.prior_loss, _after_warm_up(signals)
    if len(blocks) < 2 * WINDOW or not signals.learned or _decayed(signals):
        return None
    both = blocks[-2 * WINDOW :]
    level = float(both[WINDOW:].mean())
    if level <= limits["fitted_share"] * prior:
        return None
    z = mann_kendall_z(both)
    if abs(z) >= limits["trend_z"]:
        return None
    pairs = against_best(signals, 3)
    moved = max((abs(pair.worth) for pair in pairs), default=0.0)
    if (len(signals.evaluations) >= 3 and not pairs) or moved >= 2:
        return None
    first = _first_step(signals, 2 * WINDOW)
    number = partial(Number, first_step=first, last_step=signals.step)
    held_out = " Held-out rows are neither better nor worse than at the best evaluation." if pairs else ""
    return Observation(
        kind=PLATEAU.name,
        first_step=first,
        last_step=signals.step,
        evidence=(
            number(name="trend_z", observed=z, threshold=limits["trend_z"], unit="z"),
            number(name="training_loss_over_prior", observed=level / prior, threshold=limits["fitted_share"]),
            number(name="held_out_z", observed=moved, threshold=2.0, unit="z"),
        ),
        confidence=0.7,
        explanation=(
            f"From step {first} to {signals.step} the training loss stays at about {figure(level)}, "
            f"{percent(level / prior)} of what no model would cost, without a trend.{held_out} At this learning rate "
            "the steps lose by overshooting and by the noise of the batches what they gain along the slope; only a "
            "lower rate shows whether the model could do better."
        ),
    )


def _after_warm_up(signals: Signals) -> Floats:
    return finite(signals.block_loss[signals.block_step > signals.facts.warm_up_steps])


def _enough(signals: Signals) -> int:
    """Blocks that two windows take; in a run too short for them, those of half its budget, at least 10."""
    steps_per_block = signals.block_step[0] if len(signals.block_step) else 10
    return max(10, min(2 * WINDOW, int(signals.facts.total_steps // (2 * max(1, steps_per_block)))))


def _first_step(signals: Signals, blocks: int) -> int:
    """First step of the last `blocks` blocks."""
    steps = signals.block_step
    return min(signals.step, int(steps[-blocks - 1]) + 1 if len(steps) > blocks else 1)


def _decayed(signals: Signals) -> bool:
    """Whether the schedule has come down to a tenth of its largest learning rate."""
    rates = finite(signals.steps.learning_rate)
    highest = max(signals.facts.highest_learning_rate, rates.max(initial=0.0))
    return len(rates) > 0 and bool(rates[-1] <= 0.1 * highest)
