"""Trends, tests and intervals: known values, invariances, and nothing that is not finite breaks them."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradsight_insight import statistics
from gradsight_insight.statistics import (
    gain_ratio,
    generalization_loss,
    mann_kendall_z,
    mcnemar_z,
    paired_z,
    rises_in_succession,
    robust_spread,
    theil_sen_slope,
    wilson,
)

values = st.lists(st.integers(-1000, 1000), max_size=40)
anything = st.lists(st.floats(), max_size=40)


def test_mann_kendall_known_value() -> None:
    # S = 45 of 45 pairs, variance 10·9·25/18 = 125: (45 − 1)/√125.
    assert mann_kendall_z(range(10)) == pytest.approx(44 / math.sqrt(125))
    assert mann_kendall_z(range(10, 0, -1)) == pytest.approx(-44 / math.sqrt(125))


def test_mann_kendall_rarely_sees_a_trend_in_noise_even_when_neighbours_are_alike() -> None:
    generator = np.random.default_rng(0)
    plain = [abs(mann_kendall_z(generator.normal(size=60))) > 1.96 for _ in range(400)]
    alike = [abs(mann_kendall_z(autoregressive(generator, 60, 0.6))) > 1.96 for _ in range(400)]
    assert np.mean(plain) <= 0.09
    assert np.mean(alike) <= 0.22  # the plain test's: 0.35


def autoregressive(generator: np.random.Generator, n: int, share: float) -> npt.NDArray[np.float64]:
    noise = generator.normal(size=n)
    for place in range(1, n):
        noise[place] += share * noise[place - 1]
    return noise


@given(values)
def test_mann_kendall_is_odd_and_scale_free(x: list[int]) -> None:
    z = mann_kendall_z(x)
    assert mann_kendall_z([4.0 * value + 7 for value in x]) == pytest.approx(z)
    assert mann_kendall_z([-value for value in x]) == pytest.approx(-z, abs=0.35 * abs(z) + 1e-9)


def test_theil_sen_ignores_one_wild_value() -> None:
    line = [2.0 * place for place in range(20)]
    line[7] = 1e9
    assert theil_sen_slope(line) == pytest.approx(2.0, rel=0.05)


def test_paired_z_is_students_t() -> None:
    assert paired_z([1, 2, 3, 4], [0, 1, 1, 3]) == pytest.approx(-1.25 / (0.5 / 2))
    assert paired_z([1, 1], [1, 1]) == 0
    assert paired_z([1, 2, 3], [2, 3, 4]) == math.inf


@given(st.lists(st.tuples(st.integers(-99, 99), st.integers(-99, 99)), max_size=30))
def test_paired_z_changes_sign_with_the_sides(rows: list[tuple[int, int]]) -> None:
    old, new = [row[0] for row in rows], [row[1] for row in rows]
    assert paired_z(old, new) == pytest.approx(-paired_z(new, old))


def test_mcnemar_counts_only_rows_that_changed() -> None:
    old = np.array([True] * 9 + [False] * 20)
    new = np.array([False] * 9 + [True] * 1 + [False] * 19)
    assert mcnemar_z(old, new) == pytest.approx((1 - 9) / math.sqrt(10))
    assert mcnemar_z(old, old) == 0


def test_paired_tests_refuse_different_rows() -> None:
    with pytest.raises(ValueError, match="got 2 rows before and 3 after"):
        paired_z([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="the same rows"):
        mcnemar_z(np.zeros(2, dtype=bool), np.zeros(1, dtype=bool))


def test_wilson_known_values() -> None:
    assert wilson(1, 10) == pytest.approx((0.01788, 0.40415), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.27754), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.72246, 1.0), abs=1e-4)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share(counts: tuple[int, int]) -> None:
    low, high = wilson(*counts)
    assert 0 <= low <= counts[0] / counts[1] <= high <= 1


def test_prechelt() -> None:
    assert generalization_loss([2.0, 1.0, 1.05]) == pytest.approx(5)
    assert generalization_loss([2.0, 1.0]) == 0
    assert generalization_loss([0.0, 0.1]) == math.inf
    assert generalization_loss([1.0, math.nan]) == math.inf
    assert rises_in_succession(range(21))
    assert not rises_in_succession(range(20))
    assert not rises_in_succession([*range(15), 3, 4, 5, 6, 7, 8])


def test_robust_spread_of_normal_values_is_their_deviation() -> None:
    noise = np.random.default_rng(1).normal(scale=3, size=4000)
    noise[:40] = 1e6
    assert robust_spread(noise) == pytest.approx(3, rel=0.1)


def test_gain_ratio_pools_sums_and_knows_its_resolution() -> None:
    assert gain_ratio([1, 3], [1, 1], [5, 5]) == pytest.approx(0.5)
    assert gain_ratio([1, math.nan], [0.25, 1], [5, 5]) == pytest.approx(0.25)
    assert math.isnan(gain_ratio([-1, -1], [1, 1], [5, 5]))
    assert math.isnan(gain_ratio([1e-9], [1e-9], [5]))
    assert math.isnan(gain_ratio([], [], []))


@given(anything)
def test_nothing_breaks_them(x: list[float]) -> None:
    for name in (
        "mann_kendall_z", "theil_sen_slope", "lag_one_autocorrelation", "generalization_loss",
        "rises_in_succession", "robust_spread", "median", "mean", "finite",
    ):  # fmt: skip
        getattr(statistics, name)(x)
    paired_z(x, x[::-1])
    gain_ratio(x, x, x)
    assert not math.isnan(mann_kendall_z(x))
    assert not math.isnan(generalization_loss(x))
