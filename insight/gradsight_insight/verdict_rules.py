"""The rules of the verdict on a run, from the top down: the first that holds."""

import enum
import math
from collections.abc import Callable, Sequence

from gradsight_insight.findings import Finding
from gradsight_insight.held_out import held_out_prior, paired
from gradsight_insight.signals import EvaluationSignals
from gradsight_insight.statistics import SIGNIFICANT
from gradsight_insight.verdict_case import Case, decayed
from gradsight_insight.wording import figure, listed, percent

_UNSOUND = ("loss_contract", "step_protocol", "leakage")


class Verdict(enum.StrEnum):
    """Judgement on a run; as `gradsight.v1.Verdict`."""

    CONVERGED = "converged"
    """Training has come to rest, and nothing stands against the result."""
    STILL_IMPROVING = "still_improving"
    """More training would help."""
    PLATEAUED = "plateaued"
    """Training stalls before it is good: a lower learning rate helps, or was not tried."""
    OVERFIT = "overfit"
    """Held-out error rises while training error falls."""
    UNDERFIT = "underfit"
    """The model does not even fit the training rows."""
    DIVERGED = "diverged"
    """The loss ran away."""
    UNSOUND = "unsound"
    """The measurements cannot be trusted."""
    UNDECIDED = "undecided"
    """The evidence does not suffice."""


def _unsound(case: Case) -> list[str] | None:
    found = [finding for finding in case.found(*_UNSOUND) if finding.severity != "info"]
    found += [finding for finding in case.found("input_contract") if finding.severity == "critical"]
    if not found:
        return None
    return [
        "The figures of this run say nothing about the model.",
        *(finding.explanation for finding in found),
    ]


def _diverged(case: Case) -> list[str] | None:
    found = case.found("divergence")
    found += [finding for finding in case.found("nonfinite_values") if finding.severity == "critical"]
    if found:
        return [finding.explanation for finding in found]
    newest, best = case.newest, case.best
    if newest is None or best is None or newest.step <= best.step:
        return None
    line = max(2 * best.loss, 1.1 * held_out_prior(case.signals.facts))
    rising = case.trend_z > 1.64 and newest.train_loss > best.train_loss
    if not (rising and (newest.loss > line or not math.isfinite(newest.loss))):
        return None
    return [
        f"Held-out loss went from {figure(best.loss)} at step {best.step} to {figure(newest.loss)}, and the training "
        f"loss rises as well, from {figure(best.train_loss)} to {figure(newest.train_loss)}."
    ]


def _underfit(case: Case) -> list[str] | None:
    newest = case.newest
    hopeless = bool([finding for finding in case.found("not_learning") if finding.severity == "critical"])
    if not (case.late or hopeless) or case.found("memorization"):
        return None
    reasons: list[str] = []
    if case.train_share > 0.8 or hopeless:
        reasons.append(
            f"With {percent(min(1.0, case.budget_used))} of the budget used, the training loss is still "
            f"{percent(case.train_share)} of what answering without a model would cost."
        )
    elif case.train_share > 0.5 and case.flat and _no_gap(newest):
        reasons.append(
            f"The training loss has come to rest at {percent(case.train_share)} of what answering without a model "
            "would cost, and held-out rows cost hardly more: the model cannot fit the training rows, and that is "
            "what limits it."
        )
    if case.train_share > 0.5 and case.prior_z is not None and not case.beats_no_model:
        reasons.append("Held-out rows are not answered better than without a model.")
    if not reasons:
        return None
    reasons += [
        f"{finding.kind.replace('_', ' ').capitalize()}: {finding.explanation}" for finding in _causes(case)
    ]
    if case.trend_z <= -1.64:
        reasons.append("It still falls: more steps, or a higher learning rate, may be all that it needs.")
    elif len(reasons) == 1:
        reasons.append("A larger model, inputs that say more, or a higher learning rate may help.")
    return reasons


def _overfit(case: Case) -> list[str] | None:
    found = [*case.found("memorization"), *case.found("overfitting")]
    if not found:
        return None
    reasons = [finding.explanation for finding in found]
    if case.best is not None:
        reasons.append(f"The result holds the weights of step {case.best.step}, the best on validation.")
    return reasons


def _still_improving(case: Case) -> list[str] | None:
    newest, best = case.newest, case.best
    if newest is None or best is None:
        return None
    earlier = [evaluation for evaluation in case.signals.evaluations[-4:-1] if evaluation.rows is not None]
    pair = paired(earlier[0], newest) if earlier else None
    if pair is not None:
        fell = pair.earlier.loss - newest.loss > 0.01 * abs(pair.earlier.loss)
        if (fell and pair.loss_z <= -SIGNIFICANT) or (pair.error_z or 0.0) <= -SIGNIFICANT:
            return [
                f"Since step {pair.earlier.step} the same {newest.examples} held-out rows got better beyond chance: "
                f"{_went(pair.earlier, newest)}. More training would help."
            ]
    before = [
        evaluation for evaluation in case.signals.evaluations if evaluation.step <= 0.75 * case.signals.step
    ]
    if len(before) < 2 or best.step <= 0.75 * case.signals.step:
        return None
    best_before = min(before, key=lambda evaluation: evaluation.figure)
    if not best_before.figure - best.figure > _material(
        best_before, by_error=case.signals.facts.judged_by_error
    ):
        return None
    return [
        f"The best evaluation is that of step {best.step}, in the last quarter of the {case.signals.step} steps: "
        f"{_went(best_before, best)} since step {best_before.step}. Training longer might help."
    ]


def _plateaued(case: Case) -> list[str] | None:
    if not _at_rest(case):
        return None
    if case.drop is not None and case.drop.improved:
        return [
            f"Training and held-out figures have come to rest, but {case.drop.steps} steps at {case.drop.factor:g} "
            "times the learning rate made the same held-out rows better beyond chance: it is the step size that "
            "stalls the run.",
            "Let the learning rate decay (`schedule: cosine`), or lower it.",
        ]
    if case.drop is not None or case.fitted or decayed(case.signals):
        return None
    return [
        "Training and held-out figures have come to rest at a learning rate that is still high; a lower one was not "
        "tried, so this may be a plateau and not the end."
    ]


def _converged(case: Case) -> list[str] | None:
    if not _at_rest(case) or case.best is None or _against_convergence(case):
        return None
    reasons = [
        "The training loss has come to rest, and held-out rows are neither better nor worse than at the best "
        f"evaluation, step {case.best.step}."
    ]
    if case.drop is not None:
        reasons.append(f"{case.drop.factor:g} times the learning rate brought nothing more.")
    if case.found("overconfidence"):
        reasons.append(
            "Its probabilities are too sure of themselves (over-confidence); its answers are not affected."
        )
    return reasons


def _undecided(case: Case) -> list[str]:
    if case.newest is None:
        return ["There is no evaluation on validation yet."]
    if _at_rest(case):
        return ["Training has come to rest, but:", *_against_convergence(case)]
    missing = []
    if not case.flat:
        missing.append("the training loss still moves")
    if not _quiet(case):
        missing.append("there are too few evaluations since the best one to say that it will not be beaten")
    return [f"Neither improvement nor rest is proved: {' and '.join(missing) or 'the figures disagree'}."]


RULES: Sequence[tuple[Verdict, Callable[[Case], list[str] | None]]] = (
    (Verdict.UNSOUND, _unsound),
    (Verdict.DIVERGED, _diverged),
    (Verdict.UNDERFIT, _underfit),
    (Verdict.OVERFIT, _overfit),
    (Verdict.STILL_IMPROVING, _still_improving),
    (Verdict.PLATEAUED, _plateaued),
    (Verdict.CONVERGED, _converged),
    (Verdict.UNDECIDED, _undecided),
)
"""First match wins; the last always matches."""


def _at_rest(case: Case) -> bool:
    return case.newest is not None and case.best is not None and case.flat and _quiet(case)


def _quiet(case: Case) -> bool:
    """Whether held-out figures have come to rest: four strips of five evaluations without a better one, or the end."""
    evaluations, best = case.signals.evaluations, case.best
    if (
        best is None
        or len(evaluations) < 4
        or (case.error_z is not None and abs(case.error_z) >= SIGNIFICANT)
    ):
        return False
    after = sum(evaluation.step > best.step for evaluation in evaluations)
    return after >= 20 or case.finished


def _against_convergence(case: Case) -> list[str]:
    """What keeps a run that has come to rest from being called converged."""
    reasons = []
    if not case.beats_no_model:
        reasons.append(
            "Held-out rows are not answered better than without a model, as far as these rows can tell."
        )
    weak = [finding.subject for finding in case.found("weak_category") if finding.severity != "info"]
    if weak:
        reasons.append(f"The model is weak in {listed(weak)}.")
    others = {finding.kind for finding in case.open if finding.severity != "info"} - {"weak_category"}
    if others:
        reasons.append(f"Findings are open: {listed(sorted(others))}.")
    return reasons


def usable(case: Case, verdict: Verdict) -> bool:
    """Whether the kept weights beat no model, on figures that can be trusted."""
    if case.best is None or not math.isfinite(case.best.figure) or verdict is Verdict.UNSOUND:
        return False
    # What was learnt by heart from targets that do not belong to the inputs is of no use, however it scores.
    return case.beats_no_model and not case.found("memorization")


def _causes(case: Case) -> list[Finding]:
    """Open findings of weight that nothing else explains."""
    return [
        finding
        for finding in case.open
        if finding.severity != "info" and not finding.cause_finding_id and finding.kind != "weak_category"
    ]


def _no_gap(newest: EvaluationSignals | None) -> bool:
    """Whether held-out rows cost hardly more than those of train: what limits the model is not what it has not seen."""
    return newest is not None and newest.loss <= 1.25 * newest.train_loss


def _material(evaluation: EvaluationSignals, *, by_error: bool) -> float:
    """The smallest fall of the figure worth naming: half a standard error of an error ratio, a hundredth of a loss."""
    error = evaluation.error_ratio
    if error is None or not by_error:
        return 0.01 * abs(evaluation.figure)
    return 0.5 * math.sqrt(error * (1 - error) / max(1, evaluation.examples))


def _went(before: EvaluationSignals, after: EvaluationSignals) -> str:
    if (
        before.error_ratio is not None
        and after.error_ratio is not None
        and before.error_ratio != after.error_ratio
    ):
        return f"their error went from {percent(before.error_ratio)} to {percent(after.error_ratio)}"
    return f"their loss went from {figure(before.loss)} to {figure(after.loss)}"
