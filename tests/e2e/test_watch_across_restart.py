"""A watch that was there before the job started sees every event once, in order, whatever becomes of the service."""

import asyncio
import threading
from collections.abc import Iterator
from functools import partial

import grpc
import pytest
from tests.e2e.conftest import Datasets, Household, wait_for, wait_gone, wait_until_saved

from gradsight import JobEvent, JobState, Patience, StateChanged, aio
from gradsight.v1 import training_service_pb2 as wire
from gradsight.v1 import training_service_pb2_grpc as stubs

PATIENCE = Patience(call_timeout=30, call_attempts=30)


@pytest.fixture(scope="module")
def restarted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Household]:
    """A household whose service is killed by these tests, and started again by `up`."""
    household = Household(tmp_path_factory.mktemp("restarted"), profile="standard")
    with household.running():
        yield household


def test_a_stream_from_before_the_start_brings_every_event_once(
    household: Household, datasets: Datasets
) -> None:
    with household.client() as client, grpc.insecure_channel(household.service) as channel:
        blocker = client.submit(datasets.job("mlp", steps=2000))
        handle = client.submit(datasets.job("mlp"))
        training = stubs.TrainingServiceStub(channel)
        stream = training.WatchJob(wire.WatchJobRequest(job_id=handle.job_id), timeout=90)
        first = next(frame for frame in stream if frame.HasField("event"))
        assert handle.get().state is JobState.QUEUED
        frames = [first, *stream]
        blocker.wait(timeout=60)
        log = list(handle.events())
    sequences = [frame.event.sequence for frame in frames if frame.HasField("event")]
    assert sequences == [event.sequence for event in log] == list(range(1, len(log) + 1))
    assert frames[-1].end.reason == wire.STREAM_END_REASON_JOB_DONE
    assert frames[-1].end.next_sequence == len(log)
    assert not any(frame.HasField("gap") for frame in frames)


def test_watches_go_on_through_a_killed_service_with_no_gap_and_no_duplicate(
    restarted: Household, datasets: Datasets
) -> None:
    with restarted.client() as client:
        handle = client.submit(datasets.long_job("mlp", steps=6000))
        seen = {"threads": list[JobEvent](), "asyncio": list[JobEvent]()}
        watchers = [
            threading.Thread(target=lambda: seen["threads"].extend(handle.watch(timeout=90))),
            threading.Thread(target=lambda: asyncio.run(_watch(restarted, handle.job_id, seen["asyncio"]))),
        ]
        for watcher in watchers:
            watcher.start()
        for checkpoints in (2, 4):
            wait_until_saved(handle, checkpoints=checkpoints)
            service = restarted.child("serve")
            service.kill()
            wait_gone([service])
            wait_for("another service", partial(_differs, restarted, service.pid))
            client.server_info()
        job = handle.wait(timeout=90)
        for watcher in watchers:
            watcher.join(90)
        log = list(handle.events())
    assert job.state is JobState.SUCCEEDED
    assert [event.sequence for event in log] == list(range(1, len(log) + 1))
    for events in seen.values():
        assert events == log


def test_the_feed_of_all_jobs_goes_on_through_a_killed_service(
    restarted: Household, datasets: Datasets
) -> None:
    with restarted.client() as client:
        first = second = client.submit(datasets.job("mlp", steps=10))
        first.wait(timeout=60)
        seen: list[tuple[str, JobState]] = []
        for change in client.watch_jobs(after="0"):
            assert isinstance(change.event.detail, StateChanged)
            seen.append((change.job_id, change.event.detail.state))
            if seen[-1] == (first.job_id, JobState.SUCCEEDED):
                restarted.child("serve").kill()
                second = client.submit(datasets.job("mlp", steps=10))
            elif seen[-1][1] is JobState.SUCCEEDED and seen[-1][0] == second.job_id:
                break
    whole_way = [JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED]
    for handle in (first, second):
        assert [state for job_id, state in seen if job_id == handle.job_id] == whole_way


async def _watch(household: Household, job_id: str, seen: list[JobEvent]) -> None:
    async with aio.Client(household.service, patience=PATIENCE) as client:
        seen.extend([event async for event in client.job(job_id).watch(timeout=90)])


def _differs(household: Household, process_id: int) -> bool:
    return household.child("serve").pid != process_id
