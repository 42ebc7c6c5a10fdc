"""A real service on a free port, and a stand-in for workers that speaks to the store as they do."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import text_format
from google.rpc import error_details_pb2, status_pb2

from gradsight.v1 import (
    artifact_pb2,
    artifact_service_pb2_grpc,
    event_pb2,
    job_pb2,
    spec_pb2,
    state_pb2,
    training_service_pb2_grpc,
    worker_pb2,
)
from gradsight.v1 import artifact_service_pb2 as files_pb
from gradsight.v1 import training_service_pb2 as pb
from gradsight_store import attempts, run_with_parent
from gradsight_store.embedded import EmbeddedStore, start_embedded
from gradsight_store.operations import Answer, JobRef, new_operation_id
from gradsight_store.projection import JobProjection, apply_event
from gradsight_store.settings import StoreSettings
from gradsight_store.store import Store
from gradsight_store.transport import AttemptQueue, parse_message, queue_name, rq_connection
from gradsight_store.workers import register_worker, renew_worker

ROWS = b"width,height,label,id,kind\n" + b"".join(
    b"%d,%d,%d,r%d,k%d\n" % (n, n * n, n % 2, n, n % 3) for n in range(200)
)


class Service:
    """A `gradsight serve` process and the calls to it."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        addresses: dict[str, str],
        *,
        store: EmbeddedStore,
        root: Path,
        log: Path,
    ) -> None:
        self.log = log
        self.process = process
        self.address = addresses["address"]
        self.metrics = addresses["metrics"]
        self.store_server = store
        self.root = root
        self.channel = grpc.insecure_channel(self.address)
        self.training = training_service_pb2_grpc.TrainingServiceStub(self.channel)
        self.files = artifact_service_pb2_grpc.ArtifactServiceStub(self.channel)

    def upload(self, content: bytes, filename: str) -> str:
        """Upload a file and return its digest."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        request = files_pb.CreateUploadRequest(digest=digest, size_bytes=len(content), filename=filename)
        started = self.files.CreateUpload(request)
        if started.upload_id:
            chunk = files_pb.WriteUploadRequest(upload_id=started.upload_id, data=content)
            assert self.files.WriteUpload(iter([chunk])).artifact.digest == digest
        return digest

    def spec(self, *parts: str) -> spec_pb2.JobSpec:
        """A sound spec over uploaded rows, with parts in protobuf's text format merged into it."""
        digest = self.upload(ROWS, "rows.csv")
        spec = spec_pb2.JobSpec()
        sound = f'model {{ builtin {{ mlp {{}} }} }} data {{ train {{ artifact: "{digest}" }} target_column: "label" }}'
        for part in (sound, *parts):
            text_format.Merge(part, spec)
        return spec

    def create(self, *parts: str) -> job_pb2.Job:
        """Create a job of a sound spec."""
        return self.training.CreateJob(pb.CreateJobRequest(spec=self.spec(*parts))).job

    def stop(self) -> int:
        """Ask the process to end and wait for it; its exit status."""
        self.channel.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)


class FakeWorker:
    """Takes what the dispatcher hands out and reports on it, without RQ and without training."""

    def __init__(self, store: Store, worker_id: str, queue: str) -> None:
        self._store = store
        self._worker_id = worker_id
        worker = worker_pb2.Worker(
            worker_id=worker_id,
            queue=queue,
            device_class=spec_pb2.DEVICE_CLASS_CPU,
            device="cpu",
            host="here",
        )
        store.run(register_worker(worker))

    def wait_for_job(self, timeout_s: float = 5.0) -> "FakeAttempt":
        """The attempt of the next job that is handed to this worker."""
        with rq_connection(self._store.settings) as connection:
            queue = AttemptQueue(queue_name(self._worker_id), connection=connection)
            deadline = time.monotonic() + timeout_s
            while time.monotonic() < deadline:
                self._store.run(renew_worker(self._worker_id, worker_pb2.WORKER_STATE_IDLE))
                for message in queue.get_job_ids():
                    queue.remove(message)
                    attempt = FakeAttempt(self._store, self._worker_id, *parse_message(message))
                    if attempt.claim.answer is Answer.APPLIED:
                        return attempt
                time.sleep(0.002)
        raise AssertionError("no job was handed out")


class FakeAttempt:
    """One attempt: appends events and ends the job."""

    def __init__(self, store: Store, worker_id: str, ref: JobRef, term: int) -> None:
        self._store = store
        self.ref = ref
        self.term = term
        operation = attempts.claim(
            ref, term, worker_id=worker_id, device="cpu", operation_id=new_operation_id()
        )
        self.claim = store.run(operation)
        self._projection = JobProjection(self.claim.record.job, self.claim.findings)
        # As a real attempt does: the store has told of the start by itself.
        started = event_pb2.AttemptStarted(resumed_at_step=self.claim.resumed_at_step)
        apply_event(self._projection, event_pb2.JobEvent(attempt_started=started))

    def append(self, *events: event_pb2.JobEvent) -> int:
        """Append events; the sequence of the last."""
        for event in events:
            apply_event(self._projection, event)
        operation = attempts.append_events(
            self.ref, self.term, events, self._projection, operation_id=new_operation_id()
        )
        return self._store.run(operation).last_sequence

    def append_steps(self, first_step: int, batches: int, steps: int = 10) -> int:
        """Append batches of steps whose loss is the step's number."""
        events = []
        for batch in range(batches):
            start = first_step + batch * steps
            numbers = list(range(start, start + steps))
            recorded = event_pb2.StepsRecorded(first_step=start, loss=numbers, gradient_norm=numbers)
            events.append(event_pb2.JobEvent(steps_recorded=recorded))
        return self.append(*events)

    def hand_back(self, resume_at_step: int) -> None:
        """Give the job back with a checkpoint to resume from."""
        checkpoint = artifact_pb2.Artifact(
            digest="sha256:" + "c" * 64,
            kind=artifact_pb2.ARTIFACT_KIND_CHECKPOINT,
            filename="c",
            step=resume_at_step,
        )
        operation = attempts.record_checkpoint(
            self.ref, self.term, checkpoint, 0.1, operation_id=new_operation_id()
        )
        self._store.run(operation)
        drained = state_pb2.JobError(
            reason=state_pb2.JOB_ERROR_REASON_WORKER_DRAINED, fault=state_pb2.FAULT_INFRA
        )
        self._store.run(attempts.release(self.ref, self.term, error=drained, operation_id=new_operation_id()))

    def finish(self, state: int, *result: artifact_pb2.Artifact) -> None:
        """End the job with these files."""
        operation = attempts.finish(
            self.ref, self.term, state=state, result=result, operation_id=new_operation_id()
        )
        self._store.run(operation)


ServiceStarter = Callable[..., Service]


@pytest.fixture(scope="session")
def service_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    """A store that the services of this folder share; nobody empties it."""
    with start_embedded(tmp_path_factory.mktemp("service-store"), 0) as server:
        yield server


@pytest.fixture(scope="session")
def service_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the shared artifacts."""
    return tmp_path_factory.mktemp("service-artifacts")


@pytest.fixture(scope="session")
def start_service(
    service_store: EmbeddedStore, service_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceStarter]:
    """Starts services on the shared store, or on another; all are stopped at the end."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, store: EmbeddedStore | None = None) -> Service:
        server = store or service_store
        directory = tmp_path_factory.mktemp("service")
        ready = directory / "ready.json"
        # Tied to this process: a test run that is killed leaves no service behind.
        tied = run_with_parent.launcher(signal.SIGKILL)
        command = [*tied, sys.executable, "-m", "gradsight.cli", "serve", "--store", server.url]
        command += ["--artifacts", str(service_root), "--ready-file", str(ready)]
        command += ["--address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0", *arguments]
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        processes.append(process)
        deadline = time.monotonic() + 20
        while not ready.exists():
            assert process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < deadline, "the service did not become ready"
            time.sleep(0.02)
        addresses = json.loads(ready.read_text())
        return Service(process, addresses, store=server, root=service_root, log=directory / "log")

    yield start
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(15)


@pytest.fixture(scope="session")
def service(start_service: ServiceStarter) -> Service:
    """A service that all tests may call and none may stop."""
    return start_service("--heartbeat", "0.5")


@pytest.fixture
def worker(service_store: EmbeddedStore) -> Iterator[Callable[..., FakeWorker]]:
    """Makes fake workers, each for a queue of its own."""
    opened: list[Store] = []

    def make(queue: str, lease_s: float = 15.0) -> FakeWorker:
        opened.append(Store.open(StoreSettings(url=service_store.url, lease_s=lease_s)))
        return FakeWorker(opened[-1], f"w-{os.getpid()}-{time.monotonic_ns()}", queue)

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def refusal() -> Callable[[Callable[[], Any]], "Refusal"]:
    """Makes a call that must fail and returns how it was refused."""

    def refused(call: Callable[[], Any]) -> Refusal:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        return Refusal(caught.value)

    return refused


class Refusal:
    """A refused call, its rich status unpacked."""

    def __init__(self, error: Any) -> None:
        self.code: grpc.StatusCode = error.code()
        self.message: str = error.details()
        trailers = {entry.key: entry.value for entry in error.trailing_metadata() or ()}
        self.status = status_pb2.Status.FromString(trailers.get("grpc-status-details-bin", b""))

    @property
    def reason(self) -> str:
        """The stable reason."""
        return str(self._detail(error_details_pb2.ErrorInfo()).reason)

    @property
    def metadata(self) -> dict[str, str]:
        """What ErrorInfo says beside the reason."""
        return dict(self._detail(error_details_pb2.ErrorInfo()).metadata)

    @property
    def fields(self) -> dict[str, str]:
        """Violations by path."""
        bad = self._detail(error_details_pb2.BadRequest())
        return {violation.field: violation.description for violation in bad.field_violations}

    @property
    def retry_after_s(self) -> float:
        """The advised delay; 0 without one."""
        delay = self._detail(error_details_pb2.RetryInfo()).retry_delay
        return float(delay.seconds + delay.nanos / 1e9)

    def _detail(self, kind: Any) -> Any:
        for detail in self.status.details:
            if detail.Unpack(kind):
                break
        return kind
