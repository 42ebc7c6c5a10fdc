"""Is the new model better than the old one? Both answered the same rows, so only the rows they differ on count.

The test is McNemar's, exact (`mcnemar.py`). It speaks for these two models on these rows; it knows nothing of other
seeds: two trainings of the same job differ, too.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from gradsight_insight.categories import Categories
from gradsight_insight.evaluation import NO_IMPACTS, evaluate
from gradsight_insight.mcnemar import exact_p_value, shared_level, smallest_detectable_fall, weighted_p_value
from gradsight_insight.statistics import Interval, wilson


class Change(enum.StrEnum):
    """What the rows say about the error."""

    IMPROVED = "improved"
    """It fell, significantly."""
    REGRESSED = "regressed"
    """It rose, significantly."""
    NO_SIGNIFICANT_CHANGE = "no_significant_change"
    """Neither, and a fall worth knowing of would have shown."""
    INSUFFICIENT_EVIDENCE = "insufficient_evidence"
    """Neither, but these rows could not even have shown a fall worth knowing of."""


class ComparisonVerdict(enum.StrEnum):
    """What a comparison comes to."""

    IMPROVED = "improved"
    """Something got better, nothing got worse."""
    REGRESSED = "regressed"
    """Something got worse, nothing got better."""
    MIXED = "mixed"
    """Some got better, some got worse."""
    NO_SIGNIFICANT_CHANGE = "no_significant_change"
    """No difference beyond chance."""
    NOT_COMPARABLE = "not_comparable"
    """The two were not judged on the same rows."""


@dataclass(frozen=True, kw_only=True)
class Criteria:
    """When a change counts."""

    level: float = 0.05
    """Chance of calling a change where there is none, 0 to 1, both exclusive: once for the overall change, and once
    for all categories together."""
    material_fall: float = 0.1
    """Fall of the share of right answers that one wants to know of, 0 to 1."""

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level: got {self.level!r}, allowed: between 0 and 1")
        if not 0 <= self.material_fall <= 1:
            raise ValueError(f"material_fall: got {self.material_fall!r}, allowed: 0 to 1")


@dataclass(frozen=True, kw_only=True)
class PairedChange:
    """Old against new on the same rows."""

    examples: int
    """Rows."""
    baseline_errors: int
    """Rows that the old model got wrong."""
    errors: int
    """Rows that the new model got wrong."""
    only_baseline_wrong: int
    """Rows that only the old model got wrong."""
    only_new_wrong: int
    """Rows that only the new model got wrong."""
    p_value: float
    """Two-sided, exact, 0 to 1."""
    level: float
    """What `p_value` must not exceed for a change to be significant."""
    smallest_detectable_fall: float | None
    """The smallest fall of the share of right answers that would have been significant, given the rows that became
    right, above 0 to 1; None when no outcome would have been."""
    change: Change

    @property
    def baseline_error_ratio(self) -> float:
        """Share of rows that the old model got wrong, 0 to 1."""
        return self.baseline_errors / self.examples

    @property
    def error_ratio(self) -> float:
        """Share of rows that the new model got wrong, 0 to 1."""
        return self.errors / self.examples

    @property
    def baseline_error_interval(self) -> Interval:
        """95 % interval of `baseline_error_ratio`."""
        return wilson(self.baseline_errors, self.examples)

    @property
    def error_interval(self) -> Interval:
        """95 % interval of `error_ratio`. Overlapping intervals do not make a change insignificant: it is paired."""
        return wilson(self.errors, self.examples)


@dataclass(frozen=True, kw_only=True)
class CategoryChange(PairedChange):
    """Old against new in one category."""

    category: str
    impact: float = 1.0
    """How much an error in it counts, at least 0; of `other` the mean over its rows."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Old against new, overall and by category."""

    verdict: ComparisonVerdict
    message: str = ""
    """Why it is not comparable, or what limits the judgement; empty when nothing does."""
    overall: PairedChange | None
    """All rows, each counting the same; None when not comparable."""
    categories: tuple[CategoryChange, ...] = ()
    """Most frequent first, at most MOST_CATEGORIES, the rest as `other`; empty without categories."""
    baseline_weighted_error_ratio: float = 0.0
    """Share of rows that the old model got wrong, weighted by the categories' impact, 0 to 1."""
    weighted_error_ratio: float = 0.0
    """The same of the new model."""
    weighted_p_value: float = 1.0
    """Whether those two differ: two-sided, 0 to 1."""

    @classmethod
    def impossible(cls, message: str) -> Self:
        """No comparison, and why: other rows, answers that are not right or wrong, no result."""
        return cls(verdict=ComparisonVerdict.NOT_COMPARABLE, message=message, overall=None)

    @property
    def regressed_categories(self) -> tuple[CategoryChange, ...]:
        """Categories whose error rose, the largest impact first."""
        found = (category for category in self.categories if category.change is Change.REGRESSED)
        return tuple(sorted(found, key=lambda category: -category.impact))


_DEFAULT_CRITERIA = Criteria()


def compare(
    baseline_correct: npt.NDArray[np.bool_],
    correct: npt.NDArray[np.bool_],
    categories: Categories | None = None,
    criteria: Criteria = _DEFAULT_CRITERIA,
    impacts: Mapping[str, float] = NO_IMPACTS,
) -> Comparison:
    """Compare two models that answered the same rows in the same order.

    The verdict weighs: all rows together count as `impacts` says, and each category by itself counts unless its
    impact is 0. So a category that nobody minds cannot make a comparison REGRESSED, however many rows it has.
    Categories share the level (see `shared_level`), so that a job with many of them does not call chance a change.

    Args:
        baseline_correct: Whether the old model answered each row right, shape (rows,).
        correct: The same of the new model.
        categories: Category of each row; None when there are none.
        criteria: When a change counts.
        impacts: How much an error counts, by category, at least 0; others count 1. All 0 counts as all 1.

    Raises:
        ValueError: No rows, vectors of different lengths, or an impact that is below 0 or not finite.
    """
    rows = len(correct)
    if not rows or len(baseline_correct) != rows or (categories is not None and len(categories) != rows):
        raise ValueError(
            f"comparison: got {len(baseline_correct)} old answers, {rows} new answers, "
            f"{'no' if categories is None else len(categories)} categories; "
            "allowed: one of each per row, at least one row"
        )
    losses = np.zeros(rows)
    old = evaluate(losses, ~baseline_correct, categories=categories, impacts=impacts).weighted_error_ratio
    new = evaluate(losses, ~correct, categories=categories, impacts=impacts).weighted_error_ratio
    overall = _Counts.of(baseline_correct, correct).judged(criteria.level, criteria.material_fall)
    changes = (
        () if categories is None else _by_category(baseline_correct, correct, categories, criteria, impacts)
    )
    p_value = _weighted_p_value(baseline_correct, correct, categories, impacts)
    mean = Change.NO_SIGNIFICANT_CHANGE
    if p_value <= criteria.level and old is not None and new is not None and old != new:
        mean = Change.IMPROVED if new < old else Change.REGRESSED
    return Comparison(
        verdict=_verdict(mean, changes),
        message=_limits(overall, changes, criteria),
        overall=overall,
        categories=changes,
        baseline_weighted_error_ratio=old or 0.0,
        weighted_error_ratio=new or 0.0,
        weighted_p_value=p_value,
    )


def _verdict(mean: Change, categories: tuple[CategoryChange, ...]) -> ComparisonVerdict:
    said = {mean} | {category.change for category in categories if category.impact > 0}
    match Change.IMPROVED in said, Change.REGRESSED in said:
        case True, True:
            return ComparisonVerdict.MIXED
        case True, False:
            return ComparisonVerdict.IMPROVED
        case False, True:
            return ComparisonVerdict.REGRESSED
        case _:
            return ComparisonVerdict.NO_SIGNIFICANT_CHANGE


def _limits(overall: PairedChange, categories: tuple[CategoryChange, ...], criteria: Criteria) -> str:
    """What these rows cannot say, in a sentence; empty when they suffice."""
    wanted = f"a fall of {100 * criteria.material_fall:g} points in the share of right answers"
    if overall.change is Change.INSUFFICIENT_EVIDENCE:
        return f"{overall.examples} rows are too few to show {wanted}."
    few = [category.category for category in categories if category.change is Change.INSUFFICIENT_EVIDENCE]
    if not few:
        return ""
    named = ", ".join(few[:5]) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
    return f"Too few rows to show {wanted} in: {named}."


def _by_category(
    baseline_correct: npt.NDArray[np.bool_],
    correct: npt.NDArray[np.bool_],
    categories: Categories,
    criteria: Criteria,
    impacts: Mapping[str, float],
) -> tuple[CategoryChange, ...]:
    folded, weights = categories.folded(), _row_weights(categories, impacts)
    members = [folded.codes == code for code in range(len(folded.names))]
    counts = [_Counts.of(baseline_correct[rows], correct[rows]) for rows in members]
    level = shared_level([count.differing for count in counts], criteria.level)
    return tuple(
        CategoryChange(
            category=name,
            impact=float(weights[rows].mean()),
            **vars(count.judged(level, criteria.material_fall)),
        )
        for name, rows, count in zip(folded.names, members, counts, strict=True)
    )


def _row_weights(categories: Categories, impacts: Mapping[str, float]) -> npt.NDArray[np.float64]:
    return np.array([float(impacts.get(name, 1.0)) for name in categories.names])[categories.codes]


def _weighted_p_value(
    baseline_correct: npt.NDArray[np.bool_],
    correct: npt.NDArray[np.bool_],
    categories: Categories | None,
    impacts: Mapping[str, float],
) -> float:
    weights = np.ones(len(correct)) if categories is None else _row_weights(categories, impacts)
    if not weights.any():
        weights = np.ones(len(correct))
    values, codes = np.unique(weights, return_inverse=True)
    only_old = np.bincount(codes[~baseline_correct & correct], minlength=len(values))
    only_new = np.bincount(codes[baseline_correct & ~correct], minlength=len(values))
    return weighted_p_value(only_old.tolist(), only_new.tolist(), values.tolist())


@dataclass(frozen=True, kw_only=True)
class _Counts:
    examples: int
    baseline_errors: int
    errors: int
    only_baseline_wrong: int
    only_new_wrong: int

    @classmethod
    def of(cls, baseline_correct: npt.NDArray[np.bool_], correct: npt.NDArray[np.bool_]) -> "_Counts":
        return cls(
            examples=len(correct),
            baseline_errors=int((~baseline_correct).sum()),
            errors=int((~correct).sum()),
            only_baseline_wrong=int((~baseline_correct & correct).sum()),
            only_new_wrong=int((baseline_correct & ~correct).sum()),
        )

    @property
    def differing(self) -> int:
        return self.only_baseline_wrong + self.only_new_wrong

    def judged(self, level: float, material_fall: float) -> PairedChange:
        p_value = exact_p_value(self.only_baseline_wrong, self.only_new_wrong)
        fall = smallest_detectable_fall(self.examples, self.baseline_errors, self.only_baseline_wrong, level)
        if p_value <= level:
            change = Change.IMPROVED if self.errors < self.baseline_errors else Change.REGRESSED
        elif fall is None or fall > material_fall:
            change = Change.INSUFFICIENT_EVIDENCE
        else:
            change = Change.NO_SIGNIFICANT_CHANGE
        return PairedChange(
            **vars(self), p_value=p_value, level=level, smallest_detectable_fall=fall, change=change
        )
