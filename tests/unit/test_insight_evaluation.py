import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradsight_insight.categories import MOST_CATEGORIES, Categories
from gradsight_insight.evaluation import evaluate, prior_baseline, wilson_interval


def _column(*names: str) -> Categories:
    return Categories.of(np.array(names, dtype=object))


def test_figures_by_category_count_and_average_the_rows_of_that_category() -> None:
    evaluation = evaluate(
        np.array([1.0, 2.0, 4.0, 0.5], dtype=np.float32),
        np.array([True, False, False, True]),
        _column("sizing", "returns", "returns", "returns"),
    )
    assert (evaluation.examples, evaluation.errors, evaluation.error_ratio) == (4, 2, 0.5)
    assert evaluation.loss == pytest.approx(1.875)
    returns, sizing = evaluation.categories
    assert (returns.category, returns.examples, returns.errors) == ("returns", 3, 2)
    assert returns.error_ratio == pytest.approx(2 / 3)
    assert returns.loss == pytest.approx(6.5 / 3)
    assert (sizing.category, sizing.examples, sizing.errors, sizing.loss) == ("sizing", 1, 0, 1.0)


def test_without_categories_the_weighted_error_is_the_error() -> None:
    evaluation = evaluate(np.ones(3), np.array([True, False, False]))
    assert evaluation.weighted_error_ratio == evaluation.error_ratio == 2 / 3
    assert evaluation.categories == ()


def test_an_impact_makes_errors_of_its_category_count_more() -> None:
    categories = _column("returns", "sizing", "sizing", "sizing")
    correct = np.array([False, True, True, True])
    plain = evaluate(np.ones(4), correct, categories)
    weighted = evaluate(np.ones(4), correct, categories, {"returns": 3.0, "absent": 100.0})
    assert plain.weighted_error_ratio == plain.error_ratio == 0.25
    assert weighted.weighted_error_ratio == 0.5
    assert weighted.error_ratio == 0.25


def test_impacts_that_leave_no_row_fall_back_to_the_plain_error() -> None:
    evaluation = evaluate(np.ones(2), np.array([True, False]), _column("a", "a"), {"a": 0.0})
    assert evaluation.weighted_error_ratio == 0.5


def test_a_rare_category_keeps_its_impact_when_it_is_folded_into_other() -> None:
    names = [f"c{number:03}" for number in range(MOST_CATEGORIES)] * 2 + ["rare"]
    correct = np.array([True] * (len(names) - 1) + [False])
    evaluation = evaluate(np.ones(len(names)), correct, _column(*names), {"rare": 200.0})
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
    evaluation = evaluate(np.array([math.nan, 1.0]), np.array([True, True]), _column("a", "b"))
    assert math.isnan(evaluation.loss)
    assert math.isnan(evaluation.categories[0].loss)
    assert evaluation.categories[1].loss == 1.0


def test_vectors_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="3 losses, 2 answers, no categories"):
        evaluate(np.ones(3), np.array([True, True]))
    with pytest.raises(ValueError, match="at least one row"):
        evaluate(np.ones(0), np.zeros(0, dtype=bool))
    with pytest.raises(ValueError, match="impact of category 'a': got -1"):
        evaluate(np.ones(1), np.array([True]), _column("a"), {"a": -1.0})
    with pytest.raises(ValueError, match="allowed 0 to 0"):
        Categories(names=("a",), codes=np.array([0, 1]))


@pytest.mark.parametrize(
    ("errors", "examples", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_intervals_agree_with_published_ones(
    errors: int, examples: int, low: float, high: float
) -> None:
    interval = wilson_interval(errors, examples)
    assert interval == pytest.approx((low, high), abs=1e-4)


def test_a_wilson_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 errors in 0 examples"):
        wilson_interval(0, 0)


def test_the_prior_answers_the_most_frequent_class_of_train() -> None:
    prior = prior_baseline(np.array([0, 0, 0, 1]), np.array([0, 1, 1, 0]), 2)
    assert prior.error_ratio == 0.5
    assert prior.loss == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)


def test_the_prior_of_balanced_classes_loses_the_logarithm_of_their_number() -> None:
    assert prior_baseline(np.arange(7), np.arange(7), 7).loss == pytest.approx(math.log(7))


def test_the_prior_stays_finite_for_a_class_that_train_lacks() -> None:
    prior = prior_baseline(np.array([0, 0]), np.array([1]), 2)
    assert prior == pytest.approx((1.0, math.log(5)))


def test_light_parts_bring_no_numpy() -> None:
    script = "import gradsight_insight.history, gradsight_insight.gain, sys; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
