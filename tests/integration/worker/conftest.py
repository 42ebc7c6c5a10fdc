"""Real workers on a real store: started, fed by a small dispatcher, killed and counted."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
import redis

from gradsight.v1 import artifact_pb2, event_pb2, job_pb2, spec_pb2, state_pb2, worker_pb2
from gradsight_store.artifact_records import record_artifact
from gradsight_store.artifacts import Artifacts
from gradsight_store.dispatch import assign, choose, idle_workers, recipes_of, waiting_jobs
from gradsight_store.errors import StoreUnavailable
from gradsight_store.events import read_events
from gradsight_store.jobs import create_job, get_job
from gradsight_store.operations import Answer, JobRef, new_operation_id
from gradsight_store.settings import StoreSettings
from gradsight_store.store import Store
from gradsight_store.sweep import sweep
from gradsight_store.transport import enqueue_attempt
from gradsight_store.workers import list_workers

Found = TypeVar("Found")

PROGRAM = Path(__file__).parent / "programs" / "tiny_worker.py"


@pytest.fixture
def workshop(store_url: str, tmp_path: Path) -> Iterator["Workshop"]:
    """A store, artifacts, a dispatcher, and the workers that a test starts."""
    with Workshop(store_url, tmp_path).running() as running:
        yield running


@dataclass
class RunningWorker:
    """A worker's process and where it logs."""

    process: subprocess.Popen[bytes]
    ready_file: Path
    log_file: Path

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        return self.process.pid

    def log(self) -> str:
        """What the worker's processes wrote."""
        return self.log_file.read_text(errors="replace")

    def descendants(self) -> list[psutil.Process]:
        """Every process below the supervisor, parents before children."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children(recursive=True)
        return []

    def attempt(self) -> psutil.Process:
        """The attempt's process; there is one once a job runs."""
        return wait_for("an attempt", lambda: next(iter(self._attempts()), None))

    def trainer(self) -> psutil.Process:
        """The trainer's process."""
        return wait_for("a trainer", lambda: next(iter(self.attempt().children()), None))

    def metrics_server(self) -> psutil.Process:
        """The process that serves the metrics."""
        children = psutil.Process(self.pid).children()
        return next(child for child in children if "metrics_server" in " ".join(child.cmdline()))

    def signal(self, number: signal.Signals) -> None:
        """Send the supervisor a signal."""
        self.process.send_signal(number)

    def end(self) -> None:
        """Kill everything that is left."""
        left = self.descendants()
        self.process.kill()
        self.process.wait()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _attempts(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.pid).children()
            return [child for child in children if "metrics_server" not in " ".join(child.cmdline())]
        return []


class Workshop:
    """What the tests of the worker share."""

    def __init__(self, store_url: str, directory: Path, program: Path = PROGRAM) -> None:
        self.directory = directory
        self.settings = StoreSettings.fast(url=store_url)
        self.store = Store.open(self.settings)
        self.artifacts = Artifacts(directory / "artifacts")
        self.address = str(directory / "artifacts")
        """Of the artifacts, for workers that are started from now on."""
        self.spool = directory / "spool"
        self.program = program
        self._workers: list[RunningWorker] = []
        self._stop = threading.Event()
        self.dispatching = True
        self.environ: dict[str, str] = {}
        """Of workers that are started from now on, beside this process's own."""

    @contextlib.contextmanager
    def running(self) -> Iterator["Workshop"]:
        """Dispatch until the end of the block, then end every worker."""
        dispatcher = threading.Thread(target=self._dispatch)
        dispatcher.start()
        try:
            yield self
        finally:
            self._stop.set()
            dispatcher.join()
            for worker in self._workers:
                worker.end()
            self.store.close()

    def start_worker(self, **options: Any) -> RunningWorker:
        """Start a worker and wait until it takes jobs."""
        worker = self.launch_worker(**options)
        wait_for("a ready worker", worker.ready_file.exists, alive=worker.process)
        return worker

    def start_real_worker(self, **options: Any) -> RunningWorker:
        """Start a worker as operators do, with the real trainer, and wait until it takes jobs."""
        ready = self.directory / f"ready-{len(self._workers)}"
        flags = {"store": self.settings.url, "artifacts": self.address, "spool": self.spool}
        flags |= {
            "profile": "fast",
            "metrics-address": "127.0.0.1:0",
            "threads": 1,
            "ready-file": ready,
            **options,
        }
        arguments = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
        worker = self._launch([sys.executable, "-m", "gradsight.cli", "worker", *arguments], ready)
        wait_for("a ready worker", worker.ready_file.exists, alive=worker.process)
        return worker

    def launch_worker(self, **options: Any) -> RunningWorker:
        """Start a worker with the tiny trainer."""
        settings = {
            "store_url": self.settings.url,
            "artifacts": self.address,
            "spool": str(self.spool),
            "profile": "fast",
            "metrics_address": "off",
            **options,
        }
        ready = self.directory / f"ready-{len(self._workers)}"
        return self._launch([sys.executable, str(self.program), json.dumps(settings), str(ready)], ready)

    def _launch(self, command: list[str], ready: Path) -> RunningWorker:
        log = self.directory / f"worker-{len(self._workers)}.log"
        secrets = {"GRADSIGHT_SECRET": "not for trainers", "AWS_SECRET_ACCESS_KEY": "neither"}
        environ = {**os.environ, **secrets, **self.environ}
        with log.open("wb") as stderr:
            process = subprocess.Popen(command, stderr=stderr, env=environ)
        worker = RunningWorker(process, ready, log)
        self._workers.append(worker)
        return worker

    def submit(
        self, *, steps: int = 50, checkpoint_every: int = 10, timeout_s: float | None = None, **labels: Any
    ) -> JobRef:
        """Create a job of the tiny trainer, with a data set of its own making."""
        spec = spec_pb2.JobSpec(name="tiny", queue="default", seed=7)
        spec.labels.update({name: str(value) for name, value in labels.items()})
        spec.data.train.artifact = self.upload(b"text,label\nhello,greeting\n")
        spec.budget.steps = steps
        spec.checkpoint.interval_steps = checkpoint_every
        if timeout_s is not None:
            spec.budget.timeout.FromMilliseconds(round(timeout_s * 1000))
        return self.create(spec)

    def upload(self, content: bytes) -> str:
        """Store a data set and return its digest."""
        stored = self.artifacts.put_bytes("default", content)
        data = artifact_pb2.Artifact(
            digest=stored.digest,
            size_bytes=stored.size_bytes,
            filename="train.csv",
            kind=artifact_pb2.ARTIFACT_KIND_DATASET,
        )
        self.store.run(record_artifact("default", data))
        return stored.digest

    def create(self, spec: spec_pb2.JobSpec) -> JobRef:
        """Create a job."""
        operation_id = new_operation_id()
        created = self.store.run(
            create_job("default", spec, request_id="", request_digest="", operation_id=operation_id)
        )
        return JobRef("default", created.job.job_id)

    def job(self, ref: JobRef) -> job_pb2.Job:
        """The job as clients see it."""
        return self.store.run(get_job(ref))

    def wait_until(
        self, ref: JobRef, what: str, holds: Callable[[job_pb2.Job], bool], timeout_s: float = 30.0
    ) -> job_pb2.Job:
        """Wait until something holds of the job."""
        return wait_for(what, lambda: job if holds(job := self.job(ref)) else None, timeout_s=timeout_s)

    def wait_done(self, ref: JobRef, timeout_s: float = 30.0) -> job_pb2.Job:
        """Wait until the job has ended."""
        return self.wait_until(ref, "the job's end", lambda job: job.done, timeout_s)

    def wait_step(self, ref: JobRef, step: int) -> job_pb2.Job:
        """Wait until the job has taken so many steps."""
        return self.wait_until(ref, f"step {step}", lambda job: job.progress.step >= step)

    def events(self, ref: JobRef) -> list[event_pb2.JobEvent]:
        """The job's whole log."""
        return self.store.run(read_events(ref, 0, 100_000, self.artifacts)).events

    def lines(self, ref: JobRef) -> list[str]:
        """The texts of the job's log lines."""
        return [event.log_line.message for event in self.events(ref) if event.HasField("log_line")]

    def states(self, ref: JobRef) -> list[str]:
        """The states that the job went through."""
        names = [
            state_pb2.JobState.Name(event.state_changed.state)
            for event in self.events(ref)
            if event.HasField("state_changed")
        ]
        return [name.removeprefix("JOB_STATE_") for name in names]

    def result(self, job: job_pb2.Job) -> bytes:
        """The content of the job's one result file beside its history."""
        (file,) = [file for file in job.result if file.kind == artifact_pb2.ARTIFACT_KIND_RESULT]
        with self.artifacts.open("default", file.digest) as content:
            return content.read()

    def workers(self) -> list[worker_pb2.Worker]:
        """All known workers."""
        return self.store.run(list_workers())

    def wait_gone(self, processes: Iterable[psutil.Process]) -> None:
        """Wait until processes have ended, at most half a second."""
        wait_gone(processes)

    def wait_idle(self) -> None:
        """Wait until no attempt has a directory any more."""
        wait_for("idle workers", lambda: not list(self.spool.glob("*/*.*.*")))

    def redis(self) -> redis.Redis:
        """A bare client, for mischief."""
        return redis.Redis.from_url(self.settings.url)

    def _dispatch(self) -> None:
        store, next_sweep = Store.open(self.settings), 0.0
        while not self._stop.wait(0.003):
            try:
                if self.dispatching:
                    self._assign_all(store)
                if time.monotonic() >= next_sweep:
                    next_sweep = time.monotonic() + 0.2
                    store.run(sweep())
            except StoreUnavailable:
                continue
        store.close()

    def _assign_all(self, store: Store) -> None:
        idle = store.run(idle_workers())
        if not idle or not (waiting := store.run(waiting_jobs(100, recipes=recipes_of(idle)))):
            return
        for job, worker in choose(waiting, idle):
            assigned = store.run(assign(job.ref, worker.worker_id, operation_id=new_operation_id()))
            if assigned.answer is not Answer.FENCED:
                store.run(enqueue_attempt(worker.worker_id, job.ref, assigned.term))


def wait_gone(processes: Iterable[psutil.Process], timeout_s: float = 0.5) -> None:
    """Wait until processes have ended; one that nobody has reaped yet counts as ended."""
    for process in processes:
        wait_for(f"end of {process}", partial(_ended, process), timeout_s=timeout_s)


def _ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(
    what: str,
    found: Callable[[], Found | None],
    *,
    timeout_s: float = 30.0,
    alive: subprocess.Popen[bytes] | None = None,
) -> Found:
    """Wait for something true and return it."""
    deadline = time.monotonic() + timeout_s
    while not (value := found()):
        assert time.monotonic() < deadline, f"no {what} within {timeout_s} s"
        assert alive is None or alive.poll() is None, f"no {what}: the process ended with {alive.returncode}"
        time.sleep(0.002)
    return value
