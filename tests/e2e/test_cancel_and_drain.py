"""A running job can be ended within seconds, and a household that goes down takes its job along to the next one."""

import time
from pathlib import Path

import pytest
from tests.e2e.conftest import Datasets, Household, states, wait_gone, wait_until_saved, weights

from gradsight import AttemptStarted, JobErrorReason, JobState, StateTransitionRefused


def test_a_running_job_is_cancelled_within_three_seconds_and_the_next_one_runs(
    own_household: Household, datasets: Datasets
) -> None:
    with own_household.client() as client:
        handle = client.submit(datasets.long_job("mlp", steps=1_000_000))
        wait_until_saved(handle)
        trainer = own_household.trainer()
        asked = time.monotonic()
        assert handle.cancel().state in (JobState.CANCELLING, JobState.CANCELLED)
        job = handle.wait(timeout=30)
        assert time.monotonic() - asked <= 6.0
        assert job.state is JobState.CANCELLED
        assert states(handle)[-1] is JobState.CANCELLED
        wait_gone([trainer], timeout_s=5)
        assert handle.cancel().state is JobState.CANCELLED
        following = client.submit(datasets.job("mlp"))
        assert following.wait(timeout=60).state is JobState.SUCCEEDED
        with pytest.raises(StateTransitionRefused):
            following.cancel()


def test_a_job_that_waits_is_cancelled_at_once(household: Household, datasets: Datasets) -> None:
    with household.client() as client:
        running = client.submit(datasets.long_job("mlp", steps=1_000_000))
        waiting = client.submit(datasets.job("mlp"))
        assert waiting.cancel().state is JobState.CANCELLED
        assert states(waiting) == [JobState.QUEUED, JobState.CANCELLED]
        assert not running.get().done


def test_down_saves_the_running_job_and_the_next_up_ends_it_the_same(
    tmp_path: Path, datasets: Datasets
) -> None:
    household = Household(tmp_path / "household", profile="standard")
    with household.running(), household.client() as client:
        # Saved by time only, and that never comes: what it resumes from is what the drain saved.
        spec = datasets.long_job("text_classifier", steps=6000, checkpoint={"interval": "1h"})
        unbroken = weights(client.submit(spec).wait(timeout=90))
        handle = client.submit(spec)
        for event in handle.watch(timeout=60):
            if event.kind == "steps_recorded":
                break
        everyone = household.processes()
        down = household.cli("down", "--data", str(household.data), timeout_s=120)
        assert (down.returncode, down.stdout) == (0, "down\n"), down.stderr
        wait_gone(everyone)
        household.process.wait(10)
        household.up()
        job = handle.wait(timeout=90)
        assert job.state is JobState.SUCCEEDED, job.error
        assert weights(job) == unbroken
        resumed = [event.detail for event in handle.events() if isinstance(event.detail, AttemptStarted)]
        assert resumed[1].resumed_at_step > 0
        assert job.attempts[0].error is not None
        assert job.attempts[0].error.reason is JobErrorReason.WORKER_DRAINED
        assert states(handle)[:4] == [JobState.QUEUED, JobState.RUNNING, JobState.QUEUED, JobState.RUNNING]
