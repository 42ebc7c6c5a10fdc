"""Calibration and variety of answers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gradsight_insight.calibration import calibration_error, entropy_ratio


def test_the_gap_between_confidence_and_accuracy_is_averaged_over_bins() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55], dtype=np.float32)
    right = np.array([True, True, False, False, True, True])
    assert calibration_error(confidence, right) == pytest.approx((4 * 0.45 + 2 * 0.45) / 6, abs=1e-6)


def test_honest_confidence_has_no_error_and_boasting_has_all() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.3, 1.0, size=200_000)
    assert calibration_error(confidence, generator.uniform(size=len(confidence)) < confidence) < 0.01
    assert calibration_error(np.ones(10), np.zeros(10, dtype=bool)) == 1.0


@given(arrays(np.float64, 20, elements=st.floats(0, 1) | st.just(math.nan)), arrays(np.bool_, 20))
def test_it_is_a_share_whatever_comes(confidence: np.ndarray, right: np.ndarray) -> None:
    error = calibration_error(confidence, right)
    assert 0 <= error <= 1 + 1e-9 or (math.isnan(error) and np.isnan(confidence).all())


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="got 2 confidences and 3 answers"):
        calibration_error(np.ones(2), np.ones(3, dtype=bool))


def test_answers_that_are_all_alike_have_no_entropy() -> None:
    targets = np.array([0, 1, 2, 0, 1, 2])
    assert entropy_ratio(np.zeros(6, dtype=np.int64), targets) == 0.0
    assert entropy_ratio(targets[::-1], targets) == pytest.approx(1.0)
    assert entropy_ratio(targets, np.zeros(6, dtype=np.int64)) is None
