"""Patience runs out after the evaluations that the spec grants, and survives a resume."""

import json
import math

import pytest

from gradsight_worker.training.patience import Patience


def test_patience_runs_out_after_so_many_evaluations_without_improvement() -> None:
    patience = Patience(3)
    assert [patience.observe(figure) for figure in (0.5, 0.4, 0.4, 0.45, 0.41)] == [
        False,
        False,
        False,
        False,
        True,
    ]
    assert patience.message == "no improvement in 3 evaluations"


def test_an_improvement_starts_the_count_anew() -> None:
    patience = Patience(2)
    assert not any(patience.observe(figure) for figure in (0.5, 0.6, 0.4, 0.6, 0.3, 0.6))
    assert patience.observe(0.3)


def test_a_fall_of_just_the_least_improvement_does_not_count_but_small_falls_add_up() -> None:
    patience = Patience(2, min_improvement=0.25)
    assert not patience.observe(1.0)
    assert not patience.observe(0.75)
    assert not patience.observe(0.7)
    assert not patience.observe(0.7)
    assert patience.observe(0.7)


@pytest.mark.parametrize("figure", [math.nan, math.inf])
def test_a_figure_that_is_not_finite_is_no_improvement_even_as_the_first(figure: float) -> None:
    patience = Patience(1)
    assert patience.observe(figure)


def test_without_a_limit_it_never_runs_out() -> None:
    patience = Patience(None)
    assert not any(patience.observe(1.0) for _ in range(1000))


def test_a_restored_patience_goes_on_where_it_was() -> None:
    patience = Patience(2)
    patience.observe(0.5)
    patience.observe(0.6)
    resumed = Patience(2)
    resumed.restore(json.loads(json.dumps(patience.state())))
    assert resumed.observe(0.5)
    fresh = Patience(2)
    fresh.restore(json.loads(json.dumps(Patience(2).state())))
    assert not fresh.observe(0.9)
