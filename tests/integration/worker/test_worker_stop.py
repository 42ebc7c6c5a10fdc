"""Cancelling a job, draining a worker, and losing patience with either."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from gradsight.v1 import state_pb2, worker_pb2
from gradsight_store.jobs import request_cancel
from gradsight_store.operations import new_operation_id

if TYPE_CHECKING:
    from tests.integration.worker.conftest import Workshop

    from gradsight_store.operations import JobRef


def test_a_cancelled_job_stops_within_a_renewal(workshop: Workshop) -> None:
    worker = workshop.start_worker()
    ref = workshop.submit(steps=100_000)
    workshop.wait_step(ref, 10)
    trainer = worker.trainer()
    asked = time.monotonic()
    _cancel(workshop, ref)
    job = workshop.wait_done(ref)
    assert time.monotonic() - asked < 3.0  # the fast profile renews every 0.4 s
    assert job.state == state_pb2.JOB_STATE_CANCELLED
    assert workshop.states(ref)[-2:] == ["CANCELLING", "CANCELLED"]
    workshop.wait_gone([trainer])
    assert workshop.wait_done(workshop.submit(steps=5)).state == state_pb2.JOB_STATE_SUCCEEDED


def test_a_silent_job_is_cancelled_too(workshop: Workshop) -> None:
    workshop.start_worker()
    ref = workshop.submit(steps=10, misbehave="hold")
    workshop.wait_until(ref, "a word of the trainer", lambda job: bool(workshop.lines(ref)))
    _cancel(workshop, ref)
    assert workshop.wait_done(ref).state == state_pb2.JOB_STATE_CANCELLED


def test_sigterm_saves_the_state_and_gives_the_job_back_without_a_loss(workshop: Workshop) -> None:
    worker = workshop.start_worker()
    ref = workshop.submit(steps=300, checkpoint_every=100_000)
    before = workshop.wait_step(ref, 30)
    worker.process.terminate()
    assert worker.process.wait(10) == 0, worker.log()
    job = workshop.job(ref)
    assert job.state == state_pb2.JOB_STATE_QUEUED
    assert job.attempts[0].error.reason == state_pb2.JOB_ERROR_REASON_WORKER_DRAINED
    assert "after saving" in job.attempts[0].error.message
    assert workshop.workers() == []
    workshop.start_worker()
    job = workshop.wait_done(ref)
    assert job.attempts[1].resumed_at_step >= before.progress.step
    assert job.progress.steps_taken == 300  # not one step was taken twice
    unbroken = workshop.wait_done(workshop.submit(steps=300, pace_ms=0))
    assert workshop.result(job) == workshop.result(unbroken)


def test_a_draining_worker_says_so_and_gets_no_job(workshop: Workshop) -> None:
    worker = workshop.start_worker(drain_timeout_s=4.0)
    ref = workshop.submit(steps=100_000, deaf="yes")
    workshop.wait_step(ref, 5)
    worker.process.terminate()
    (record,) = _until_draining(workshop)
    assert record.job_id == ref.job_id
    assert worker.process.wait(10) == 0


def test_a_trainer_that_does_not_stop_is_killed_within_the_budget(workshop: Workshop) -> None:
    worker = workshop.start_worker(drain_timeout_s=1.5)
    ref = workshop.submit(steps=100_000, checkpoint_every=10, deaf="yes")
    workshop.wait_step(ref, 30)
    left = worker.descendants()
    asked = time.monotonic()
    worker.process.terminate()
    assert worker.process.wait(10) == 0, worker.log()
    assert 1.0 < time.monotonic() - asked < 6.0
    workshop.wait_gone(left)
    job = workshop.job(ref)
    assert job.state == state_pb2.JOB_STATE_QUEUED
    assert job.attempts[0].error.reason == state_pb2.JOB_ERROR_REASON_WORKER_DRAINED
    assert "before the state could be saved" in job.attempts[0].error.message


def test_an_attempt_that_does_not_react_is_killed_with_the_budget(workshop: Workshop) -> None:
    worker = workshop.start_worker(drain_timeout_s=1.0)
    ref = workshop.submit(steps=100_000)
    workshop.wait_step(ref, 10)
    worker.attempt().suspend()
    worker.process.terminate()
    assert worker.process.wait(10) == 0, worker.log()
    assert workshop.job(ref).attempts[0].error.reason == state_pb2.JOB_ERROR_REASON_WORKER_DRAINED


def test_a_second_sigterm_kills_at_once(workshop: Workshop) -> None:
    worker = workshop.start_worker(drain_timeout_s=60.0)
    ref = workshop.submit(steps=100_000, deaf="yes")
    workshop.wait_step(ref, 10)
    left = worker.descendants()
    worker.process.terminate()
    time.sleep(1.1)  # sooner, it would count as the first one, come along two ways
    asked = time.monotonic()
    worker.process.terminate()
    assert worker.process.wait(10) == 0, worker.log()
    assert time.monotonic() - asked < 5.0
    workshop.wait_gone(left)
    assert workshop.job(ref).state == state_pb2.JOB_STATE_QUEUED


def test_an_idle_worker_leaves_at_once_and_in_order(workshop: Workshop) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        worker = workshop.start_worker()
        asked = time.monotonic()
        worker.signal(number)
        assert worker.process.wait(10) == 0, worker.log()
        assert time.monotonic() - asked < 5.0
        assert workshop.workers() == []
        with workshop.redis() as client:
            assert client.keys("rq:queue:*") == client.keys("rq:job:*") == []


def test_a_job_that_ends_while_draining_ends_well(workshop: Workshop) -> None:
    worker = workshop.start_worker()
    ref = workshop.submit(steps=100, deaf="yes")
    workshop.wait_step(ref, 10)
    worker.process.terminate()
    assert worker.process.wait(10) == 0
    assert workshop.job(ref).state == state_pb2.JOB_STATE_SUCCEEDED


def _cancel(workshop: Workshop, ref: JobRef) -> None:
    workshop.store.run(request_cancel(ref, operation_id=new_operation_id()))


def _until_draining(workshop: Workshop) -> list[worker_pb2.Worker]:
    deadline = time.monotonic() + 5
    while (workers := workshop.workers())[0].state != worker_pb2.WORKER_STATE_DRAINING:
        assert time.monotonic() < deadline
    return workers
