import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradsight_insight.categories import Categories
from gradsight_insight.comparison import (
    Change,
    Comparison,
    ComparisonVerdict,
    Criteria,
    PairedChange,
    compare,
)
from gradsight_insight.mcnemar import exact_p_value, smallest_detectable_fall, weighted_p_value

Answers = npt.NDArray[np.bool_]


def _answers(
    *, both_right: int = 0, only_new_wrong: int = 0, only_baseline_wrong: int = 0, both_wrong: int = 0
) -> tuple[Answers, Answers]:
    counts = [both_right, only_new_wrong, only_baseline_wrong, both_wrong]
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


def _overall(answers: tuple[Answers, Answers], criteria: Criteria | None = None) -> PairedChange:
    overall = compare(*answers, criteria=criteria or Criteria()).overall
    assert overall is not None
    return overall


def _by_category(
    parts: dict[str, tuple[Answers, Answers]], impacts: dict[str, float] | None = None
) -> Comparison:
    names = np.concatenate(
        [np.repeat(np.array([name], dtype=object), len(old)) for name, (old, _) in parts.items()]
    )
    old, new = (np.concatenate([part[side] for part in parts.values()]) for side in (0, 1))
    return compare(old, new, Categories.of(names), impacts=impacts or {})


@given(st.integers(0, 60), st.integers(0, 60))
def test_p_values_are_the_exact_binomial_ones(left: int, right: int) -> None:
    differing = left + right
    tail = sum(math.comb(differing, count) for count in range(min(left, right) + 1))
    exact = min(Fraction(1), Fraction(2 * tail, 2**differing))
    assert exact_p_value(left, right) == pytest.approx(float(exact), rel=1e-12)


def test_p_values_of_many_rows_meet_the_normal_approximation() -> None:
    left, right = 499_000, 501_000
    z = (right - left - 1) / math.sqrt(left + right)
    assert exact_p_value(left, right) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-3)
    assert exact_p_value(0, 100_000) == 0.0


def test_six_rows_one_way_are_a_change_and_five_are_not() -> None:
    assert _overall(_answers(both_right=50, only_new_wrong=6)).change is Change.REGRESSED
    assert _overall(_answers(both_right=50, only_baseline_wrong=6)).change is Change.IMPROVED
    five = _overall(_answers(both_right=95, only_new_wrong=5))
    assert five.change is Change.NO_SIGNIFICANT_CHANGE
    assert five.p_value == 0.0625


def test_counts_say_which_model_was_wrong() -> None:
    overall = _overall(_answers(both_right=5, only_new_wrong=1, only_baseline_wrong=3, both_wrong=2))
    assert (overall.examples, overall.baseline_errors, overall.errors) == (11, 5, 3)
    assert (overall.only_baseline_wrong, overall.only_new_wrong) == (3, 1)
    assert overall.baseline_error_ratio == 5 / 11
    assert overall.error_ratio == 3 / 11


def test_rows_that_could_not_show_a_material_fall_are_insufficient_evidence() -> None:
    few = _overall(_answers(both_right=30))
    assert few.smallest_detectable_fall == 6 / 30
    assert few.change is Change.INSUFFICIENT_EVIDENCE
    assert _overall(_answers(both_right=30), Criteria(material_fall=0.2)).change is (
        Change.NO_SIGNIFICANT_CHANGE
    )
    hopeless = _overall(_answers(both_right=5, both_wrong=100))
    assert hopeless.smallest_detectable_fall is None
    assert hopeless.change is Change.INSUFFICIENT_EVIDENCE


@given(st.integers(1, 80), st.data())
def test_the_smallest_detectable_fall_is_significant_and_one_row_less_is_not(
    examples: int, data: st.DataObject
) -> None:
    baseline_errors = data.draw(st.integers(0, examples))
    improved = data.draw(st.integers(0, baseline_errors))
    fall = smallest_detectable_fall(examples, baseline_errors, improved, 0.05)
    right = examples - baseline_errors
    if fall is None:
        assert right <= improved or exact_p_value(improved, right) > 0.05
        return
    worse = improved + round(fall * examples)
    assert improved < worse <= right
    assert exact_p_value(improved, worse) <= 0.05
    assert exact_p_value(improved, worse - 1) > 0.05


def test_categories_are_judged_apart() -> None:
    returns = _answers(both_right=90, only_baseline_wrong=10)
    sizing = _answers(both_right=72, only_new_wrong=8)
    categories = Categories.of(np.array(["returns"] * 100 + ["sizing"] * 80, dtype=object))
    comparison = compare(
        np.concatenate([returns[0], sizing[0]]), np.concatenate([returns[1], sizing[1]]), categories
    )
    assert [(change.category, change.change) for change in comparison.categories] == [
        ("returns", Change.IMPROVED),
        ("sizing", Change.REGRESSED),
    ]
    assert comparison.overall is not None
    assert comparison.overall.change is Change.NO_SIGNIFICANT_CHANGE
    assert comparison.verdict is ComparisonVerdict.MIXED


def test_categories_in_which_nothing_differs_do_not_cost_the_others_evidence() -> None:
    quiet = _answers(both_right=1000)
    loud = _answers(both_right=94, only_new_wrong=6)
    categories = Categories.of(
        np.array([f"quiet{row % 20}" for row in range(1000)] + ["loud"] * 100, dtype=object)
    )
    comparison = compare(np.concatenate([quiet[0], loud[0]]), np.concatenate([quiet[1], loud[1]]), categories)
    changes = {change.category: change.change for change in comparison.categories}
    assert changes.pop("loud") is Change.REGRESSED
    assert not {Change.REGRESSED, Change.IMPROVED} & set(changes.values())


def test_chance_alone_seldom_changes_any_of_many_categories() -> None:
    generator = np.random.default_rng(7)
    names = np.array([f"c{row % 40}" for row in range(4000)], dtype=object)
    categories = Categories.of(names)
    alarms = 0
    for _ in range(100):
        old, new = generator.random((2, 4000)) < 0.8
        changes = {change.change for change in compare(old, new, categories).categories}
        alarms += bool(changes & {Change.REGRESSED, Change.IMPROVED})
    assert alarms <= 10


def test_answers_of_different_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="2 old answers, 3 new answers"):
        compare(np.ones(2, dtype=bool), np.ones(3, dtype=bool))
    with pytest.raises(ValueError, match="at least one row"):
        compare(np.ones(0, dtype=bool), np.ones(0, dtype=bool))
    with pytest.raises(ValueError, match="level: got 0"):
        Criteria(level=0.0)


def test_intervals_are_wilsons() -> None:
    overall = _overall(_answers(both_right=90, only_new_wrong=7, both_wrong=3))
    assert overall.baseline_error_interval == pytest.approx((0.0103, 0.0845), abs=1e-4)
    assert overall.error_interval == pytest.approx((0.0552, 0.1744), abs=1e-4)


def test_a_category_that_got_worse_makes_it_regressed_although_the_mean_hardly_moves() -> None:
    comparison = _by_category(
        {
            "stock": _answers(both_right=900, only_new_wrong=9, only_baseline_wrong=14),
            "returns": _answers(both_right=70, only_new_wrong=9),
        }
    )
    assert comparison.verdict is ComparisonVerdict.REGRESSED
    assert [category.category for category in comparison.regressed_categories] == ["returns"]
    assert comparison.overall is not None
    assert comparison.overall.change is Change.NO_SIGNIFICANT_CHANGE


def test_a_category_without_impact_cannot_make_it_regressed() -> None:
    parts = {"stock": _answers(both_right=300), "small_talk": _answers(both_right=100, only_new_wrong=60)}
    assert _by_category(parts).verdict is ComparisonVerdict.REGRESSED
    comparison = _by_category(parts, {"small_talk": 0.0})
    assert comparison.verdict is ComparisonVerdict.NO_SIGNIFICANT_CHANGE
    assert comparison.weighted_error_ratio == comparison.baseline_weighted_error_ratio == 0.0
    assert [category.category for category in comparison.regressed_categories] == ["small_talk"]
    assert comparison.overall is not None
    assert comparison.overall.change is Change.REGRESSED


def test_impacts_turn_the_mean_to_the_categories_that_count() -> None:
    parts = {
        f"{name}{number}": _answers(both_right=100, **{side: 3})
        for number in range(6)
        for name, side in (("cheap", "only_baseline_wrong"), ("dear", "only_new_wrong"))
    }
    assert _by_category(parts).verdict is ComparisonVerdict.NO_SIGNIFICANT_CHANGE
    comparison = _by_category(parts, {f"dear{number}": 10.0 for number in range(6)})
    assert comparison.verdict is ComparisonVerdict.REGRESSED
    assert comparison.weighted_error_ratio > comparison.baseline_weighted_error_ratio


def test_without_any_impact_all_count_the_same() -> None:
    parts = {"a": _answers(both_right=50, only_new_wrong=10)}
    assert _by_category(parts, {"a": 0.0}).weighted_p_value == _by_category(parts).weighted_p_value < 0.01


def test_weighted_p_values_are_exact_for_one_weight_and_near_it_for_two_alike() -> None:
    assert weighted_p_value([3, 0], [9, 0], [2.0, 5.0]) == exact_p_value(3, 9)
    assert weighted_p_value([1, 2], [4, 5], [1.0, 1.0 + 1e-14]) == pytest.approx(
        exact_p_value(3, 9), abs=0.01
    )
    assert weighted_p_value([], [], []) == 1.0
    assert weighted_p_value([5], [0], [0.0]) == 1.0


def test_the_message_says_what_the_rows_cannot_show() -> None:
    assert _by_category({"a": _answers(both_right=400)}).message == ""
    assert "20 rows are too few" in _by_category({"a": _answers(both_right=20)}).message
    message = _by_category({"a": _answers(both_right=400), "rare": _answers(both_right=9)}).message
    assert message == "Too few rows to show a fall of 10 points in the share of right answers in: rare."


def test_what_cannot_be_compared_says_why() -> None:
    comparison = Comparison.impossible("The test rows differ.")
    assert comparison.verdict is ComparisonVerdict.NOT_COMPARABLE
    assert comparison.message == "The test rows differ."
    assert comparison.overall is None


def test_chance_alone_seldom_makes_a_comparison_regressed() -> None:
    generator = np.random.default_rng(11)
    categories = Categories.of(np.array([f"c{row % 12}" for row in range(1200)], dtype=object))
    impacts = {f"c{number}": 1.0 + number for number in range(6)}
    regressed = 0
    for _ in range(100):
        old, new = generator.random((2, 1200)) < 0.85
        verdict = compare(old, new, categories, impacts=impacts).verdict
        regressed += verdict in (ComparisonVerdict.REGRESSED, ComparisonVerdict.MIXED)
    assert regressed <= 9
