"""The model gives hardly any answer but the commonest (FM-19)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from gradsight_insight.held_out import newest
from gradsight_insight.kinds import Family, FindingKind, Number, Observation, Threshold
from gradsight_insight.signals import CategorySignals, EvaluationSignals, RunFacts, Signals
from gradsight_insight.statistics import mann_kendall_z
from gradsight_insight.wording import listed, percent

PREDICTION_COLLAPSE = FindingKind(
    code="FM-19",
    name="prediction_collapse",
    title="Prediction collapse",
    severity="warning",
    you_see=(
        "Nearly all rows get the same answer, or rare classes are never answered at all. The error may look good: "
        "with 95 % of the rows in one class, always answering that class errs in 5 %."
    ),
    mechanism=(
        "Raising the score of a frequent class for every row lowers the mean loss at once, without looking at the "
        "inputs; it is the first thing that gradient descent finds. To answer a rare class, the inputs must "
        "outweigh that head start, and its rows are few, so their gradients are a whisper in each batch. Where the "
        "imbalance is strong or the inputs say little, training stays there: the rare classes' scores never come "
        "out on top."
    ),
    rule=(
        "After `least_budget` of the budget, at `confirmations` evaluations in a row: the entropy of the answers is "
        "below `entropy_share` of that of the targets, and the training loss does not fall any more (no falling "
        "trend over the last 20 blocks) or half the budget is used. Or, where the largest class has more than "
        "`imbalance` times the training rows of others and the loss does not weigh classes: classes that rare are "
        "answered wrong in at least `rare_error` of their held-out rows, at least 5 of them."
    ),
    look_alikes=(
        "The first steps: the bias is learnt first and then made up for. Hence the part of the budget that must be "
        "over.",
        "A world that is as skewed: if 95 % of the rows are of one class in use as well, a low overall error may be "
        "all that counts. Set `evaluation.category_impacts` to say what a rare error costs.",
        "A model that does not learn at all (FM-12) collapses too; that is then the cause.",
    ),
    actions=(
        "Weigh classes by the inverse root of their rows (`objective.class_weights`).",
        "Collect rows of the rare classes; a few hundred do more than any weighting.",
        "Judge by macro-F1 or by the error of each class, not by the overall error.",
        "Merge classes that are too rare to learn into one, and treat that one by hand.",
    ),
    gradsight_does=(
        "Reports the finding under every policy, with the answer that swallows the others, and gives macro-F1 and "
        "errors by class beside the overall error. It does not weigh classes by itself: that changes the recipe."
    ),
    sources=(
        "Amazon SageMaker Debugger, ClassImbalance (ratio 10, misprediction 0.7)",
        "TheDeepChecker, arXiv 2204.00694 (label perplexity)",
        "A. Karpathy, A Recipe for Training Neural Networks (2019): initialize the final bias well",
    ),
    thresholds={
        "entropy_share": Threshold(
            default=0.5,
            low=0.0,
            high=1.0,
            meaning="Entropy of the answers over that of the targets, at least.",
        ),
        "imbalance": Threshold(
            default=10,
            low=1,
            high=1e6,
            meaning="Training rows of the largest class over those of a rare one.",
        ),
        "rare_error": Threshold(
            default=0.7, low=0.0, high=1.0, meaning="Error ratio of the rare classes' held-out rows, at most."
        ),
        "least_budget": Threshold(
            default=0.1, low=0.0, high=1.0, meaning="Share of the budget that must be used before it is said."
        ),
        "confirmations": Threshold(
            default=3, low=1, high=50, meaning="Evaluations in a row at which it must hold before it is said."
        ),
    },
)


def _find(signals: Signals, thresholds: Mapping[str, Mapping[str, float]]) -> Sequence[Observation]:
    """At most one: that of all answers says more than that of the rare ones."""
    limits = thresholds[PREDICTION_COLLAPSE.name]
    evaluations = newest(signals, int(limits["confirmations"]))
    if not evaluations or evaluations[0].step < limits["least_budget"] * signals.facts.total_steps:
        return ()
    one_answer = None if _still_falling(signals) else _one_answer(evaluations, limits)
    found = one_answer or _rare_classes(signals.facts, evaluations, limits)
    return () if found is None else (found,)


COLLAPSE = Family(kinds=(PREDICTION_COLLAPSE,), find=_find, at_evaluations=True)


def _still_falling(signals: Signals) -> bool:
    """Whether the training loss is on its way: then the answers may still part."""
    early = signals.step < 0.5 * signals.facts.total_steps
    return early and mann_kendall_z(signals.block_loss[-20:]) <= -1.64


def _one_answer(evaluations: Sequence[EvaluationSignals], limits: Mapping[str, float]) -> Observation | None:
    shares = [evaluation.answer_entropy_ratio for evaluation in evaluations]
    if not all(share is not None and share < limits["entropy_share"] for share in shares):
        return None
    now, share = evaluations[-1], shares[-1] or 0.0
    wrongly = Counter[str]()
    for _, answer, rows in now.confusions:
        wrongly[answer] += rows
    swallowed = (
        f" Of the wrong answers that occur most, {wrongly.most_common(1)[0][1]} are "
        f"{listed([wrongly.most_common(1)[0][0]])}."
        if wrongly
        else ""
    )
    error = f" Held-out error is {percent(now.error_ratio)}." if now.error_ratio is not None else ""
    return Observation(
        kind=PREDICTION_COLLAPSE.name,
        first_step=evaluations[0].step,
        last_step=now.step,
        evidence=(
            Number(
                name="answer_entropy_ratio",
                observed=share,
                threshold=limits["entropy_share"],
                first_step=evaluations[0].step,
                last_step=now.step,
            ),
        ),
        confidence=0.9,
        explanation=(
            f"The answers vary only {percent(share)} as much as the targets do: nearly every row gets the same "
            f"one.{swallowed}{error} Raising the commonest answer's score lowers the loss without looking at the "
            "inputs, and training has not got past that."
        ),
    )


def _rare_classes(
    facts: RunFacts, evaluations: Sequence[EvaluationSignals], limits: Mapping[str, float]
) -> Observation | None:
    rare = rare_classes(facts, limits["imbalance"])
    if not rare or facts.balances_classes:
        return None
    found = [_of_rare(evaluation, rare) for evaluation in evaluations]
    if not all(errors >= 5 and errors >= limits["rare_error"] * examples for errors, examples in found):
        return None
    counts, (errors, examples), now = facts.class_counts, found[-1], evaluations[-1]
    assert counts is not None
    smallest = counts[counts > 0].min()
    number = partial(Number, first_step=evaluations[0].step, last_step=now.step)
    return Observation(
        kind=PREDICTION_COLLAPSE.name,
        first_step=evaluations[0].step,
        last_step=now.step,
        evidence=(
            number(name="imbalance", observed=float(counts.max() / smallest), threshold=limits["imbalance"]),
            number(name="rare_error_ratio", observed=errors / examples, threshold=limits["rare_error"]),
            number(name="rare_rows", observed=examples, unit="rows"),
        ),
        confidence=0.8,
        explanation=(
            f"Train has up to {counts.max() / smallest:.0f} times as many rows of one class as of another, and "
            f"of the {examples} held-out rows of the rare ones ({listed(rare)}) {errors} are answered wrong. "
            "Their gradients are outvoted in every batch, so the frequent classes win; the overall error of "
            f"{percent(now.error_ratio or 0)} hides it."
        ),
    )


def rare_classes(facts: RunFacts, imbalance: float) -> list[str]:
    """Classes with training rows, but less than the largest class has over `imbalance`."""
    counts = facts.class_counts
    if counts is None or len(counts) < 2 or not counts.sum() > 0:
        return []
    names = (
        facts.class_names
        if len(facts.class_names) == len(counts)
        else [str(code) for code in range(len(counts))]
    )
    return [name for name, count in zip(names, counts, strict=True) if 0 < count * imbalance < counts.max()]


def _of_rare(evaluation: EvaluationSignals, rare: Sequence[str]) -> tuple[int, int]:
    """Errors and rows of the rare classes; 0 and 1 where they are not known, which no rule takes for rare."""
    members: list[CategorySignals] = [entry for entry in evaluation.classes if entry.category in rare]
    examples = sum(entry.examples for entry in members)
    return (sum(entry.errors for entry in members), examples) if examples else (0, 1)
