import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradsight_insight.history import Point, last_valid_steps, thin, thinned_places, without_superseded


def test_points_beyond_a_later_attempts_start_are_superseded() -> None:
    first = [Point(1, step, 1.0) for step in range(1, 8)]
    second = [Point(2, step, 2.0) for step in range(6, 9)]
    kept = without_superseded([*first, *second], {1: 0, 2: 5})
    assert [(point.attempt, point.step) for point in kept] == [
        *((1, step) for step in range(1, 6)),
        *((2, step) for step in range(6, 9)),
    ]


def test_an_attempt_that_falls_back_further_supersedes_all_before_it() -> None:
    assert last_valid_steps({1: 0, 2: 50, 3: 20, 4: 30}) == {1: 20, 2: 20, 3: 30, 4: math.inf}


def test_an_attempt_from_the_beginning_keeps_only_step_zero_of_the_others() -> None:
    points = [Point(1, 0, 9.0), Point(1, 1, 1.0), Point(2, 1, 2.0)]
    assert without_superseded(points, {1: 0, 2: 0}) == [Point(1, 0, 9.0), Point(2, 1, 2.0)]


def test_a_point_of_an_unknown_attempt_is_refused() -> None:
    with pytest.raises(ValueError, match="point of attempt 3, allowed: \\[1\\]"):
        without_superseded([Point(3, 1, 1.0)], {1: 0})


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20)), min_size=1, max_size=6),
)
def test_what_remains_is_one_curve_without_a_step_twice(attempts: list[tuple[int, int]]) -> None:
    resumed_at, points, reached = {}, [], 0
    for attempt, (back, taken) in enumerate(attempts, start=1):
        resumed_at[attempt] = max(0, reached - back)
        reached = resumed_at[attempt] + taken
        points += [Point(attempt, step, 0.0) for step in range(resumed_at[attempt] + 1, reached + 1)]
    kept = without_superseded(points, resumed_at)
    assert [point.step for point in kept] == list(range(1, reached + 1))


@given(st.lists(st.floats(allow_nan=True, width=32), max_size=200), st.integers(1, 40))
def test_a_thinned_curve_keeps_its_extremes_and_its_end(values: list[float], most: int) -> None:
    places = thinned_places(values, most)
    assert len(places) <= most
    assert places == sorted(set(places))
    if not values:
        return
    assert places[-1] == len(values) - 1
    if most >= 3:
        kept = [values[place] for place in places]
        finite = [value for value in values if not math.isnan(value)]
        assert not finite or min(finite) in kept
        if len(finite) == len(values):
            assert max(values) in kept
        else:
            assert any(math.isnan(value) or value == math.inf for value in kept)


def test_a_short_curve_is_kept_whole() -> None:
    points = [Point(1, step, -float(step)) for step in range(5)]
    assert thin(points, 5) == points
    assert thin(points, 1) == points[-1:]
    with pytest.raises(ValueError, match="max_points: got 0"):
        thin(points, 0)


def test_a_single_spike_in_a_long_curve_stays() -> None:
    values = [1.0] * 100_000
    values[54_321] = 7.0
    assert 54_321 in thinned_places(values, 30)
