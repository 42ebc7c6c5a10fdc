"""Whoever dies, nobody outlives whom it works for, the job goes on from its checkpoint and ends once."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from gradsight.v1 import job_pb2, state_pb2

if TYPE_CHECKING:
    from tests.integration.worker.conftest import Workshop

    from gradsight_store.operations import JobRef

STEPS = 150


@pytest.fixture
def unbroken(workshop: Workshop) -> bytes:
    """The result of a run that nobody disturbs."""
    worker = workshop.start_worker()
    result = workshop.result(workshop.wait_done(workshop.submit(steps=STEPS, pace_ms=0)))
    worker.process.terminate()
    assert worker.process.wait(10) == 0
    return result


def test_a_killed_trainer_is_replaced_within_a_second(workshop: Workshop, unbroken: bytes) -> None:
    worker = workshop.start_worker()
    ref = workshop.submit(steps=STEPS)
    workshop.wait_step(ref, 60)
    trainer = worker.trainer()
    killed_at = time.monotonic()
    trainer.kill()
    workshop.wait_until(ref, "a second attempt", lambda job: len(job.attempts) == 2)
    assert time.monotonic() - killed_at < 4.0
    job = _end_well(workshop, ref, unbroken)
    assert job.attempts[0].error.reason == state_pb2.JOB_ERROR_REASON_TRAINER_DIED
    assert job.attempts[0].error.fault == state_pb2.FAULT_INFRA
    assert job.attempts[0].error.retryable
    assert "SIGKILL" in job.attempts[0].error.message
    assert job.attempts[1].resumed_at_step >= 50


def test_a_killed_attempt_takes_its_trainer_along_and_is_replaced_within_a_second(
    workshop: Workshop, unbroken: bytes
) -> None:
    worker = workshop.start_worker()
    ref = workshop.submit(steps=STEPS)
    workshop.wait_step(ref, 60)
    attempt, trainer = worker.attempt(), worker.trainer()
    killed_at = time.monotonic()
    attempt.kill()
    workshop.wait_gone([attempt, trainer])
    workshop.wait_until(ref, "a second attempt", lambda job: len(job.attempts) == 2)
    assert time.monotonic() - killed_at < 4.0
    job = _end_well(workshop, ref, unbroken)
    assert job.attempts[0].error.reason == state_pb2.JOB_ERROR_REASON_TRAINER_DIED


def test_a_killed_supervisor_leaves_nobody_and_another_worker_goes_on(
    workshop: Workshop, unbroken: bytes
) -> None:
    worker = workshop.start_worker()
    ref = workshop.submit(steps=STEPS)
    workshop.wait_step(ref, 60)
    left = worker.descendants()
    assert len(left) >= 2
    killed_at = time.monotonic()
    worker.process.kill()
    workshop.wait_gone(left)
    workshop.start_worker()
    workshop.wait_until(ref, "a second attempt", lambda job: len(job.attempts) == 2)
    assert time.monotonic() - killed_at < 10.0
    job = _end_well(workshop, ref, unbroken)
    assert job.attempts[0].error.reason == state_pb2.JOB_ERROR_REASON_WORKER_LOST


def test_a_lost_machine_costs_one_lease(workshop: Workshop, unbroken: bytes) -> None:
    worker, _ = workshop.start_worker(), workshop.start_worker()
    ref = workshop.submit(steps=STEPS)
    job = workshop.wait_step(ref, 60)
    mine = {other.pid: other for other in (worker, _)}
    holder = next(known for known in workshop.workers() if known.worker_id == job.attempts[0].worker_id)
    everyone = [*mine[holder.process_id].descendants(), psutil.Process(holder.process_id)]
    for process in everyone:
        with contextlib.suppress(psutil.NoSuchProcess):  # a child goes by itself when its parent went first
            process.kill()
    _end_well(workshop, ref, unbroken)


@pytest.mark.parametrize("seed", [1, 2])
def test_many_deaths_end_in_the_unbroken_runs_result(workshop: Workshop, unbroken: bytes, seed: int) -> None:
    chance = random.Random(seed)
    worker = workshop.start_worker()
    ref = workshop.submit(steps=400, checkpoint_every=5, pace_ms=3)
    for attempt in range(1, 8):
        deadline = time.monotonic() + 30
        while attempt not in _attempts_with_checkpoint(workshop, ref):
            assert time.monotonic() < deadline, worker.log()
        chance.choice([worker.trainer, worker.attempt])().kill()
    job = workshop.wait_done(ref)
    assert job.state == state_pb2.JOB_STATE_SUCCEEDED, worker.log()
    killed = [end for end in job.attempts if end.error.reason == state_pb2.JOB_ERROR_REASON_TRAINER_DIED]
    assert len(killed) == 7, worker.log()
    reference = workshop.wait_done(workshop.submit(steps=400, pace_ms=0))
    assert workshop.result(job) == workshop.result(reference)
    assert workshop.states(ref).count("SUCCEEDED") == 1


def test_an_attempt_that_was_stopped_for_longer_than_its_lease_fences_itself(
    workshop: Workshop, unbroken: bytes
) -> None:
    first = workshop.start_worker()
    ref = workshop.submit(steps=STEPS)
    workshop.wait_step(ref, 60)
    attempt, trainer = first.attempt(), first.trainer()
    attempt.suspend()
    workshop.start_worker()
    job = workshop.wait_until(ref, "a second attempt", lambda job: len(job.attempts) == 2)
    attempt.resume()
    workshop.wait_gone([attempt, trainer])
    job = _end_well(workshop, ref, unbroken)
    assert job.attempts[0].error.reason == state_pb2.JOB_ERROR_REASON_WORKER_LOST


def test_a_supervisor_that_was_stopped_for_longer_than_its_lease_costs_the_job_nothing(
    workshop: Workshop,
) -> None:
    worker = workshop.start_worker()
    ref = workshop.submit(steps=1200, checkpoint_every=100)
    workshop.wait_step(ref, 10)
    worker.signal(signal.SIGSTOP)
    workshop.wait_until(ref, "progress", lambda job: job.progress.step > 900)
    worker.signal(signal.SIGCONT)
    job = workshop.wait_done(ref)
    assert (job.state, len(job.attempts)) == (state_pb2.JOB_STATE_SUCCEEDED, 1)
    assert workshop.wait_done(workshop.submit(steps=5)).state == state_pb2.JOB_STATE_SUCCEEDED


def test_a_trainer_that_segfaults_once_is_tried_again(workshop: Workshop) -> None:
    workshop.start_worker()
    job = workshop.wait_done(workshop.submit(steps=5, misbehave="segfault"))
    assert job.state == state_pb2.JOB_STATE_SUCCEEDED
    assert job.attempts[0].error.reason == state_pb2.JOB_ERROR_REASON_TRAINER_DIED
    assert "SIGSEGV" in job.attempts[0].error.message


@pytest.mark.parametrize("misbehave", ["crash", "exit"])
def test_a_trainer_that_ends_without_a_word_fails_the_job(workshop: Workshop, misbehave: str) -> None:
    worker = workshop.start_worker()
    job = workshop.wait_done(workshop.submit(steps=5, misbehave=misbehave))
    assert job.state == state_pb2.JOB_STATE_FAILED
    assert job.error.reason == state_pb2.JOB_ERROR_REASON_INTERNAL
    assert not job.error.retryable
    assert misbehave != "crash" or "as asked" in worker.log()


@pytest.mark.parametrize("misbehave", ["hang", "hold"])
def test_a_trainer_that_is_silent_for_too_long_is_killed_and_tried_again(
    workshop: Workshop, misbehave: str
) -> None:
    workshop.start_worker(stall_timeout_s=0.5)
    job = workshop.wait_done(workshop.submit(steps=5, misbehave=misbehave))
    assert job.state == state_pb2.JOB_STATE_SUCCEEDED
    assert job.attempts[0].error.reason == state_pb2.JOB_ERROR_REASON_STALLED


def test_a_job_that_uses_up_its_time_fails_by_policy(workshop: Workshop) -> None:
    worker = workshop.start_worker()
    started = time.monotonic()
    job = workshop.wait_done(workshop.submit(steps=100_000, timeout_s=1.0))
    assert 0.9 < time.monotonic() - started < 8.0
    assert job.error.reason == state_pb2.JOB_ERROR_REASON_TIMED_OUT
    assert job.error.fault == state_pb2.FAULT_POLICY
    workshop.wait_gone(worker.descendants())


def test_a_timeout_counts_from_the_first_attempt(workshop: Workshop) -> None:
    worker = workshop.start_worker()
    started = time.monotonic()
    ref = workshop.submit(steps=100_000, timeout_s=2.0)
    workshop.wait_step(ref, 100)
    worker.trainer().kill()
    job = workshop.wait_done(ref)
    assert len(job.attempts) == 2
    assert time.monotonic() - started < 8.0


def test_a_killed_metrics_server_is_no_loss_to_the_job(workshop: Workshop) -> None:
    worker = workshop.start_worker(metrics_address="127.0.0.1:0")
    ref = workshop.submit(steps=100)
    workshop.wait_step(ref, 10)
    worker.metrics_server().kill()
    assert workshop.wait_done(ref).state == state_pb2.JOB_STATE_SUCCEEDED


@pytest.mark.parametrize("victim", ["attempt", "trainer"])
def test_a_process_that_dies_while_it_waits_for_a_job_costs_no_attempt(
    workshop: Workshop, victim: str
) -> None:
    worker = workshop.start_worker()
    waiting = worker.trainer() if victim == "trainer" else worker.attempt()
    waiting.kill()
    workshop.wait_gone([waiting])
    job = workshop.wait_done(workshop.submit(steps=5))
    assert job.state == state_pb2.JOB_STATE_SUCCEEDED
    assert len(job.attempts) == 1


def test_a_killed_supervisor_without_a_job_leaves_nobody_either(workshop: Workshop) -> None:
    worker = workshop.start_worker()
    worker.trainer()
    left = worker.descendants()
    worker.process.kill()
    workshop.wait_gone(left)


def _end_well(workshop: Workshop, ref: JobRef, unbroken: bytes) -> job_pb2.Job:
    """The job succeeds, once, with the unbroken run's result."""
    job = workshop.wait_done(ref)
    assert job.state == state_pb2.JOB_STATE_SUCCEEDED
    assert workshop.result(job) == unbroken
    assert [name for name in workshop.states(ref) if name not in ("QUEUED", "RUNNING")] == ["SUCCEEDED"]
    sequences = [event.sequence for event in workshop.events(ref)]
    assert sequences == list(range(1, len(sequences) + 1))
    attempts = [event.attempt for event in workshop.events(ref)]
    assert attempts == sorted(attempts)
    return job


def _attempts_with_checkpoint(workshop: Workshop, ref: JobRef) -> set[int]:
    return {event.attempt for event in workshop.events(ref) if event.HasField("checkpoint_saved")}
