"""Learning rates: from nothing to the peak over the warm-up, then along the shape that the spec names."""

import pytest

from gradsight.v1 import spec_pb2
from gradsight_worker.training.schedules import build_schedule

COSINE = spec_pb2.ScheduleSpec(warmup_fraction=0.1, cosine=spec_pb2.CosineSchedule(final_fraction=0.2))
CONSTANT = spec_pb2.ScheduleSpec(warmup_fraction=0.0, constant=spec_pb2.ConstantSchedule())


def test_the_rate_rises_in_equal_steps_and_reaches_the_peak_when_the_warmup_ends() -> None:
    rate = build_schedule(COSINE, peak=1.1, total_steps=100)
    assert [rate(step) for step in (1, 2, 10, 11)] == pytest.approx([0.1, 0.2, 1.0, 1.1])


def test_a_cosine_falls_from_the_peak_towards_its_final_fraction() -> None:
    rate = build_schedule(COSINE, peak=1.0, total_steps=100)
    rates = [rate(step) for step in range(11, 101)]
    assert rates == sorted(rates, reverse=True)
    assert rates[45] == pytest.approx(0.6)
    assert 0.2 < rates[-1] < 0.201


def test_a_constant_schedule_without_warmup_is_the_peak_throughout() -> None:
    rate = build_schedule(CONSTANT, peak=0.3, total_steps=5)
    assert {rate(step) for step in range(1, 6)} == {0.3}


@pytest.mark.parametrize("total_steps", [1, 2, 3])
def test_no_step_of_a_short_run_has_a_rate_of_zero(total_steps: int) -> None:
    rate = build_schedule(
        spec_pb2.ScheduleSpec(warmup_fraction=0.9, cosine=spec_pb2.CosineSchedule(final_fraction=0.0)),
        peak=1.0,
        total_steps=total_steps,
    )
    assert all(0 < rate(step) <= 1 for step in range(1, total_steps + 1))
