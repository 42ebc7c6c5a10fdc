"""What time does to jobs and workers, on a real store, with several sweepers at once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import redis

from gradsight.v1 import job_pb2
from gradsight.v1.artifact_pb2 import Artifact
from gradsight.v1.state_pb2 import (
    JOB_ERROR_REASON_TOO_MANY_LOSSES,
    JOB_ERROR_REASON_WORKER_LOST,
    JOB_STATE_CANCELLED,
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
)
from gradsight_store import attempts, dispatch, jobs, workers
from gradsight_store.operations import Answer
from gradsight_store.settings import StoreSettings
from gradsight_store.store import Store
from gradsight_store.sweep import Swept, SweptKind, reconcile, sweep

if TYPE_CHECKING:
    from tests.integration.conftest import Lab

LEASE_S = 0.3


@pytest.fixture
def settings(store_url: str) -> StoreSettings:
    """Leases short enough to wait for."""
    return StoreSettings(url=store_url, lease_s=LEASE_S, worker_lease_s=LEASE_S, assignment_s=0.1)


@pytest.fixture
def alive(settings: StoreSettings) -> Iterator[None]:
    """Keeps the worker `w1` and no other alive."""
    store, over = Store.open(settings), threading.Event()

    def renew() -> None:
        while not over.wait(LEASE_S / 5):
            store.run(workers.renew_worker("w1", 1))

    thread = threading.Thread(target=renew)
    thread.start()
    yield
    over.set()
    thread.join()
    store.close()


def swept(lab: Lab, *kinds: SweptKind) -> list[Swept]:
    """What sweeps do until they have done all of these."""
    done: list[Swept] = []

    def look() -> bool:
        done.extend(lab.run(sweep()))
        return {one.what for one in done} >= set(kinds)

    lab.until(look)
    return done


def test_an_assignment_that_nobody_claims_lapses_and_the_stale_message_is_fenced(lab: Lab) -> None:
    ref = lab.create()
    lab.worker()
    term = lab.assign(ref)
    done = swept(lab, SweptKind.ASSIGNMENT_LAPSED)
    assert done[0].ref == ref
    stale = attempts.claim(ref, term, worker_id="w1", device="cpu", operation_id="c")
    assert lab.run(stale).answer is Answer.FENCED
    (waiting,) = lab.run(dispatch.waiting_jobs(10))
    assert (waiting.ref, waiting.avoided_worker_id) == (ref, "w1")
    assert len(lab.events(ref)) == 1
    assert lab.assign(ref) > term


def test_a_lost_attempt_is_queued_again_and_its_holder_fenced(lab: Lab) -> None:
    ref, term = lab.start()
    lab.run(attempts.record_checkpoint(ref, term, Artifact(digest="a", step=9), 0.1, operation_id="c"))
    swept(lab, SweptKind.ATTEMPT_LOST)
    job = lab.job(ref)
    assert job.state == JOB_STATE_QUEUED
    assert job.attempts[0].error.reason == JOB_ERROR_REASON_WORKER_LOST
    assert lab.events(ref)[-1].state_changed.error.retryable
    assert lab.run(attempts.renew_lease(ref, term)).answer is Answer.FENCED
    lab.worker("w2")
    lab.claim(ref, lab.assign(ref, "w2"), "w2")
    assert lab.job(ref).attempts[1].resumed_at_step == 9


@pytest.mark.usefixtures("alive")
def test_a_holder_that_renews_is_left_alone(lab: Lab) -> None:
    ref, term = lab.start()
    lab.run(sweep())
    deadline_passed = threading.Event()
    threading.Timer(3 * LEASE_S, deadline_passed.set).start()
    while not deadline_passed.wait(LEASE_S / 5):
        assert lab.run(attempts.renew_lease(ref, term)).answer is Answer.APPLIED
        assert lab.run(sweep()) == []
    assert lab.job(ref).state == JOB_STATE_RUNNING


def test_a_cancelled_job_whose_holder_is_gone_ends_cancelled(lab: Lab) -> None:
    ref, _ = lab.start()
    lab.run(jobs.request_cancel(ref, operation_id="x"))
    swept(lab, SweptKind.JOB_CANCELLED)
    assert lab.job(ref).state == JOB_STATE_CANCELLED


def test_the_third_loss_at_the_same_step_fails_the_job_after_a_back_off(lab: Lab) -> None:
    ref, _ = lab.start()
    seen: Counter[SweptKind] = Counter()
    waited: set[int] = set()
    while not lab.job(ref).done:
        seen.update(one.what for one in lab.run(sweep()))
        waited.add(lab.job(ref).waiting.reason)
        lab.worker("w2")
        if any(job.ref == ref for job in lab.run(dispatch.waiting_jobs(10))):
            lab.claim(ref, lab.assign(ref, "w2"), "w2")
    job = lab.job(ref)
    assert job.state == JOB_STATE_FAILED
    assert job.error.reason == JOB_ERROR_REASON_TOO_MANY_LOSSES
    assert len(job.attempts) == 3
    assert seen[SweptKind.ATTEMPT_LOST] == 2
    assert seen[SweptKind.JOB_FAILED] == seen[SweptKind.BACK_OFF_ENDED] == 1
    assert job_pb2.WAITING_REASON_BACK_OFF in waited


def test_a_dead_worker_is_forgotten_once_nothing_stands_on_it(lab: Lab) -> None:
    ref, _ = lab.start()
    done = swept(lab, SweptKind.WORKER_LOST)
    assert [one.what for one in done] == [SweptKind.ATTEMPT_LOST, SweptKind.WORKER_LOST]
    assert done[1].worker_id == "w1"
    assert lab.run(workers.list_workers()) == []
    assert not lab.run(workers.renew_worker("w1", 1))
    assert lab.job(ref).waiting.reason == job_pb2.WAITING_REASON_NO_WORKER


def test_after_a_restart_of_the_server_nobody_is_lost_for_one_lease(lab: Lab, store_url: str) -> None:
    ref, term = lab.start()
    swept(lab, SweptKind.ATTEMPT_LOST)  # the run of the server is known from here on
    lab.worker("w2")
    term = lab.claim(ref, lab.assign(ref, "w2"), "w2")
    lab.until(lambda: lab.run(workers.list_workers())[-1].state == 4)
    with redis.Redis.from_url(store_url) as client:
        client.hset("gradsight:server_run", "run_id", "of another run")
    assert lab.run(sweep()) == []
    assert lab.run(attempts.renew_lease(ref, term)).answer is Answer.APPLIED
    swept(lab, SweptKind.ATTEMPT_LOST)


def test_of_several_sweepers_each_loss_is_handled_once(lab: Lab, settings: StoreSettings) -> None:
    refs = [lab.start(f"w{number}")[0] for number in range(40)]
    lab.run(sweep())
    found: list[Swept] = []

    def work() -> None:
        store = Store.open(settings)
        try:
            while len(found) < len(refs):
                found.extend(one for one in store.run(sweep()) if one.ref)
        finally:
            store.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert Counter(one.ref for one in found) == dict.fromkeys(refs, 1)
    for ref in refs:
        assert len(lab.events(ref)) == 4
        assert lab.job(ref).state == JOB_STATE_QUEUED


def test_a_job_that_fell_out_of_its_indexes_is_put_back(lab: Lab, store_url: str) -> None:
    waiting, (running, _) = lab.create(), lab.start()
    with redis.Redis.from_url(store_url) as client:
        lines = ("gradsight:waiting:*", "gradsight:leases", "gradsight:queued:*")
        client.delete(*(key for line in lines for key in client.keys(line)))
    assert lab.run(dispatch.waiting_jobs(10)) == []
    assert {one.ref for one in lab.run(reconcile())} == {waiting, running}
    assert [job.ref for job in lab.run(dispatch.waiting_jobs(10))] == [waiting]
    assert swept(lab, SweptKind.ATTEMPT_LOST)[0].ref == running
    assert lab.run(reconcile()) == []


def test_a_slot_whose_job_knows_nothing_of_it_is_emptied(lab: Lab, store_url: str) -> None:
    lab.worker()
    with redis.Redis.from_url(store_url) as client:
        client.hset("gradsight:worker:w1", "slot", "default_nothing_3")
    assert lab.run(dispatch.idle_workers()) == []
    assert lab.run(reconcile()) == [Swept(SweptKind.WORKER_FREED, worker_id="w1")]
    assert len(lab.run(dispatch.idle_workers())) == 1


def test_a_line_with_a_job_that_is_gone_is_cleaned(lab: Lab, store_url: str) -> None:
    with redis.Redis.from_url(store_url) as client:
        client.zadd("gradsight:assignments", {"default_nothing": 1})
        assert lab.run(sweep()) == []
        assert client.zcard("gradsight:assignments") == 0
