import json
import math

import pytest

from gradsight_insight.gain import GainSettings, GainWindow


def _filled(probes: int, *, predicted: float = 0.2, actual: float = 0.1, loss: float = 2.0) -> GainWindow:
    window = GainWindow()
    for probe in range(1, probes + 1):
        window.add(10 * probe, predicted_decrease=predicted, actual_decrease=actual, loss=loss)
    return window


def test_a_window_of_fewer_than_eight_probes_is_not_read() -> None:
    assert _filled(7).read().ratio is None
    assert _filled(8).read().ratio == pytest.approx(0.5)


def test_the_ratio_is_one_of_sums_and_not_a_mean_of_ratios() -> None:
    window = GainWindow()
    for step in range(1, 9):
        tiny = step == 8
        reading = window.add(step, predicted_decrease=1e-9 if tiny else 1.0, actual_decrease=0.7, loss=1.0)
    assert reading.ratio == pytest.approx(5.6 / 7, rel=1e-6)


def test_gradient_descent_on_a_quadratic_has_the_ratio_that_its_curvature_implies() -> None:
    curvature, rate, weight = 3.0, 0.1, 5.0
    window = GainWindow()
    for step in range(1, 11):
        gradient = curvature * weight
        moved = weight - rate * gradient
        reading = window.add(
            step,
            predicted_decrease=gradient * (weight - moved),
            actual_decrease=curvature * (weight**2 - moved**2) / 2,
            loss=curvature * weight**2 / 2,
        )
        weight = moved
    assert reading.ratio == pytest.approx(1 - rate * curvature / 2)


def test_old_probes_leave_a_full_window() -> None:
    window = _filled(30, actual=-5.0)
    for step in range(301, 321):
        reading = window.add(step, predicted_decrease=0.2, actual_decrease=0.2, loss=2.0)
    assert reading.ratio == pytest.approx(1.0)
    assert (reading.first_step, reading.probes) == (301, 20)


def test_a_promise_below_the_resolution_of_the_loss_is_not_read() -> None:
    assert _filled(8, predicted=1e-6, loss=2.0).read().ratio is None
    assert _filled(8, predicted=3e-6, loss=2.0).read().ratio is not None


def test_updates_against_the_gradient_have_no_ratio_and_show_in_the_sums() -> None:
    reading = _filled(8, predicted=-0.2, actual=-0.2).read()
    assert reading.ratio is None
    assert reading.predicted == pytest.approx(-1.6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_probe_that_is_not_finite_is_left_out(bad: float) -> None:
    window = _filled(8)
    before = window.read()
    assert window.add(90, predicted_decrease=0.2, actual_decrease=bad, loss=2.0) == before
    assert window.add(91, predicted_decrease=bad, actual_decrease=0.1, loss=2.0) == before
    assert window.add(92, predicted_decrease=0.2, actual_decrease=0.1, loss=bad) == before


def test_a_window_that_travelled_as_json_reads_on_exactly() -> None:
    unbroken = _filled(25, predicted=0.1, actual=1 / 3, loss=math.pi)
    resumed = GainWindow.from_state(json.loads(json.dumps(unbroken.state())))
    assert resumed.read() == unbroken.read()
    following = {"predicted_decrease": 0.3, "actual_decrease": 0.1, "loss": 1.1}
    assert resumed.add(999, **following) == unbroken.add(999, **following)
    assert resumed.state() == unbroken.state()


def test_foreign_state_and_unfit_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="allowed: step, predicted, actual, loss"):
        GainWindow.from_state([[1, 2.0]])
    with pytest.raises(ValueError, match="window of 4, read from 8"):
        GainSettings(window=4)
    with pytest.raises(ValueError, match="resolution: got 0"):
        GainSettings(resolution=0.0)
