"""Dispatchers, sweepers, cancellers and unreliable workers at once; the logs must tell one consistent story per job."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from gradsight.v1.artifact_pb2 import Artifact
from gradsight.v1.event_pb2 import JobEvent, StepsRecorded
from gradsight.v1.state_pb2 import (
    JOB_ERROR_REASON_TOO_MANY_LOSSES,
    JOB_ERROR_REASON_WORKER_DRAINED,
    JOB_STATE_CANCELLED,
    JOB_STATE_FAILED,
    JOB_STATE_SUCCEEDED,
    JobError,
)
from gradsight.v1.worker_pb2 import Worker
from gradsight_store import attempts, dispatch, jobs, transport, workers
from gradsight_store.errors import TransitionRefused
from gradsight_store.figures import active_jobs, fleet_figures
from gradsight_store.keys import parse_message
from gradsight_store.operations import Answer, JobRef, Operation, Pipeline, new_operation_id
from gradsight_store.projection import JobProjection, apply_event
from gradsight_store.settings import StoreSettings
from gradsight_store.store import Store
from gradsight_store.sweep import reconcile, sweep

if TYPE_CHECKING:
    from tests.integration.conftest import Lab

JOBS = 60
LEASE_S = 0.4
TERMINAL = (JOB_STATE_SUCCEEDED, JOB_STATE_FAILED, JOB_STATE_CANCELLED)
SEED = int(os.environ.get("GRADSIGHT_TEST_SEED", "0"))


@pytest.fixture
def settings(store_url: str) -> StoreSettings:
    """Leases that run out at every hiccup."""
    return StoreSettings(url=store_url, lease_s=LEASE_S, worker_lease_s=LEASE_S, assignment_s=0.1)


def pop(worker_id: str) -> Operation[bytes | None]:
    """The next message of a worker, as RQ would take it."""
    (entry,) = yield Pipeline([("LPOP", f"rq:queue:{transport.queue_name(worker_id)}")])
    assert entry is None or isinstance(entry, bytes)
    return entry


class Fleet:
    """Threads that each play one process until all jobs have ended."""

    def __init__(self, settings: StoreSettings) -> None:
        self.settings = settings
        self.over = threading.Event()
        self.succeeded: list[tuple[JobRef, int]] = []
        self.problems: list[BaseException] = []

    def play(self, role: Callable[[Store, random.Random], None], seed: int) -> threading.Thread:
        def run() -> None:
            store, chance = Store.open(self.settings), random.Random(seed)
            try:
                while not self.over.is_set():
                    role(store, chance)
            except BaseException as problem:
                self.problems.append(problem)
                self.over.set()
            finally:
                store.close()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def dispatcher(self, store: Store, chance: random.Random) -> None:
        waiting = store.run(dispatch.waiting_jobs(20))
        for job, worker in dispatch.choose(waiting, store.run(dispatch.idle_workers())):
            assigned = store.run(dispatch.assign(job.ref, worker.worker_id, operation_id=new_operation_id()))
            if (
                assigned.answer is Answer.APPLIED and chance.random() > 0.1
            ):  # else: died before it told the worker
                store.run(transport.enqueue_attempt(worker.worker_id, job.ref, assigned.term))
        time.sleep(0.005)

    def sweeper(self, store: Store, chance: random.Random) -> None:
        store.run(sweep())
        if chance.random() < 0.1:
            store.run(reconcile())
        time.sleep(0.02)

    def worker(self, worker_id: str) -> Callable[[Store, random.Random], None]:
        def role(store: Store, chance: random.Random) -> None:
            if not store.run(workers.renew_worker(worker_id, 1)):
                store.run(workers.register_worker(Worker(worker_id=worker_id, queue="default")))
            if message := store.run(pop(worker_id)):
                self.attempt(store, chance, worker_id, message.decode())
            time.sleep(0.005)

        return role

    def attempt(self, store: Store, chance: random.Random, worker_id: str, message: str) -> None:
        ref, term = parse_message(message)
        claim = store.run(
            attempts.claim(ref, term, worker_id=worker_id, device="cpu", operation_id=new_operation_id())
        )
        if claim.answer is Answer.FENCED:
            return
        projection = JobProjection(claim.record.job, claim.findings)
        for step in range(claim.resumed_at_step + 1, 6):
            if chance.random() < 0.05:
                return  # died
            if chance.random() < 0.05:
                time.sleep(1.5 * LEASE_S)  # stood still: a zombie from here on
            event = JobEvent(steps_recorded=StepsRecorded(first_step=step, loss=[1.0]))
            apply_event(projection, event)
            told = store.run(
                attempts.append_events(ref, term, [event], projection, operation_id=new_operation_id())
            )
            store.run(attempts.renew_lease(ref, term))
            saved = Artifact(digest=f"c{step}", step=step)
            store.run(attempts.record_checkpoint(ref, term, saved, 0.0, operation_id=new_operation_id()))
            if told.answer is Answer.FENCED:
                return
            if chance.random() < 0.05:
                drained = JobError(reason=JOB_ERROR_REASON_WORKER_DRAINED)
                store.run(attempts.release(ref, term, error=drained, operation_id=new_operation_id()))
                return
        done = store.run(
            attempts.finish(ref, term, state=JOB_STATE_SUCCEEDED, operation_id=new_operation_id())
        )
        if done.answer is Answer.APPLIED and done.job.state == JOB_STATE_SUCCEEDED:
            self.succeeded.append((ref, term))

    def canceller(self, refs: Sequence[JobRef]) -> Callable[[Store, random.Random], None]:
        def role(store: Store, chance: random.Random) -> None:
            time.sleep(0.1)
            with contextlib.suppress(TransitionRefused):
                store.run(jobs.request_cancel(chance.choice(refs), operation_id=new_operation_id()))

        return role


def check_log(log: Sequence[JobEvent]) -> int:
    """The state that the log ends in."""
    states = [event.state_changed for event in log if event.HasField("state_changed")]
    assert all(a.state == b.previous_state for a, b in pairwise(states))
    assert [state.state in TERMINAL for state in states] == [False] * (len(states) - 1) + [True]
    assert log[-1].state_changed == states[-1], "nothing is told after the end"
    assert all(a.attempt <= b.attempt for a, b in pairwise(log))
    started = [event for event in log if event.HasField("attempt_started")]
    assert [event.attempt for event in started] == list(range(1, len(started) + 1))
    for event in log:
        if event.HasField("steps_recorded"):
            resumed = started[event.attempt - 1].attempt_started.resumed_at_step
            assert event.steps_recorded.first_step > resumed
    return states[-1].state


def test_every_job_ends_once_whatever_dies_and_races(lab: Lab, settings: StoreSettings) -> None:
    print(f"GRADSIGHT_TEST_SEED={SEED}")
    refs = [lab.create() for _ in range(JOBS)]
    fleet = Fleet(settings)
    roles = [fleet.dispatcher] * 2 + [fleet.sweeper] * 3 + [fleet.worker(f"w{n}") for n in range(8)]
    threads = [fleet.play(role, SEED + n) for n, role in enumerate([*roles, fleet.canceller(refs)])]
    try:
        lab.until(
            lambda: fleet.over.is_set() or all(job.done for job in lab.run(active_jobs(0))), timeout_s=60
        )
    finally:
        fleet.over.set()
        for thread in threads:
            thread.join()
    assert fleet.problems == []
    ends = {ref: check_log(lab.events(ref)) for ref in refs}
    assert sorted(ref for ref, end in ends.items() if end == JOB_STATE_SUCCEEDED) == sorted(
        ref for ref, _ in fleet.succeeded
    ), "who was told of a success had it, and nobody else"
    for ref in refs:
        job = lab.job(ref)
        assert job.state == ends[ref]
        if job.state == JOB_STATE_FAILED:
            assert job.error.reason == JOB_ERROR_REASON_TOO_MANY_LOSSES
    lab.until(lambda: not lab.run(sweep()) and not any(w.job_id for w in lab.run(workers.list_workers())))
    figures = lab.run(fleet_figures())
    assert sum(figures.finished.values()) == JOBS
    assert sum(count for (_, state), count in figures.jobs.items() if state not in TERMINAL) == 0
    assert figures.queued == {"default": 0}
    assert lab.run(reconcile()) == []
