"""Is the new model better than the old one? Both answered the same rows, so only the rows they differ on count.

The test is McNemar's, exact: were both models equally good, a row that only one of them got wrong would be as likely
the one's as the other's. It speaks for these two models on these rows; it knows nothing of other seeds.
"""

import enum
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradsight_insight.categories import Categories


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


@dataclass(frozen=True, kw_only=True)
class CategoryChange(PairedChange):
    """Old against new in one category."""

    category: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Old against new, overall and by category."""

    overall: PairedChange
    categories: tuple[CategoryChange, ...]
    """Most frequent first, at most MOST_CATEGORIES, the rest as `other`; empty without categories."""


_DEFAULT_CRITERIA = Criteria()


def compare(
    baseline_correct: npt.NDArray[np.bool_],
    correct: npt.NDArray[np.bool_],
    categories: Categories | None = None,
    criteria: Criteria = _DEFAULT_CRITERIA,
) -> Comparison:
    """Compare two models that answered the same rows in the same order.

    Categories share the level, so that a job with many of them does not call chance a change. It is divided (Tarone)
    only by the number of categories in which the two models differ on enough rows to be called at all.

    Args:
        baseline_correct: Whether the old model answered each row right, shape (rows,).
        correct: The same of the new model.
        categories: Category of each row; None when there are none.
        criteria: When a change counts.

    Raises:
        ValueError: No rows, or vectors of different lengths.
    """
    rows = len(correct)
    if not rows or len(baseline_correct) != rows or (categories is not None and len(categories) != rows):
        raise ValueError(
            f"comparison: got {len(baseline_correct)} old answers, {rows} new answers, "
            f"{'no' if categories is None else len(categories)} categories; "
            "allowed: one of each per row, at least one row"
        )
    overall = _Counts.of(baseline_correct, correct)
    counts: dict[str, _Counts] = {}
    if categories is not None:
        folded = categories.folded()
        members = ((name, folded.codes == code) for code, name in enumerate(folded.names))
        counts = {name: _Counts.of(baseline_correct[rows], correct[rows]) for name, rows in members}
    level = _shared_level([count.differing for count in counts.values()], criteria.level)
    return Comparison(
        overall=overall.judged(criteria.level, criteria.material_fall),
        categories=tuple(
            CategoryChange(category=name, **vars(count.judged(level, criteria.material_fall)))
            for name, count in counts.items()
        ),
    )


def exact_p_value(only_baseline_wrong: int, only_new_wrong: int) -> float:
    """Two-sided exact McNemar test: the chance of a split of the differing rows at least this uneven.

    Raises:
        ValueError: A count is below 0.
    """
    if only_baseline_wrong < 0 or only_new_wrong < 0:
        raise ValueError(f"got counts {only_baseline_wrong} and {only_new_wrong}, allowed: at least 0")
    fewer, differing = min(only_baseline_wrong, only_new_wrong), only_baseline_wrong + only_new_wrong
    if 2 * fewer == differing:
        return 1.0
    term = math.exp(
        math.lgamma(differing + 1)
        - math.lgamma(fewer + 1)
        - math.lgamma(differing - fewer + 1)
        - differing * math.log(2)
    )
    tail = term
    # From the largest term down; the rest is lost in rounding after some √differing terms.
    for successes in range(fewer, 0, -1):
        term *= successes / (differing - successes + 1)
        tail += term
        if term <= tail * 1e-17:
            break
    return min(1.0, 2 * tail)


def smallest_detectable_fall(
    examples: int, baseline_errors: int, only_baseline_wrong: int, level: float
) -> float | None:
    """The smallest significant fall of the share of right answers on these rows.

    Args:
        examples: Rows, at least 1.
        baseline_errors: Rows that the old model got wrong; the others can become wrong.
        only_baseline_wrong: Rows that became right; a fall has to outweigh them.
        level: What the p value must not exceed.

    Returns:
        The fall, above 0 to 1; None when not even all right answers becoming wrong would be significant.
    """
    low, high = only_baseline_wrong + 1, examples - baseline_errors
    if high < low or exact_p_value(only_baseline_wrong, high) > level:
        return None
    while low < high:
        middle = (low + high) // 2
        if exact_p_value(only_baseline_wrong, middle) <= level:
            high = middle
        else:
            low = middle + 1
    return (low - only_baseline_wrong) / examples


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


def _shared_level(differing: list[int], level: float) -> float:
    """The level for each of several tests so that all together keep to `level`."""
    smallest = [exact_p_value(0, count) for count in differing]
    tests = 1
    while sum(p_value <= level / tests for p_value in smallest) > tests:
        tests += 1
    return level / tests
