"""The store goes away in mid-job: shorter than a lease nobody notices, longer costs a checkpoint interval."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from gradsight.v1 import state_pb2
from gradsight_store.embedded import EmbeddedStore, start_embedded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.worker.conftest import Workshop


class RestartableStore:
    """A server over one directory and one port that can be killed and started again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.server: EmbeddedStore = start_embedded(directory, 0)

    @property
    def url(self) -> str:
        return self.server.url

    def outage(self, seconds: float) -> None:
        """Kill the server and start it again so much later."""
        port = self.server.port
        psutil.Process(self.server.pid).kill()
        self.server.stop()
        time.sleep(seconds)
        self.server = start_embedded(self._directory, port)

    def black_hole(self, seconds: float) -> None:
        """Let the server take connections and answer nothing."""
        process = psutil.Process(self.server.pid)
        process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        process.send_signal(signal.SIGCONT)


@pytest.fixture
def restartable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestartableStore]:
    store = RestartableStore(tmp_path_factory.mktemp("restartable"))
    yield store
    store.server.stop()


@pytest.fixture
def store_url(restartable: RestartableStore) -> str:
    """The workshop of these tests stands on a store that can go away."""
    return restartable.url


def test_an_outage_shorter_than_the_lease_is_invisible(
    workshop: Workshop, restartable: RestartableStore
) -> None:
    worker = workshop.start_worker()
    ref = workshop.submit(steps=1200, checkpoint_every=100)
    workshop.wait_step(ref, 100)
    trainer = worker.trainer().pid
    restartable.outage(1.0)
    workshop.wait_step(ref, 800)
    assert worker.trainer().pid == trainer
    job = workshop.wait_done(ref)
    assert job.state == state_pb2.JOB_STATE_SUCCEEDED
    assert len(job.attempts) == 1
    steps = [
        event.steps_recorded.first_step for event in workshop.events(ref) if event.HasField("steps_recorded")
    ]
    assert steps == list(range(1, 1201))
    assert workshop.wait_done(workshop.submit(steps=5)).state == state_pb2.JOB_STATE_SUCCEEDED


def test_a_server_that_hangs_for_less_than_the_lease_is_invisible(
    workshop: Workshop, restartable: RestartableStore
) -> None:
    workshop.start_worker()
    ref = workshop.submit(steps=800, checkpoint_every=100)
    workshop.wait_step(ref, 100)
    restartable.black_hole(0.8)
    job = workshop.wait_done(ref)
    assert job.state == state_pb2.JOB_STATE_SUCCEEDED
    assert len(job.attempts) == 1


def test_an_outage_longer_than_the_lease_stops_the_trainer_and_the_job_goes_on_afterwards(
    workshop: Workshop, restartable: RestartableStore
) -> None:
    worker = workshop.start_worker()
    ref = workshop.submit(steps=1500, checkpoint_every=50)
    workshop.wait_step(ref, 200)
    trainer = worker.trainer()
    restartable.outage(3.0)
    workshop.wait_gone([trainer])
    job = workshop.wait_done(ref, timeout_s=60)
    assert job.state == state_pb2.JOB_STATE_SUCCEEDED
    assert job.attempts[0].error.reason == state_pb2.JOB_ERROR_REASON_WORKER_LOST
    assert job.attempts[1].resumed_at_step >= 150
    assert workshop.states(ref).count("SUCCEEDED") == 1
    reference = workshop.wait_done(workshop.submit(steps=1500, pace_ms=0))
    assert workshop.result(job) == workshop.result(reference)
    assert worker.process.poll() is None


def test_a_result_that_meets_an_outage_is_never_a_failure(
    workshop: Workshop, restartable: RestartableStore
) -> None:
    workshop.start_worker()
    ref = workshop.submit(steps=150, checkpoint_every=1000)
    workshop.wait_step(ref, 100)
    restartable.outage(0.8)
    job = workshop.wait_done(ref)
    assert job.state == state_pb2.JOB_STATE_SUCCEEDED
    assert len(job.attempts) == 1


def test_an_idle_worker_is_there_again_after_an_outage(
    workshop: Workshop, restartable: RestartableStore
) -> None:
    worker = workshop.start_worker()
    restartable.outage(3.0)
    assert workshop.wait_done(workshop.submit(steps=5)).state == state_pb2.JOB_STATE_SUCCEEDED
    assert worker.process.poll() is None


def test_a_worker_whose_records_are_gone_registers_again(
    workshop: Workshop, restartable: RestartableStore
) -> None:
    workshop.start_worker()
    with workshop.redis() as client:
        client.flushall()
    assert workshop.wait_done(workshop.submit(steps=5)).state == state_pb2.JOB_STATE_SUCCEEDED
