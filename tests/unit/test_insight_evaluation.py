import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradsight_insight.categories import MOST_CATEGORIES, Categories
from gradsight_insight.evaluation import evaluate


def _column(*names: str) -> Categories:
    return Categories.of(np.array(names, dtype=object))


def test_figures_by_category_count_and_average_the_rows_of_that_category() -> None:
    evaluation = evaluate(
        np.array([1.0, 2.0, 4.0, 0.5], dtype=np.float32),
        np.array([False, True, True, False]),
        categories=_column("sizing", "returns", "returns", "returns"),
    )
    assert (evaluation.examples, evaluation.errors, evaluation.error_ratio) == (4, 2, 0.5)
    assert evaluation.loss == pytest.approx(1.875)
    returns, sizing = evaluation.categories
    assert (returns.category, returns.examples, returns.errors) == ("returns", 3, 2)
    assert returns.error_ratio == pytest.approx(2 / 3)
    assert returns.loss == pytest.approx(6.5 / 3)
    assert (sizing.category, sizing.examples, sizing.errors, sizing.loss) == ("sizing", 1, 0, 1.0)


def test_without_categories_the_weighted_error_is_the_error() -> None:
    evaluation = evaluate(np.ones(3), np.array([False, True, True]))
    assert evaluation.weighted_error_ratio == evaluation.error_ratio == 2 / 3
    assert evaluation.categories == ()


def test_an_impact_makes_errors_of_its_category_count_more() -> None:
    categories = _column("returns", "sizing", "sizing", "sizing")
    wrong = np.array([True, False, False, False])
    plain = evaluate(np.ones(4), wrong, categories=categories)
    weighted = evaluate(np.ones(4), wrong, categories=categories, impacts={"returns": 3.0, "absent": 100.0})
    assert plain.weighted_error_ratio == plain.error_ratio == 0.25
    assert weighted.weighted_error_ratio == 0.5
    assert weighted.error_ratio == 0.25


def test_impacts_that_leave_no_row_fall_back_to_the_plain_error() -> None:
    evaluation = evaluate(
        np.ones(2), np.array([True, False]), categories=_column("a", "a"), impacts={"a": 0.0}
    )
    assert evaluation.weighted_error_ratio == 0.5


def test_a_rare_category_keeps_its_impact_when_it_is_folded_into_other() -> None:
    names = [f"c{number:03}" for number in range(MOST_CATEGORIES)] * 2 + ["rare"]
    wrong = np.array([False] * (len(names) - 1) + [True])
    evaluation = evaluate(np.ones(len(names)), wrong, categories=_column(*names), impacts={"rare": 200.0})
    assert [figures.category for figures in evaluation.categories[-2:]] == ["c099", "other"]
    assert evaluation.weighted_error_ratio == 0.5


def test_a_category_named_other_joins_the_folded_ones() -> None:
    folded = _column("other", "other", "other", "a", "a", "b", "c").folded(2)
    assert folded.names == ("a", "b", "other")
    assert folded.counts().tolist() == [2, 1, 4]


def test_as_many_categories_as_allowed_are_not_folded() -> None:
    folded = _column("other", "a", "a").folded(2)
    assert folded.names == ("a", "other")


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60), st.integers(1, 8))
def test_folding_keeps_every_row_and_puts_frequent_categories_first(rows: list[str], most: int) -> None:
    categories = _column(*rows)
    folded = categories.folded(most)
    counts = folded.counts().tolist()
    assert sum(counts) == len(rows)
    assert counts[:most] == sorted(counts[:most], reverse=True)
    assert len(folded.names) <= most + 1
    for name, row in zip([folded.names[code] for code in folded.codes], rows, strict=True):
        assert name in (row, "other")


def test_a_loss_that_is_not_finite_spoils_only_its_own_category() -> None:
    evaluation = evaluate(np.array([math.nan, 1.0]), np.array([False, False]), categories=_column("a", "b"))
    assert math.isnan(evaluation.loss)
    assert math.isnan(evaluation.categories[0].loss)
    assert evaluation.categories[1].loss == 1.0


def test_numbers_have_a_loss_and_no_error() -> None:
    evaluation = evaluate(np.array([1.0, 5.0]), None, categories=_column("a", "b"), impacts={"b": 3.0})
    assert (evaluation.errors, evaluation.error_ratio, evaluation.weighted_error_ratio) == (None, None, None)
    assert (evaluation.loss, evaluation.weighted_loss) == (3.0, 4.0)
    assert [(figures.errors, figures.error_ratio) for figures in evaluation.categories] == [(None, None)] * 2


def test_a_category_without_weight_cannot_spoil_the_weighted_loss() -> None:
    losses = np.array([math.inf, 2.0])
    evaluation = evaluate(losses, None, categories=_column("a", "b"), impacts={"a": 0.0})
    assert (evaluation.loss, evaluation.weighted_loss) == (math.inf, 2.0)


def test_answers_that_count_weigh_rows_and_an_empty_row_is_left_out() -> None:
    evaluation = evaluate(
        np.array([1.0, 3.0, math.nan]),
        np.array([1, 2, 0]),
        counted=np.array([6, 2, 0]),
        categories=_column("long", "short", "empty"),
    )
    assert (evaluation.examples, evaluation.errors, evaluation.error_ratio) == (3, 3, 3 / 8)
    assert evaluation.loss == pytest.approx((6 * 1.0 + 2 * 3.0) / 8)
    empty, long, short = evaluation.categories
    assert (empty.errors, empty.error_ratio) == (0, None)
    assert math.isnan(empty.loss)
    assert (long.error_ratio, short.error_ratio, short.loss) == (1 / 6, 1.0, 3.0)


def test_a_split_in_which_nothing_counts_has_no_figures() -> None:
    evaluation = evaluate(np.array([math.nan]), np.array([0]), counted=np.array([0]))
    assert (evaluation.error_ratio, evaluation.weighted_error_ratio) == (None, None)
    assert math.isnan(evaluation.loss)


ROWS = st.lists(
    st.tuples(st.floats(0, 10), st.integers(0, 5), st.integers(0, 5), st.sampled_from("abc")), min_size=1
)
IMPACTS = st.dictionaries(st.sampled_from("abcd"), st.floats(0.125, 8) | st.just(0.0))


@given(ROWS, IMPACTS)
def test_figures_agree_with_sums_over_single_answers(
    rows: list[tuple[float, int, int, str]], impacts: dict[str, float]
) -> None:
    rows = [(loss, min(wrong, counted), counted, category) for loss, wrong, counted, category in rows]
    evaluation = evaluate(
        np.array([loss for loss, *_ in rows]),
        np.array([wrong for _, wrong, *_ in rows]),
        counted=np.array([counted for *_, counted, _ in rows]),
        categories=_column(*(category for *_, category in rows)),
        impacts=impacts,
    )
    answers = [
        (impacts.get(category, 1.0), loss, place < wrong)
        for loss, wrong, counted, category in rows
        for place in range(counted)
    ]
    assert evaluation.errors == sum(wrong for *_, wrong in answers)
    if not answers:
        assert evaluation.error_ratio is None
        return
    assert evaluation.loss == pytest.approx(sum(loss for _, loss, _ in answers) / len(answers))
    assert evaluation.error_ratio == pytest.approx(sum(wrong for *_, wrong in answers) / len(answers))
    total = sum(impact for impact, *_ in answers)
    if total:
        expected = sum(impact * wrong for impact, _, wrong in answers) / total
        assert evaluation.weighted_error_ratio == pytest.approx(expected)
        expected = sum(impact * loss for impact, loss, _ in answers) / total
        assert evaluation.weighted_loss == pytest.approx(expected)


def test_vectors_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="3 losses, 2 answers;"):
        evaluate(np.ones(3), np.array([True, True]))
    with pytest.raises(ValueError, match="at least one row"):
        evaluate(np.ones(0), np.zeros(0, dtype=bool))
    with pytest.raises(ValueError, match="impact of category 'a': got -1"):
        evaluate(np.ones(1), np.array([True]), categories=_column("a"), impacts={"a": -1.0})
    with pytest.raises(ValueError, match="allowed 0 to 0"):
        Categories(names=("a",), codes=np.array([0, 1]))


def test_light_parts_bring_no_numpy() -> None:
    script = "import gradsight_insight.history, gradsight_insight.gain, sys; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
