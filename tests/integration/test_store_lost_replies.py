"""Every reply lost once: the command ran, nobody heard of it, and it is sent again. The end is the same."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import redis

from gradsight.v1.artifact_pb2 import Artifact
from gradsight.v1.event_pb2 import JobEvent, StepsRecorded
from gradsight.v1.spec_pb2 import JobSpec
from gradsight.v1.state_pb2 import JOB_STATE_SUCCEEDED
from gradsight_store import attempts, dispatch, jobs, transport
from gradsight_store.operations import Answer, JobRef, new_operation_id
from gradsight_store.projection import JobProjection, apply_event
from gradsight_store.settings import StoreSettings
from gradsight_store.store import Store

if TYPE_CHECKING:
    from tests.integration.conftest import Lab


class LosingProxy:
    """Forwards to the store; drops the connection instead of the n-th reply, once it has arrived."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.store_address = (parts.hostname, parts.port)
        self.lose = 0
        self.replies = 0
        self.lost = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self.listener.getsockname()[1]}/0"
        self.sockets: list[socket.socket] = [self.listener]
        threading.Thread(target=self.accept, daemon=True).start()

    def begin(self, lose: int) -> None:
        """Count replies from 1 again and lose this one; 0: none."""
        self.lose, self.replies, self.lost = lose, 0, 0

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            upstream = socket.create_connection(self.store_address)
            self.sockets += [client, upstream]
            threading.Thread(target=self.forward, args=(client, upstream, False), daemon=True).start()
            threading.Thread(target=self.forward, args=(upstream, client, True), daemon=True).start()

    def forward(self, source: socket.socket, target: socket.socket, replies: bool) -> None:
        try:
            while data := source.recv(1 << 20):
                if replies:
                    self.replies += 1
                    if self.replies == self.lose:
                        self.lost += 1
                        break
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for opened in self.sockets:
            opened.close()


@pytest.fixture
def proxy(store_url: str) -> Iterator[LosingProxy]:
    """A proxy before the empty store."""
    opened = LosingProxy(store_url)
    yield opened
    opened.close()


def whole_way(store: Store, lab: Lab, round_number: int) -> JobRef:
    """Every mutation in the life of a job, over the given store. The worker is registered beside it."""
    worker_id = lab.worker(f"w{round_number}")
    spec = JobSpec(queue="default", name="shoes")
    created = store.run(
        jobs.create_job(
            "default",
            spec,
            request_id=f"r{round_number}",
            request_digest="d",
            operation_id=new_operation_id(),
        )
    )
    assert created.created
    ref = JobRef("default", created.job.job_id)
    assigned = store.run(dispatch.assign(ref, worker_id, operation_id=new_operation_id()))
    store.run(transport.enqueue_attempt(worker_id, ref, assigned.term))
    claim = store.run(
        attempts.claim(ref, assigned.term, worker_id=worker_id, device="cpu", operation_id=new_operation_id())
    )
    projection = JobProjection(claim.record.job, claim.findings)
    event = JobEvent(steps_recorded=StepsRecorded(first_step=1, loss=[1, 2], training_seconds=1))
    apply_event(projection, event)
    appended = store.run(
        attempts.append_events(ref, claim.record.term, [event], projection, operation_id=new_operation_id())
    )
    renewed = store.run(attempts.renew_lease(ref, assigned.term))
    saved = store.run(
        attempts.record_checkpoint(
            ref, assigned.term, Artifact(digest="a", step=2), 0.1, operation_id=new_operation_id()
        )
    )
    done = store.run(
        attempts.finish(ref, assigned.term, state=JOB_STATE_SUCCEEDED, operation_id=new_operation_id())
    )
    for outcome in (assigned, claim, appended, renewed, saved, done):
        assert outcome.answer in (Answer.APPLIED, Answer.ALREADY_APPLIED), "a lost reply is no fencing"
    assert claim.attempt == 1
    assert appended.last_sequence == 4
    return ref


def test_no_lost_reply_changes_how_a_job_ends(lab: Lab, proxy: LosingProxy, store_url: str) -> None:
    client = redis.Redis.from_url(store_url)
    lose = rounds = 0
    shapes, counts = set(), []
    while True:
        store = Store.open(
            StoreSettings(url=proxy.url)
        )  # its own connections: replies are counted from the first
        proxy.begin(lose)
        ref = whole_way(store, lab, rounds)
        store.close()
        rounds += 1
        job, log = lab.job(ref), lab.events(ref)
        shapes.add((job.state, len(job.attempts), len(log), job.progress.step, job.progress.steps_taken))
        queue = f"rq:queue:{transport.queue_name(job.attempts[0].worker_id)}"
        assert client.lrange(queue, 0, -1) == [transport.message_id(ref, 1).encode()]
        counts.append(client.hgetall("gradsight:default:counters")[b"finished:default:6:0:0"])
        if lose and not proxy.lost:
            break  # fewer replies than that are needed: every one of them was lost once
        lose += 1
    client.close()
    assert rounds > 12
    assert shapes == {(JOB_STATE_SUCCEEDED, 1, 6, 2, 2)}
    assert counts == [str(number + 1).encode() for number in range(rounds)], "counted once each"
    assert len(lab.run(jobs.list_jobs("default", page_size=1000)).jobs) == rounds
    assert all(worker.state == 1 for worker in lab.run(dispatch.idle_workers()))
