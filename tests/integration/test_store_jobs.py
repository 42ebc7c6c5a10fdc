"""Jobs as clients see them, on a real store."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from gradsight.v1 import job_pb2, spec_pb2
from gradsight.v1.state_pb2 import (
    JOB_STATE_CANCELLED,
    JOB_STATE_CANCELLING,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
)
from gradsight_store import attempts, jobs, workers
from gradsight_store.async_store import AsyncStore
from gradsight_store.errors import JobNotFound, RequestIdReused, TransitionRefused
from gradsight_store.operations import Answer, JobRef, new_operation_id
from gradsight_store.settings import StoreSettings

if TYPE_CHECKING:
    from tests.integration.conftest import Lab

SPEC = spec_pb2.JobSpec(name="shoes", queue="default", labels={"team": "desk"}, priority=3)


def create(lab: Lab, request_id: str, digest: str = "d", tenant: str = "default") -> jobs.Created:
    return lab.run(
        jobs.create_job(
            tenant, SPEC, request_id=request_id, request_digest=digest, operation_id=new_operation_id()
        )
    )


def listed(lab: Lab, page_size: int = 50, **filters: object) -> list[str]:
    """Ids over all pages."""
    ids, token = [], ""
    while True:
        page = lab.run(jobs.list_jobs("default", page_size=page_size, page_token=token, **filters))  # type: ignore[arg-type]
        assert len(page.jobs) <= page_size
        ids += [job.job_id for job in page.jobs]
        token = page.next_page_token
        if not token:
            return ids


def test_a_created_job_is_read_back_with_its_first_event(lab: Lab) -> None:
    created = create(lab, "r1")
    job = lab.job(JobRef("default", created.job.job_id))
    assert created.created
    assert (job.state, job.last_sequence, job.spec) == (JOB_STATE_QUEUED, 1, SPEC)
    assert job.create_time == created.job.create_time
    assert job.create_time.ToMilliseconds() > 0
    (event,) = lab.events(JobRef("default", job.job_id))
    assert event.state_changed.state == JOB_STATE_QUEUED
    assert event.record_time == job.create_time


def test_the_same_request_gives_the_same_job_and_another_spec_is_refused(lab: Lab) -> None:
    first, again = create(lab, "r1"), create(lab, "r1")
    assert (again.created, again.job.job_id) == (False, first.job.job_id)
    with pytest.raises(RequestIdReused) as refused:
        create(lab, "r1", digest="other")
    assert refused.value.job_id == first.job.job_id
    assert listed(lab) == [first.job.job_id]


def test_request_ids_of_tenants_do_not_meet(lab: Lab) -> None:
    assert create(lab, "r1", tenant="one").created
    assert create(lab, "r1", tenant="two").created


def test_without_a_request_id_every_call_makes_a_job(lab: Lab) -> None:
    assert create(lab, "").created
    assert create(lab, "").created
    assert len(listed(lab)) == 2


@pytest.mark.parametrize("job_id", ["nothing", "Not/An:Id", "", "a" * 65])
def test_an_unknown_job_is_not_found(lab: Lab, job_id: str) -> None:
    with pytest.raises(JobNotFound):
        lab.job(JobRef("default", job_id))


def test_the_job_of_another_tenant_is_not_found(lab: Lab) -> None:
    ref = lab.create()
    with pytest.raises(JobNotFound):
        lab.job(JobRef("other", ref.job_id))


def test_pages_are_newest_first_without_gap_or_duplicate_while_jobs_come(lab: Lab) -> None:
    refs = [lab.create() for _ in range(7)]
    newest_first = [ref.job_id for ref in sorted(refs, reverse=True)]
    first = lab.run(jobs.list_jobs("default", page_size=3))
    lab.create()
    second = lab.run(jobs.list_jobs("default", page_size=3, page_token=first.next_page_token))
    third = lab.run(jobs.list_jobs("default", page_size=3, page_token=second.next_page_token))
    shown = [job.job_id for page in (first, second, third) for job in page.jobs]
    assert shown == newest_first
    assert third.next_page_token == ""


@pytest.mark.parametrize("page_size", [1, 2, 50])
def test_jobs_are_filtered(lab: Lab, page_size: int) -> None:
    plain = lab.create()
    labelled = lab.create(labels={"team": "desk", "week": "7"}, name="intents")
    elsewhere = lab.create(queue="night", labels={"team": "desk"})
    running, _ = lab.start()
    assert listed(lab, page_size, labels={"team": "desk", "week": "7"}) == [labelled.job_id]
    assert listed(lab, page_size, name="intents") == [labelled.job_id]
    assert listed(lab, page_size, queue="night") == [elsewhere.job_id]
    assert listed(lab, page_size, states=[JOB_STATE_RUNNING]) == [running.job_id]
    assert listed(lab, page_size, states=[JOB_STATE_QUEUED, JOB_STATE_RUNNING], name="shoes") == sorted(
        [plain.job_id, elsewhere.job_id, running.job_id], reverse=True
    )
    assert listed(lab, page_size, states=[JOB_STATE_SUCCEEDED]) == []


@pytest.mark.parametrize("token", ["not a token", "AAAA", "éé"])
def test_a_made_up_page_token_is_refused(lab: Lab, token: str) -> None:
    with pytest.raises(ValueError, match="page_token"):
        lab.run(jobs.list_jobs("default", page_size=3, page_token=token))


def test_a_waiting_job_is_cancelled_at_once(lab: Lab) -> None:
    ref = lab.create()
    changed = lab.run(jobs.request_cancel(ref, operation_id="x"))
    assert (changed.answer, changed.job.state, changed.job.done) == (
        Answer.APPLIED,
        JOB_STATE_CANCELLED,
        True,
    )
    again = lab.run(jobs.request_cancel(ref, operation_id="y"))
    assert (again.answer, again.job.state) == (Answer.ALREADY_APPLIED, JOB_STATE_CANCELLED)
    assert len(lab.events(ref)) == 2


def test_a_running_job_is_asked_and_its_holder_hears_of_it(lab: Lab) -> None:
    ref, term = lab.start()
    changed = lab.run(jobs.request_cancel(ref, operation_id="x"))
    assert (changed.answer, changed.job.state) == (Answer.APPLIED, JOB_STATE_CANCELLING)
    assert lab.run(attempts.renew_lease(ref, term)).desired_state == 1
    assert lab.append(ref, term, 0).desired_state == 1


def test_a_job_that_succeeded_cannot_be_cancelled(lab: Lab) -> None:
    ref, term = lab.start()
    lab.run(attempts.finish(ref, term, state=JOB_STATE_SUCCEEDED, operation_id="f"))
    with pytest.raises(TransitionRefused, match="is SUCCEEDED") as refused:
        lab.run(jobs.request_cancel(ref, operation_id="x"))
    assert refused.value.state == JOB_STATE_SUCCEEDED


def test_why_a_job_waits(lab: Lab) -> None:
    ref = lab.create(resources=spec_pb2.ResourceSpec(device_class=spec_pb2.DEVICE_CLASS_CUDA))
    lab.worker("cpu", device_class=spec_pb2.DEVICE_CLASS_CPU)
    waiting = lab.job(ref).waiting
    assert (waiting.reason, waiting.position) == (job_pb2.WAITING_REASON_NO_WORKER, 1)
    assert "with a cuda device for queue 'default'" in waiting.message
    lab.worker("gpu", device_class=spec_pb2.DEVICE_CLASS_CUDA)
    assert lab.job(ref).waiting.reason == job_pb2.WAITING_REASON_WORKERS_BUSY
    lab.assign(ref, "gpu")
    assert lab.job(ref).waiting.reason == job_pb2.WAITING_REASON_ASSIGNED
    assert lab.job(ref).waiting.since == lab.job(ref).create_time


def test_a_draining_worker_does_not_count(lab: Lab) -> None:
    ref = lab.create()
    lab.worker()
    assert lab.run(workers.renew_worker("w1", 3))
    assert lab.job(ref).waiting.reason == job_pb2.WAITING_REASON_NO_WORKER


def test_places_in_line_follow_priority_then_time_among_jobs_that_want_the_same_workers(lab: Lab) -> None:
    cpu, cuda = spec_pb2.ResourceSpec(device_class=1), spec_pb2.ResourceSpec(device_class=2)  # type: ignore[arg-type]
    first = lab.create(resources=cpu)
    lab.create(resources=cuda)
    lab.create(queue="night", resources=cpu)
    time.sleep(0.002)  # the store's clock counts milliseconds
    lab.create(name="later")
    urgent = lab.create(priority=10)
    assert lab.job(urgent).waiting.position == 1
    assert lab.job(first).waiting.position == 2
    page = lab.run(jobs.list_jobs("default", page_size=10, name="later"))
    assert page.jobs[0].waiting.position == 4


def test_both_drivers_do_the_same(lab: Lab, settings: StoreSettings) -> None:
    ref = lab.create()

    async def read_and_cancel() -> tuple[job_pb2.Job, Answer]:
        opened = await AsyncStore.open(settings)
        try:
            job = await opened.run(jobs.get_job(ref))
            return job, (await opened.run(jobs.request_cancel(ref, operation_id="x"))).answer
        finally:
            await opened.close()

    before = lab.job(ref)
    assert asyncio.run(read_and_cancel()) == (before, Answer.APPLIED)
    assert lab.job(ref).state == JOB_STATE_CANCELLED
