"""Categories that the mean hides: answered worse than the rest (FM-18), or worse than before."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

from gradsight_insight.detectors.collapse import rare_classes
from gradsight_insight.detectors.memorization import near_chance
from gradsight_insight.held_out import newest
from gradsight_insight.kinds import Family, FindingKind, Number, Observation, Severity, Threshold
from gradsight_insight.signals import CategorySignals, EvaluationSignals, Signals
from gradsight_insight.statistics import SIGNIFICANT, wilson
from gradsight_insight.wording import listed, percent

MOST_TOLD = 10
"""Categories that are told of at once, the worst first."""
_RISE_Z = 3.3
"""From which the error of a category counts as risen: it is compared with the best of many evaluations."""

WEAK_CATEGORY = FindingKind(
    code="FM-18",
    name="weak_category",
    title="Weak category",
    severity="warning",
    you_see=(
        "The overall error is fine, and one category is answered much worse than the others, or got worse while the "
        "overall error fell. Customers of that category see a bad model; the mean does not show it."
    ),
    mechanism=(
        "The loss is a mean over rows, so the gradient is as well: each category pulls at the weights with "
        "the number of its rows. What lowers the loss of a frequent category a little is worth more than what "
        "lowers that of a rare one a lot, and where the two want different things of the same weights the "
        "rare one loses. A category also stays behind when part of its labels is wrong (its rows pull in two "
        "directions), when its wordings are more varied than its rows can show, or when two categories mean "
        "nearly the same."
    ),
    rule=(
        "After `least_budget` of the budget, with an overall error that is not near chance, at "
        "`confirmations` evaluations in a row, for a category of at least `least_examples` rows: the lower "
        "end of the 99 % interval (Wilson) of its error is above the overall error by more than `margin`. A "
        "category whose error stands out less (above that of all other rows by more than half the margin and "
        "twice as high) is told as information when chance would not bring it (exact test, 1 % over all "
        "categories together), also with fewer rows. So is a category with less than `starved_share` of the "
        "median category's training rows whose error is above the overall one by `margin`. A category has "
        "regressed when its error is above its own best so far with z over 3.3, among evaluations whose "
        "overall error was within `margin` of now, while the overall error is not above what it was then. "
        "Everything is information only while the overall error still falls significantly or is above "
        "`good_error`. Without a category column the classes take the place of categories, and only rare ones "
        "(a tenth of the largest class) are more than information; what stands out and is starved is a "
        "warning, too."
    ),
    look_alikes=(
        "Few rows: with 12 rows, 3 wrong ones are 25 % and prove nothing. The interval says so.",
        "Under-training: early in a run hard categories are behind and catch up. Look whether the run is still "
        "improving.",
        "Ambiguous labels: two categories that are taken for each other, in both directions. No training resolves "
        "that.",
        "Wrong labels in the held-out rows of that category: then the model may be right.",
    ),
    actions=(
        "Read the wrong rows of that category, and the suspect rows of train: wrong labels show there.",
        "Collect more rows of it, above all wordings that are missing.",
        "If it is taken for one other category most of the time, say what tells the two apart, or merge them.",
        "Raise its weight: `objective.class_weights`, or `evaluation.category_impacts` for the choice of the "
        "checkpoint.",
    ),
    gradsight_does=(
        "Reports one finding per category under every policy, with its rows, its error and what it is taken "
        "for. It changes no weights of rows by itself: that trades one category's error for another's, and "
        "the trade is yours."
    ),
    sources=(
        "Sagawa et al., Distributionally Robust Neural Networks for Group Shifts, arXiv 1911.08731",
        "E. B. Wilson (1927), doi 10.1080/01621459.1927.10502953",
        "Deep Learning Tuning Playbook, google-research (2023)",
    ),
    thresholds={
        "margin": Threshold(
            default=0.1,
            low=0.0,
            high=1.0,
            meaning="Error ratio above the overall one that makes a category weak.",
        ),
        "least_examples": Threshold(
            default=30,
            low=1,
            high=1e6,
            meaning="Held-out rows from which a category is judged by its interval.",
        ),
        "good_error": Threshold(
            default=0.35,
            low=0.0,
            high=1.0,
            meaning="Overall error ratio from which a weak category is information only: a bad mean hides nothing.",
        ),
        "starved_share": Threshold(
            default=0.25,
            low=0.0,
            high=1.0,
            meaning="Training rows, as a share of the median category's, below which a category is starved.",
        ),
        "least_budget": Threshold(
            default=0.1, low=0.0, high=1.0, meaning="Share of the budget that must be used before it is said."
        ),
        "confirmations": Threshold(
            default=5, low=1, high=50, meaning="Evaluations in a row at which it must hold before it is said."
        ),
    },
)


def _find(signals: Signals, thresholds: Mapping[str, Mapping[str, float]]) -> Sequence[Observation]:
    """One observation a category, the worst first: regressed, else weak, else starved."""
    limits = thresholds[WEAK_CATEGORY.name]
    evaluations = newest(signals, int(limits["confirmations"]))
    if not evaluations or not _can_tell(signals, evaluations, limits):
        return ()
    found: list[Observation] = []
    for category in sorted(categories_of(evaluations[-1]), key=lambda category: -_ratio(category)):
        told = (
            _regressed(category.category, evaluations, limits, signals)
            or _weak(category.category, evaluations, limits, signals)
            or _starved(category, evaluations, limits, signals)
        )
        if told is not None and len(found) < MOST_TOLD:
            found.append(told)
    return tuple(found)


CATEGORIES = Family(kinds=(WEAK_CATEGORY,), find=_find, at_evaluations=True)


def categories_of(evaluation: EvaluationSignals) -> tuple[CategorySignals, ...]:
    """The categories, or the classes where there is no column of categories; those without rows are left out."""
    return tuple(evaluation.by_category.values())


def _can_tell(
    signals: Signals, evaluations: Sequence[EvaluationSignals], limits: Mapping[str, float]
) -> bool:
    """Whether the model is good enough for one category to be worse than the others."""
    told = signals.facts.judged_by_error and all(entry.error_ratio is not None for entry in evaluations)
    early = evaluations[0].step < limits["least_budget"] * signals.facts.total_steps
    return told and not early and not near_chance(signals.facts, evaluations[-1])


def _severity(
    name: str, signals: Signals, evaluations: Sequence[EvaluationSignals], limits: Mapping[str, float]
) -> Severity:
    """Information while the whole is bad or still catches up, and for a class that nobody named as a category."""
    earlier = signals.evaluations[: -len(evaluations)]
    if not earlier or (evaluations[-1].error_ratio or 0.0) >= limits["good_error"]:
        return "info"
    if _fall_z(earlier[-min(len(earlier), len(evaluations))], evaluations[-1]) > 1.64:
        return "info"
    if evaluations[-1].categories:
        return "warning"
    return "warning" if name in rare_classes(signals.facts, 10) else "info"


def _fall_z(before: EvaluationSignals, now: EvaluationSignals) -> float:
    """Fall of the overall error in standard errors, as if the rows were others."""
    then, after, rows = before.error_ratio or 0.0, now.error_ratio or 0.0, max(1, now.examples)
    error = math.sqrt((then * (1 - then) + after * (1 - after)) / rows)
    return (then - after) / error if error > 0 else 0.0


def exact_excess_p_value(errors: int, examples: int, all_errors: int, all_examples: int) -> float:
    """Chance that so many or more of all errors fall on these rows, were all rows alike (hypergeometric, one-sided)."""
    others = all_examples - examples
    first, last = max(errors, all_errors - others, 0), min(examples, all_errors)
    if errors <= max(0, all_errors - others):
        return 1.0
    whole = _log_choose(all_examples, all_errors)
    chance = math.fsum(
        math.exp(_log_choose(examples, count) + _log_choose(others, all_errors - count) - whole)
        for count in range(first, last + 1)
    )
    return min(1.0, chance)


def _weak(
    name: str, evaluations: Sequence[EvaluationSignals], limits: Mapping[str, float], signals: Signals
) -> Observation | None:
    levels = [_weakness(name, evaluation, limits) for evaluation in evaluations]
    if not min(levels):
        return None
    category = _named(name, evaluations[-1])
    assert category is not None
    now, ratio = evaluations[-1], _ratio(category)
    overall = now.error_ratio or 0.0
    low, high = wilson(category.errors, category.examples, SIGNIFICANT)
    number = partial(Number, first_step=evaluations[0].step, last_step=now.step)
    rows = _train_rows(name, signals)
    return Observation(
        kind=WEAK_CATEGORY.name,
        subject_kind="category",
        subject=name,
        first_step=evaluations[0].step,
        last_step=now.step,
        severity=_severity(name, signals, evaluations, limits)
        if min(levels) == 2 or _is_starved(name, limits, signals)
        else "info",
        evidence=(
            number(name="error_ratio", observed=ratio, threshold=overall + limits["margin"]),
            number(name="error_ratio_lower_end", observed=low),
            number(name="error_ratio_upper_end", observed=high),
            number(name="overall_error_ratio", observed=overall),
            number(name="held_out_rows", observed=category.examples, unit="rows"),
        ),
        confidence=0.9 if min(levels) == 2 else 0.6,
        explanation=(
            f"The model gets {category.errors} of {category.examples} '{name}' rows wrong ({percent(ratio)}; 99 % "
            f"interval {percent(low)} to {percent(high)}), against {percent(overall)} "
            f"overall.{_taken_for(name, now)}{rows} The gradient counts rows, so what helps the other categories "
            "comes first; the mean hides it."
        ),
    )


def _weakness(name: str, evaluation: EvaluationSignals, limits: Mapping[str, float]) -> int:
    """2: clearly weak; 1: it stands out; 0: neither."""
    category, categories = _named(name, evaluation), categories_of(evaluation)
    if category is None or len(categories) < 2:
        return 0
    # The widest of many categories at many evaluations is looked at: an interval of 99 %.
    low, _ = wilson(category.errors, category.examples, SIGNIFICANT)
    overall = evaluation.error_ratio or 0.0
    if category.examples >= limits["least_examples"] and low > overall + limits["margin"]:
        return 2
    errors, examples = sum(other.errors for other in categories), sum(other.examples for other in categories)
    if examples == category.examples:
        return 0
    rest = (errors - category.errors) / (examples - category.examples)
    if not _ratio(category) > max(rest + limits["margin"] / 2, 2 * rest):
        return 0
    chance = exact_excess_p_value(category.errors, category.examples, errors, examples)
    return int(chance <= 0.01 / len(categories))


def _regressed(
    name: str, evaluations: Sequence[EvaluationSignals], limits: Mapping[str, float], signals: Signals
) -> Observation | None:
    now = evaluations[-1]
    # An untrained model that gives one answer for everything is perfect in that category: no measure of the others.
    alike = (now.error_ratio or 0.0) + limits["margin"]
    earlier = [
        (_ratio(category), evaluation, category)
        for evaluation in signals.evaluations[: -len(evaluations)]
        if (category := _named(name, evaluation)) is not None
        and evaluation.error_ratio is not None
        and evaluation.error_ratio <= alike
    ]
    if not earlier:
        return None
    best, then, before = min(earlier, key=lambda entry: entry[0])
    found = [_named(name, evaluation) for evaluation in evaluations]
    risen = [category is not None and _rise_z(before, category) > _RISE_Z for category in found]
    category = found[-1]
    if not all(risen) or category is None or (now.error_ratio or 0.0) > (then.error_ratio or 0.0):
        return None
    number = partial(Number, first_step=then.step, last_step=now.step)
    return Observation(
        kind=WEAK_CATEGORY.name,
        subject_kind="category",
        subject=name,
        first_step=then.step,
        last_step=now.step,
        severity=_severity(name, signals, evaluations, limits),
        evidence=(
            number(name="error_ratio", observed=_ratio(category), threshold=best),
            number(name="rise_z", observed=_rise_z(before, category), threshold=_RISE_Z, unit="z"),
            number(name="overall_error_ratio", observed=now.error_ratio or 0.0, threshold=then.error_ratio),
            number(name="held_out_rows", observed=category.examples, unit="rows"),
        ),
        confidence=0.8,
        explanation=(
            f"'{name}' got worse while the whole got no worse: {before.errors} of {before.examples} rows were wrong "
            f"at step {then.step}, {category.errors} of {category.examples} are now, and the overall error went from "
            f"{percent(then.error_ratio or 0)} to {percent(now.error_ratio or 0)}.{_taken_for(name, now)} What the "
            "updates gained elsewhere was paid for here."
        ),
    )


def _rise_z(before: CategorySignals, now: CategorySignals) -> float:
    """Rise of the error in standard errors, as if the rows were others: wider than for the same rows."""
    rows = before.examples + now.examples
    pooled = (before.errors + now.errors) / rows
    error = math.sqrt(pooled * (1 - pooled) * (1 / before.examples + 1 / now.examples))
    return (_ratio(now) - _ratio(before)) / error if error > 0 else 0.0


def _starved(
    category: CategorySignals,
    evaluations: Sequence[EvaluationSignals],
    limits: Mapping[str, float],
    signals: Signals,
) -> Observation | None:
    now, overall = evaluations[-1], evaluations[-1].error_ratio or 0.0
    if not _is_starved(category.category, limits, signals) or _ratio(category) <= overall + limits["margin"]:
        return None
    rows, usual = signals.facts.category_counts[category.category], _usual_rows(signals)
    number = partial(Number, last_step=now.step)
    return Observation(
        kind=WEAK_CATEGORY.name,
        subject_kind="category",
        subject=category.category,
        first_step=evaluations[0].step,
        last_step=now.step,
        severity="info",
        evidence=(
            number(
                name="training_rows", observed=rows, threshold=limits["starved_share"] * usual, unit="rows"
            ),
            number(name="error_ratio", observed=_ratio(category), threshold=overall + limits["margin"]),
            number(name="held_out_rows", observed=category.examples, unit="rows"),
        ),
        confidence=0.5,
        explanation=(
            f"'{category.category}' has {rows} training rows where the usual category has {usual}, and "
            f"{category.errors} of its {category.examples} held-out rows are answered wrong ({percent(overall)} "
            "overall). So few rows can neither teach the model what belongs to it nor say how good it is there."
        ),
    )


def _is_starved(name: str, limits: Mapping[str, float], signals: Signals) -> bool:
    rows = signals.facts.category_counts.get(name)
    return rows is not None and rows < limits["starved_share"] * _usual_rows(signals)


def _usual_rows(signals: Signals) -> int:
    """Training rows of the median category; 0 without categories."""
    counts = sorted(signals.facts.category_counts.values())
    return counts[len(counts) // 2] if counts else 0


def _taken_for(name: str, evaluation: EvaluationSignals) -> str:
    """What rows of a class are most often taken for; empty for categories that are no classes."""
    taken = [(rows, answer) for target, answer, rows in evaluation.confusions if target == name]
    return f" Most often it is taken for {listed([max(taken)[1]])} ({max(taken)[0]} rows)." if taken else ""


def _train_rows(name: str, signals: Signals) -> str:
    rows = signals.facts.category_counts.get(name)
    return "" if rows is None else f" Train has {rows} rows of it."


def _named(name: str, evaluation: EvaluationSignals) -> CategorySignals | None:
    return evaluation.by_category.get(name)


def _ratio(category: CategorySignals) -> float:
    return category.errors / category.examples


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
