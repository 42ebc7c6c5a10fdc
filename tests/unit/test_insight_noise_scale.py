"""The gradient noise scale, against gradients whose noise is known."""

import math

import numpy as np
import pytest

from gradsight_insight.noise_scale import NoiseScaleAverage


@pytest.mark.parametrize("scale", [4.0, 40.0, 400.0])
def test_known_noise_is_found(scale: float) -> None:
    generator = np.random.default_rng(1)
    signal = generator.normal(size=4000)
    noise_of_a_row = math.sqrt(scale * (signal @ signal) / len(signal))
    average = NoiseScaleAverage()
    found = []
    for _ in range(200):
        rows = noise_of_a_row * generator.normal(size=(2, len(signal))) / math.sqrt(32)
        small, batch = signal + rows[0], signal + rows.mean(axis=0)
        found.append(average.add(small @ small, 32, batch @ batch, 64))
    assert np.median(found[50:]) == pytest.approx(scale, rel=0.15)


def test_nothing_is_said_of_equal_sizes_numbers_that_are_none_and_gradients_without_signal() -> None:
    average = NoiseScaleAverage()
    assert math.isnan(average.add(1.0, 64, 1.0, 64))
    assert math.isnan(average.add(math.nan, 32, 1.0, 64))
    assert math.isnan(average.add(math.inf, 32, 1.0, 64))
    assert math.isnan(average.add(4.0, 32, 1.0, 64))
    assert average.add(1.0, 32, 10.0, 64) == 0.0


def test_a_restored_average_goes_on() -> None:
    average = NoiseScaleAverage()
    average.add(3.0, 32, 2.0, 64)
    assert [average.due(every=3) for _ in range(4)] == [False, False, True, False]
    restored = NoiseScaleAverage.from_state(average.state())
    assert restored.add(2.5, 32, 2.0, 64) == average.add(2.5, 32, 2.0, 64)
    assert [restored.due(every=3) for _ in range(2)] == [False, True]
    assert math.isnan(NoiseScaleAverage.from_state({}).read())
