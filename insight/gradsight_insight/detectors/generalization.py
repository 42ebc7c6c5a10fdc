"""Held-out rows fall behind: their error rises (FM-15), or only their loss does (FM-16).

The two look alike in a plot of losses and mean different things. So the first is judged by held-out error, pair by
pair, and the second is only a remark.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial

from gradsight_insight.detectors.memorization import near_chance
from gradsight_insight.held_out import against_best, newest
from gradsight_insight.kinds import Family, FindingKind, Number, Observation, Threshold
from gradsight_insight.signals import EvaluationSignals, RunFacts, Signals
from gradsight_insight.statistics import SIGNIFICANT, finite, generalization_loss
from gradsight_insight.wording import figure, percent

_CONFIRMATIONS = Threshold(
    default=3, low=1, high=50, meaning="Evaluations in a row at which it must hold before it is said."
)

OVERFITTING = FindingKind(
    code="FM-15",
    name="overfitting",
    title="Overfitting",
    severity="warning",
    you_see=(
        "The training loss goes on falling while the error on validation rows rises: rows that were answered "
        "right at the best evaluation are answered wrong now. Every further step makes the model worse at "
        "what it is for."
    ),
    mechanism=(
        "The gradient only knows the training rows. As long as what lowers their loss is what they share with all "
        "other rows, held-out rows get better too. When that is learnt, the only way down is what is peculiar to "
        "single rows: a rare word, an odd pixel, a wrong label. Weights that fit those peculiarities bend the "
        "decision boundary around single points, and new rows that fall into the bends are answered wrong. The more "
        "weights and the fewer rows, the sooner this begins."
    ),
    rule=(
        "At `confirmations` evaluations in a row: held-out error is more than `generalization_loss` % above "
        "the best (Prechelt's GL), and the same rows are answered worse than at the best evaluation by a "
        "paired test (McNemar) with z above `error_z`; and the training loss is below what it was then and "
        "below 0.8 of the loss of no model. For numbers and language models the held-out loss takes the place "
        "of the error. Or, with fewer than `few_rows_per_class` training rows per class: the training rows "
        "are learnt by heart (loss below a tenth of that of no model) and held-out error is above `gap_error` "
        "and above the training error with z over 3."
    ),
    look_alikes=(
        "Over-confidence (FM-16): held-out loss rises while held-out error stays or falls. The commonest false alarm "
        "of tools that look at losses; nothing is lost there by going on.",
        "Chance: of many evaluations one is the best by luck, and those after it look worse. Hence the paired test, "
        "three times in a row.",
        "Double descent and delayed generalization: held-out error may fall again much later. The best checkpoint is "
        "kept, so nothing is lost by waiting.",
        "A validation set from another source than train: its error is high from the beginning and does not turn.",
        "A learning rate that is too high: training loss rises as well.",
    ),
    actions=(
        "Use the kept checkpoint: it is the best one, from before the turn.",
        "Get more training rows, or make more of them (augmentation): the only remedy without a price.",
        "Raise weight decay or dropout, or smooth the labels.",
        "Take a smaller model, or fewer epochs; `evaluation.patience` ends such runs early.",
    ),
    gradsight_does=(
        "The best checkpoint by held-out error is kept under every policy, whatever comes after it, and it is what "
        "the result holds. ADVISE and REPAIR report the finding: going on costs time only. STOP ends the run here."
    ),
    sources=(
        "L. Prechelt, Automatic early stopping using cross validation, doi 10.1016/S0893-6080(98)00010-0",
        "Q. McNemar (1947), doi 10.1007/BF02295996",
        "A. Karpathy, A Recipe for Training Neural Networks (2019)",
    ),
    thresholds={
        "generalization_loss": Threshold(
            default=5.0,
            low=0.0,
            high=1000.0,
            meaning="Rise of held-out error above the best so far, in % of it.",
        ),
        "error_z": Threshold(
            default=2.58, low=1.0, high=10.0, meaning="z of the paired test from which error counts as risen."
        ),
        "gap_error": Threshold(
            default=0.1,
            low=0.0,
            high=1.0,
            meaning="Held-out error ratio from which the gap to train is told.",
        ),
        "few_rows_per_class": Threshold(
            default=20,
            low=0,
            high=1e6,
            meaning="Training rows per class below which the gap to train is told.",
        ),
        "confirmations": _CONFIRMATIONS,
    },
)

OVERCONFIDENCE = FindingKind(
    code="FM-16",
    name="overconfidence",
    title="Over-confidence",
    severity="info",
    you_see=(
        "Held-out loss rises, sometimes to a multiple of its minimum, while held-out error stays where it is or "
        "goes on falling. The model says 99 % where it is right in 70 of 100 cases."
    ),
    mechanism=(
        "Once the training rows are separated, cross-entropy can still be lowered by scaling all scores up: the "
        "right answers' probabilities go from 0.99 to 0.9999. Which answer is the largest does not change by that, "
        "so the error stays. But held-out rows that are wrong are now wrong with certainty, and each costs as many "
        "nats as its score is off: a few of them carry the mean loss up. The ranking of answers is sound, the "
        "probabilities are not."
    ),
    rule=(
        "At `confirmations` evaluations in a row: held-out loss is more than `generalization_loss` % above its "
        "lowest, by more than `loss_z` standard errors of its mean; held-out error is not significantly worse than "
        "at the best evaluation (McNemar's z at most 2.58) and not near chance; and the training loss is below what "
        "it was at the lowest held-out loss. Only where answers are right or wrong."
    ),
    look_alikes=(
        "Overfitting (FM-15): the error rises as well. Told apart by a paired test on the same rows.",
        "Memorization (FM-17): held-out error is near chance.",
        "A few broken validation rows: look whether one category or a handful of rows carries the loss.",
    ),
    actions=(
        "Go on if only the answers matter: by error the later model is as good or better.",
        "Fit a temperature on validation rows if probabilities are used (thresholds, expected costs): one "
        "number that divides all scores.",
        "Smooth the labels (`objective.label_smoothing`), or use weight decay, to keep scores from growing.",
        "Judge and choose checkpoints by error and not by loss.",
    ),
    gradsight_does=(
        "It reports the finding as information, under every policy, and goes on: on published runs stopping here "
        "would cost five to seven points of accuracy. The checkpoint is chosen by error, so it is not affected."
    ),
    sources=(
        "Guo et al., On Calibration of Modern Neural Networks, arXiv 1706.04599",
        "S. Greydanus, MNIST-1D, arXiv 2011.14439 (the published run that shows it)",
    ),
    thresholds={
        "generalization_loss": Threshold(
            default=5.0, low=0.0, high=1000.0, meaning="Rise of held-out loss above its lowest, in % of it."
        ),
        "loss_z": Threshold(
            default=2.0, low=1.0, high=10.0, meaning="Rise of held-out loss in standard errors of its mean."
        ),
        "confirmations": _CONFIRMATIONS,
    },
)


def _find(signals: Signals, thresholds: Mapping[str, Mapping[str, float]]) -> Sequence[Observation]:
    """Either, or none: with risen error, the risen loss says nothing more."""
    limits = thresholds[OVERFITTING.name]
    found = (
        _overfitting(signals, limits)
        or _learnt_by_heart(signals, limits)
        or _overconfidence(signals, thresholds[OVERCONFIDENCE.name])
    )
    return () if found is None else (found,)


GENERALIZATION = Family(kinds=(OVERFITTING, OVERCONFIDENCE), find=_find, at_evaluations=True)


def _overfitting(signals: Signals, limits: Mapping[str, float]) -> Observation | None:
    best, evaluations = signals.kept, newest(signals, int(limits["confirmations"]))
    if best is None or not evaluations:
        return None
    by_error = best.error_ratio is not None and signals.facts.judged_by_error
    before, newest_loss = _judged(best, by_error=by_error), evaluations[-1].train_loss
    rises = [
        generalization_loss([before, _judged(evaluation, by_error=by_error)]) for evaluation in evaluations
    ]
    fits = newest_loss < best.train_loss and signals.learned
    if not (fits and min(rises) > limits["generalization_loss"]):
        return None
    # The paired tests come last: they are the only ones that cost anything.
    pairs = against_best(signals, len(evaluations))
    z = min((pair.worth if by_error else pair.loss_z for pair in pairs), default=0.0)
    if not z > limits["error_z"]:
        return None
    now = pairs[-1].evaluation
    number = partial(Number, first_step=best.step, last_step=now.step)
    name, unit = ("held_out_error", "") if by_error else ("held_out_loss", "nats")
    return Observation(
        kind=OVERFITTING.name,
        subject_kind="split",
        subject="validation",
        first_step=best.step,
        last_step=now.step,
        evidence=(
            number(name=f"{name}_z", observed=z, threshold=limits["error_z"], unit="z"),
            number(
                name="generalization_loss",
                observed=rises[-1],
                threshold=limits["generalization_loss"],
                unit="%",
            ),
            number(name=name, observed=_judged(now, by_error=by_error), threshold=before, unit=unit),
            number(name="training_loss", observed=newest_loss, threshold=best.train_loss),
        ),
        confidence=0.9,
        explanation=_said_of_overfitting(best, now, by_error=by_error),
    )


def _said_of_overfitting(best: EvaluationSignals, now: EvaluationSignals, *, by_error: bool) -> str:
    fell = f"the training loss fell from {figure(best.train_loss)} to {figure(now.train_loss)}"
    if by_error:
        rose = f"the error on validation rose from {percent(best.error_ratio or 0)} to {percent(now.error_ratio or 0)}"
    else:
        rose = f"the loss on validation rose from {figure(best.loss)} to {figure(now.loss)}"
    return (
        f"Since step {best.step} {fell}, but {rose}; on the same {now.examples} rows that is no chance. The updates "
        "now fit what is peculiar to single training rows, at the cost of rows the model has not seen. The weights "
        f"of step {best.step} are kept and are the better ones."
    )


def _learnt_by_heart(signals: Signals, limits: Mapping[str, float]) -> Observation | None:
    """The second rule of FM-15: hardly any rows, all of them known by heart."""
    facts, evaluations = signals.facts, newest(signals, int(limits["confirmations"]))
    classes = len(facts.class_counts) if facts.class_counts is not None else 0
    few = 0 < facts.train_rows < limits["few_rows_per_class"] * classes
    if (
        not few
        or not all(_by_heart(facts, evaluation, limits) for evaluation in evaluations)
        or not evaluations
    ):
        return None
    now = evaluations[-1]
    number = partial(Number, first_step=evaluations[0].step, last_step=now.step)
    return Observation(
        kind=OVERFITTING.name,
        subject_kind="split",
        subject="validation",
        first_step=evaluations[0].step,
        last_step=now.step,
        evidence=(
            number(name="held_out_error", observed=now.error_ratio or 0.0, threshold=limits["gap_error"]),
            number(name="training_loss", observed=now.train_loss, threshold=0.1 * facts.prior_loss),
            number(
                name="rows_per_class",
                observed=facts.train_rows / classes,
                threshold=limits["few_rows_per_class"],
                unit="rows",
            ),
        ),
        confidence=0.7,
        explanation=(
            f"The {facts.train_rows} training rows ({facts.train_rows / classes:.0f} per class) are known by heart: "
            f"their loss is {figure(now.train_loss)}, while {percent(now.error_ratio or 0)} of the validation rows "
            "are answered wrong. There is nothing left to learn from these rows; more of them, or a simpler model, "
            "would help, and more steps will not."
        ),
    )


def _by_heart(facts: RunFacts, evaluation: EvaluationSignals, limits: Mapping[str, float]) -> bool:
    held_out = evaluation.error_ratio
    if (
        held_out is None
        or not evaluation.train_loss < 0.1 * facts.prior_loss
        or held_out <= limits["gap_error"]
    ):
        return False
    train = evaluation.train_error_ratio or 0.0
    spread = held_out * (1 - held_out) / max(1, evaluation.examples) + train * (1 - train) / facts.train_rows
    return held_out - train > 3 * math.sqrt(spread)


def _overconfidence(signals: Signals, limits: Mapping[str, float]) -> Observation | None:
    evaluations = newest(signals, int(limits["confirmations"]))
    earlier = [
        evaluation
        for evaluation in signals.evaluations[: -len(evaluations) or None]
        if math.isfinite(evaluation.loss)
    ]
    judged_by_error = (
        signals.facts.judged_by_error and evaluations and evaluations[-1].error_ratio is not None
    )
    if not earlier or not judged_by_error:
        return None
    lowest, now = min(earlier, key=lambda evaluation: evaluation.loss), evaluations[-1]
    rise = min(generalization_loss([lowest.loss, evaluation.loss]) for evaluation in evaluations)
    if not (rise > limits["generalization_loss"] and now.train_loss < lowest.train_loss):
        return None
    z = min(_rise_z(lowest, evaluation) for evaluation in evaluations)
    if (
        not z > limits["loss_z"]
        or near_chance(signals.facts, now)
        or _error_has_risen(signals, len(evaluations))
    ):
        return None
    number = partial(Number, first_step=lowest.step, last_step=now.step)
    evidence = [
        number(name="held_out_loss_z", observed=z, threshold=limits["loss_z"], unit="z"),
        number(name="generalization_loss", observed=rise, threshold=limits["generalization_loss"], unit="%"),
        number(name="held_out_loss", observed=now.loss, threshold=lowest.loss),
        number(name="held_out_error", observed=now.error_ratio or 0.0, threshold=lowest.error_ratio),
    ]
    if now.calibration_error is not None:
        evidence.append(number(name="calibration_error", observed=now.calibration_error))
    return Observation(
        kind=OVERCONFIDENCE.name,
        subject_kind="split",
        subject="validation",
        first_step=lowest.step,
        last_step=now.step,
        evidence=tuple(evidence),
        confidence=0.9,
        explanation=_said_of_overconfidence(lowest, now),
    )


def _error_has_risen(signals: Signals, count: int) -> bool:
    errors = [pair.error_z for pair in against_best(signals, count)]
    return bool(errors) and all(z is not None and z > SIGNIFICANT for z in errors)


def _rise_z(lowest: EvaluationSignals, evaluation: EvaluationSignals) -> float:
    """Rise of held-out loss in standard errors of its mean; the rows of the lowest loss itself are no longer there."""
    losses = finite(evaluation.rows.losses) if evaluation.rows is not None else finite(())
    if len(losses) < 2:
        return 0.0
    error = float(losses.std(ddof=1)) / math.sqrt(len(losses))
    return (evaluation.loss - lowest.loss) / error if error > 0 else 0.0


def _said_of_overconfidence(lowest: EvaluationSignals, now: EvaluationSignals) -> str:
    before, after = lowest.error_ratio or 0.0, now.error_ratio or 0.0
    error = (
        f"fell from {percent(before)} to {percent(after)}"
        if after < before
        else f"is {percent(after)} after {percent(before)}, no more than chance would do"
        if after > before
        else f"stayed at {percent(after)}"
    )
    sure = (
        f" It gives its answers {percent(now.mean_confidence)} on average and is right in {percent(1 - after)} of "
        "cases."
        if now.mean_confidence is not None
        else ""
    )
    return (
        f"Held-out loss rose from {figure(lowest.loss)} at step {lowest.step} to {figure(now.loss)}, while held-out "
        f"error {error}. The model grows surer of all its answers, the wrong ones included; which answer it gives is "
        f"not affected.{sure} Trust the answers, not the probabilities."
    )


def _judged(evaluation: EvaluationSignals, *, by_error: bool) -> float:
    return (evaluation.error_ratio or 0.0) if by_error else evaluation.loss
