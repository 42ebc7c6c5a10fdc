"""A real store for every test that asks for one."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis

from gradsight.v1 import event_pb2, job_pb2, spec_pb2, worker_pb2
from gradsight_store import attempts, dispatch, events, jobs, workers
from gradsight_store.artifacts import Artifacts
from gradsight_store.embedded import EmbeddedStore, start_embedded
from gradsight_store.operations import Answer, JobRef, Operation, new_operation_id
from gradsight_store.projection import JobProjection, apply_event
from gradsight_store.settings import StoreSettings
from gradsight_store.store import Store

Result = TypeVar("Result")


@pytest.fixture(scope="session")
def store_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    """A server with an append-only file; tests that kill servers start their own."""
    with start_embedded(tmp_path_factory.mktemp("store"), 0) as server:
        yield server


@pytest.fixture
def store_url(store_server: EmbeddedStore) -> str:
    """Address of an empty store."""
    with redis.Redis.from_url(store_server.url) as client:
        client.flushall()
    return store_server.url


@pytest.fixture
def settings(store_url: str) -> StoreSettings:
    """Settings with short leases for an empty store."""
    return StoreSettings.fast(url=store_url)


@pytest.fixture
def store(settings: StoreSettings) -> Iterator[Store]:
    """The sync driver on an empty store."""
    opened = Store.open(settings)
    yield opened
    opened.close()


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    """An empty artifact root."""
    return Artifacts(tmp_path / "artifacts")


class Lab:
    """Brings jobs into a wanted situation through the store's own operations."""

    def __init__(self, store: Store, artifacts: Artifacts) -> None:
        self.store = store
        self.artifacts = artifacts

    def run(self, operation: Operation[Result]) -> Result:
        return self.store.run(operation)

    def create(self, *, request_id: str = "", tenant: str = "default", **spec: Any) -> JobRef:
        """A QUEUED job."""
        wanted = spec_pb2.JobSpec(**{"queue": "default", "name": "shoes", **spec})
        created = self.run(
            jobs.create_job(
                tenant,
                wanted,
                request_id=request_id,
                request_digest="digest",
                operation_id=new_operation_id(),
            )
        )
        return JobRef(tenant, created.job.job_id)

    def worker(self, worker_id: str = "w1", *, queue: str = "default", device_class: int = 1) -> str:
        """A live idle worker."""
        worker = worker_pb2.Worker(worker_id=worker_id, queue=queue)
        worker.device_class = device_class  # type: ignore[assignment]
        self.run(workers.register_worker(worker))
        return worker_id

    def assign(self, ref: JobRef, worker_id: str = "w1") -> int:
        """Hand the job to a worker; the term."""
        assigned = self.run(dispatch.assign(ref, worker_id, operation_id=new_operation_id()))
        assert assigned.answer is Answer.APPLIED
        return assigned.term

    def start(self, worker_id: str = "w1", **spec: Any) -> tuple[JobRef, int]:
        """A RUNNING job on a worker of its own name, and its term."""
        ref = self.create(**spec)
        self.worker(worker_id)
        return ref, self.claim(ref, self.assign(ref, worker_id), worker_id)

    def claim(self, ref: JobRef, term: int, worker_id: str = "w1") -> int:
        """Start the attempt; the term."""
        claim = self.run(
            attempts.claim(ref, term, worker_id=worker_id, device="cpu", operation_id=new_operation_id())
        )
        assert claim.answer is Answer.APPLIED
        return term

    def append(self, ref: JobRef, term: int, batch: int, size: int = 4) -> attempts.Appended:
        """Append one batch of steps; batches count from 0."""
        event = steps_event(batch, size)
        projection = JobProjection()
        apply_event(projection, event)
        return self.run(
            attempts.append_events(ref, term, [event], projection, operation_id=new_operation_id())
        )

    def job(self, ref: JobRef) -> job_pb2.Job:
        return self.run(jobs.get_job(ref))

    def events(self, ref: JobRef, limit: int = 7) -> list[event_pb2.JobEvent]:
        """The whole log, read page by page."""
        found: list[event_pb2.JobEvent] = []
        while True:
            page = self.run(events.read_events(ref, len(found), limit, self.artifacts))
            found += page.events
            if page.end:
                assert [event.sequence for event in found] == list(range(1, page.last_sequence + 1))
                return found

    def until(self, condition: Callable[[], Result], timeout_s: float = 10.0) -> Result:
        """The condition's first true value."""
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            assert time.monotonic() < deadline, "the condition did not come true in time"
            time.sleep(0.01)
        return value


def steps_event(batch: int, size: int) -> event_pb2.JobEvent:
    """A batch of optimizer steps."""
    first = batch * size + 1
    steps = event_pb2.StepsRecorded(
        first_step=first, loss=[1.0 / (first + i) for i in range(size)], samples_total=10 * (first + size)
    )
    return event_pb2.JobEvent(steps_recorded=steps)


@pytest.fixture
def lab(store: Store, artifacts: Artifacts) -> Lab:
    """Shortcuts over an empty store."""
    return Lab(store, artifacts)
