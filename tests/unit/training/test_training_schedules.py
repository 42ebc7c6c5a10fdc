"""Learning rates: from nothing to the peak over the warm-up, then along the shape that the spec names."""

import json
import math

import pytest

from gradsight.v1 import spec_pb2
from gradsight_worker.training.schedules import build_schedule

SHAPES = {
    "constant": spec_pb2.ScheduleSpec(constant=spec_pb2.ConstantSchedule()),
    "cosine": spec_pb2.ScheduleSpec(cosine=spec_pb2.CosineSchedule(final_fraction=0.2)),
    "linear": spec_pb2.ScheduleSpec(linear=spec_pb2.LinearSchedule(final_fraction=0.1)),
    "one cycle": spec_pb2.ScheduleSpec(
        one_cycle=spec_pb2.OneCycleSchedule(rise_fraction=0.3, initial_fraction=0.04, final_fraction=0.0)
    ),
    "step": spec_pb2.ScheduleSpec(step=spec_pb2.StepSchedule(factor=0.1, milestones=[0.5, 0.75])),
    "plateau": spec_pb2.ScheduleSpec(
        plateau=spec_pb2.PlateauSchedule(factor=0.5, patience=2, final_fraction=0.2)
    ),
}


def rates(name: str, *, peak: float = 1.0, warmup: float = 0.0, steps: int = 100) -> list[float]:
    """The rate of every step; index 0 is step 1."""
    spec = spec_pb2.ScheduleSpec()
    spec.CopyFrom(SHAPES[name])
    spec.warmup_fraction = warmup
    schedule = build_schedule(spec, peak=peak, total_steps=steps)
    return [schedule.rate(step) for step in range(1, steps + 1)]


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_reached_in_equal_steps_when_the_warmup_ends(name: str) -> None:
    first = rates(name, peak=1.1)[0]
    found = rates(name, peak=1.1, warmup=0.1)
    assert [found[0], found[1], found[9], found[10]] == pytest.approx(
        [first / 11, first * 2 / 11, first * 10 / 11, first]
    )


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_no_step_of_a_short_run_has_a_rate_of_zero(name: str, steps: int) -> None:
    assert all(0 < rate <= 1 for rate in rates(name, warmup=0.9, steps=steps))


def test_a_cosine_falls_from_the_peak_towards_its_final_fraction() -> None:
    found = rates("cosine", warmup=0.1)[10:]
    assert found == sorted(found, reverse=True)
    assert found[45] == pytest.approx(0.6)
    assert 0.2 < found[-1] < 0.201


def test_a_line_falls_from_the_peak_towards_its_final_fraction_in_equal_steps() -> None:
    assert rates("linear", peak=2.0) == pytest.approx([2.0 - 1.8 * done / 100 for done in range(100)])


def test_a_constant_schedule_without_warmup_is_the_peak_throughout() -> None:
    assert set(rates("constant", peak=0.3)) == {0.3}


def test_one_cycle_rises_to_the_peak_and_falls_to_its_end() -> None:
    found = rates("one cycle", peak=2.0)
    assert found[0] == pytest.approx(0.08)
    assert found[30] == max(found) == pytest.approx(2.0)
    assert found[15] == pytest.approx(2.0 * (0.04 + 0.96 * 0.5))
    assert found[65] == pytest.approx(1.0)
    assert 0 < found[99] < 0.002


def test_steps_fall_at_their_shares_of_the_whole_run() -> None:
    for warmup in (0.0, 0.1):
        found = rates("step", warmup=warmup)
        assert [found[at] for at in (49, 50, 74, 75, 99)] == pytest.approx([1.0, 0.1, 0.1, 0.01, 0.01])


def test_a_plateau_falls_after_its_patience_and_not_below_its_floor() -> None:
    schedule = build_schedule(SHAPES["plateau"], peak=1.0, total_steps=100)
    seen = []
    for figure in (0.5, 0.5, 0.4, math.nan, 0.4, 0.6, 0.4, 0.3, 1.0, 1.0, 1.0, 1.0):
        schedule.observe(figure)
        seen.append(schedule.rate(50))
    assert seen == pytest.approx([1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.25, 0.2, 0.2, 0.2])


def test_a_plateau_goes_on_from_its_state() -> None:
    one = build_schedule(SHAPES["plateau"], peak=1.0, total_steps=100)
    assert json.loads(json.dumps(one.state())) == one.state()
    for figure in (0.5, 0.6, 0.7, 0.8):
        one.observe(figure)
    other = build_schedule(SHAPES["plateau"], peak=1.0, total_steps=100)
    other.restore(json.loads(json.dumps(one.state())))
    for figure in (0.49, 0.49, 0.49):
        one.observe(figure)
        other.observe(figure)
        assert one.rate(9) == other.rate(9)
    assert one.rate(9) == 0.25


def test_more_steps_stretch_the_shape() -> None:
    assert build_schedule(SHAPES["linear"], peak=1.0, total_steps=200).rate(101) == pytest.approx(0.55)
