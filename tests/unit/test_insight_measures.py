"""Figures by kind of answer, each against the definition written out naively; and what no model would cost."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradsight_insight.measures import (
    macro_f1,
    macro_f1_of_labels,
    mean_absolute,
    perplexity,
    root_mean_square,
)
from gradsight_insight.priors import class_prior


def _f1(pairs: list[tuple[bool, bool]]) -> float | None:
    """F1 of one class from pairs of (is it, was it answered), by precision and recall."""
    right = sum(target and answered for target, answered in pairs)
    targets, answers = sum(target for target, _ in pairs), sum(answered for _, answered in pairs)
    if not targets and not answers:
        return None
    if not right:
        return 0.0
    precision, recall = right / answers, right / targets
    return 2 * precision * recall / (precision + recall)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=50))
def test_macro_f1_is_the_mean_of_the_classes_that_occur(pairs: list[tuple[int, int]]) -> None:
    scores = [_f1([(target == number, answer == number) for target, answer in pairs]) for number in range(5)]
    present = [score for score in scores if score is not None]
    targets, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    assert macro_f1(targets, predicted, 5) == pytest.approx(sum(present) / len(present))


@given(st.lists(st.tuples(*[st.booleans()] * 6), min_size=1, max_size=30))
def test_macro_f1_of_labels_is_the_mean_of_the_labels_that_occur(rows: list[tuple[bool, ...]]) -> None:
    table = np.array(rows)
    targets, predicted = table[:, :3], table[:, 3:]
    scores = [_f1(list(zip(targets[:, n].tolist(), predicted[:, n].tolist(), strict=True))) for n in range(3)]
    present = [score for score in scores if score is not None]
    expected = sum(present) / len(present) if present else None
    assert macro_f1_of_labels(targets, predicted) == (expected and pytest.approx(expected))


def test_a_perfect_model_has_f1_1_and_one_that_answers_the_commonest_class_pays_for_the_others() -> None:
    targets = np.array([0, 0, 0, 1])
    assert macro_f1(targets, targets, 3) == 1.0
    assert macro_f1(targets, np.zeros(4, dtype=np.int64), 3) == pytest.approx((6 / 7 + 0) / 2)


@pytest.mark.parametrize("predicted", [[0], [0, 3], [-1, 0]])
def test_classes_that_do_not_fit_are_refused(predicted: list[int]) -> None:
    with pytest.raises(ValueError, match="allowed: one per row"):
        macro_f1(np.array([0, 1]), np.array(predicted), 3)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50))
def test_distances_are_those_of_the_definition_and_absolute_at_most_square(residuals: list[float]) -> None:
    column = np.array(residuals, dtype=np.float32)
    square = math.sqrt(math.fsum(value * value for value in residuals) / len(residuals))
    absolute = math.fsum(abs(value) for value in residuals) / len(residuals)
    assert root_mean_square(column) == pytest.approx(square, rel=1e-9)
    assert mean_absolute(column) == pytest.approx(absolute, rel=1e-9)
    assert mean_absolute(column) <= root_mean_square(column) * (1 + 1e-9)


def test_perplexity_of_even_odds_is_their_number_and_a_hopeless_loss_is_infinite() -> None:
    assert perplexity(math.log(512)) == pytest.approx(512)
    assert perplexity(1e6) == math.inf
    assert math.isnan(perplexity(math.nan))


def test_the_prior_answers_the_most_frequent_class_of_train() -> None:
    prior = class_prior(np.array([3, 1]), np.array([2, 2]))
    assert prior.error_ratio == 0.5
    assert prior.loss == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)


def test_the_prior_of_balanced_classes_loses_the_logarithm_of_their_number() -> None:
    assert class_prior(np.ones(7, dtype=np.int64), np.arange(7)).loss == pytest.approx(math.log(7))


def test_the_prior_stays_finite_for_a_class_that_train_lacks() -> None:
    prior = class_prior(np.array([2, 0]), np.array([0, 1]))
    assert prior == pytest.approx((1.0, math.log(5)))


def test_a_prior_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 held-out rows"):
        class_prior(np.array([1, 1]), np.array([0, 0]))
