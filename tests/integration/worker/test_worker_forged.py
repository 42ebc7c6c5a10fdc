"""Whoever can write to the store can make a worker try a job in a term, and nothing else."""

from __future__ import annotations

import pickle
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from gradsight.v1 import state_pb2
from gradsight_store.transport import message_id, queue_name

if TYPE_CHECKING:
    from pathlib import Path

    import redis
    from tests.integration.worker.conftest import RunningWorker, Workshop


KINDS = [
    "no hash",
    "another function",
    "a pickle",
    "a bare pickle",
    "undecodable data",
    "callbacks",
    "webhooks",
    "a pickle as metadata",
    "repeats and retries",
]


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


@pytest.fixture
def worker(workshop: Workshop) -> RunningWorker:
    return workshop.start_worker()


def forged_fields(canary: Path) -> dict[str, dict[str, bytes | str]]:
    """What could stand in an RQ entry to make a worker do something."""
    call = f'["os.system", null, ["touch {canary}"], {{}}]'.encode()
    return {
        "no hash": {},
        "another function": {"data": zlib.compress(call), "origin": "x"},
        "a pickle": {"data": zlib.compress(pickle.dumps(Canary(canary)))},
        "a bare pickle": {"data": pickle.dumps(Canary(canary))},
        "undecodable data": {"data": b"\xff\x00\xfe", "timeout": "soon", "status": "splendid"},
        "callbacks": {
            "data": call,
            "success_callback_name": "os.system",
            "failure_callback_name": "os.system",
            "stopped_callback_name": "os.system",
        },
        "webhooks": {
            "data": call,
            "webhooks": '[{"url": "http://127.0.0.1:9/", "events": ["started", "failed"]}]',
        },
        "a pickle as metadata": {"data": call, "meta": pickle.dumps(Canary(canary))},
        "repeats and retries": {
            "data": call,
            "repeats_left": "9",
            "retries_left": "9",
            "retry_intervals": "[0]",
        },
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_forged_entry_runs_nothing_and_the_next_job_runs(
    workshop: Workshop, worker: RunningWorker, tmp_path: Path, kind: str
) -> None:
    canary = tmp_path / "canary"
    ended = workshop.submit(steps=2, pace_ms=0)
    workshop.wait_done(ended)
    known = len(workshop.events(ended))
    with workshop.redis() as client:
        for message in (message_id(ended, 1), "default_nosuchjob_1"):
            fields = forged_fields(canary)[kind]
            if fields:
                client.hset(f"rq:job:{message}", mapping=fields)
            push(workshop, client, message)
    assert workshop.wait_done(workshop.submit(steps=2, pace_ms=0)).state == state_pb2.JOB_STATE_SUCCEEDED
    assert worker.process.poll() is None, worker.log()
    assert not canary.exists()
    assert len(workshop.events(ended)) == known


@pytest.mark.parametrize(
    "entry",
    [b"", b"\xff\xfe", b"../../etc/passwd", b"a b c", b"default_x_y", b"x" * 100_000, b"default_job_-1"],
)
def test_an_entry_that_is_no_message_is_thrown_away(
    workshop: Workshop, worker: RunningWorker, entry: bytes
) -> None:
    with workshop.redis() as client:
        push(workshop, client, entry)
        assert workshop.wait_done(workshop.submit(steps=2, pace_ms=0)).state == state_pb2.JOB_STATE_SUCCEEDED
        left = [key for key in client.keys("rq:*intermediate*") if client.llen(key)]
    assert worker.process.poll() is None, worker.log()
    assert left == []


def test_a_hundred_copies_of_a_message_make_one_attempt(workshop: Workshop, worker: RunningWorker) -> None:
    ref = workshop.submit(steps=100)
    workshop.wait_step(ref, 2)
    with workshop.redis() as client:
        for _ in range(100):
            push(workshop, client, message_id(ref, 1))
        job = workshop.wait_done(ref)
        assert job.state == state_pb2.JOB_STATE_SUCCEEDED
        following = workshop.wait_done(workshop.submit(steps=2, pace_ms=0), timeout_s=60)
    assert following.state == state_pb2.JOB_STATE_SUCCEEDED
    assert len(workshop.job(ref).attempts) == 1
    assert sum(event.HasField("attempt_started") for event in workshop.events(ref)) == 1
    assert worker.process.poll() is None


def push(workshop: Workshop, client: redis.Redis, entry: str | bytes) -> None:
    """Put an entry in the one worker's queue, past everything that would refuse it."""
    (known,) = workshop.workers()
    client.rpush(f"rq:queue:{queue_name(known.worker_id)}", entry)
