"""A household for every test that asks for one: `gradsight up` as a user starts it, on free ports, ended by pid."""

import contextlib
import csv
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from gradsight import (
    CheckpointSaved,
    Client,
    Job,
    JobHandle,
    JobOptions,
    JobSpec,
    JobState,
    Patience,
    StateChanged,
)

Found = TypeVar("Found")

ROOT = Path(__file__).parents[2]
MARK = "GRADSIGHT_E2E_HOUSEHOLD"
_START_S = 90.0
_STOP_S = 90.0


@pytest.fixture(scope="session")
def shared_household(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Household"]:
    """One household for all tests that leave it as it was; its leases outlast a loaded machine's pauses."""
    household = Household(tmp_path_factory.mktemp("household"), profile="standard")
    with household.running():
        yield household


@pytest.fixture
def household(shared_household: "Household") -> Iterator["Household"]:
    """A household that runs; what a test leaves unfinished is cancelled after it."""
    yield shared_household
    with shared_household.client() as client:
        for job in client.jobs(states=[JobState.QUEUED, JobState.RUNNING]):
            client.job(job.job_id).cancel()
            client.job(job.job_id).wait(timeout=30)


@pytest.fixture
def own_household(tmp_path: Path) -> Iterator["Household"]:
    """A household for a test that breaks it; it notices losses within two seconds."""
    household = Household(tmp_path / "household")
    with household.running():
        yield household


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> "Datasets":
    """Small files of rows that can be learnt."""
    return Datasets.write(tmp_path_factory.mktemp("data"))


class Household:
    """`gradsight up` in a process of its own, over one data directory and on ports that stay the same."""

    def __init__(
        self, directory: Path, *, profile: str = "fast", environ: Mapping[str, str] | None = None
    ) -> None:
        self.data = directory
        self._profile = profile
        self.service, self.exporter, self.service_metrics, worker_metrics = (
            f"127.0.0.1:{port}" for port in free_ports(4)
        )
        self.worker_metrics = worker_metrics
        self._mark = uuid.uuid4().hex
        self._environ = {**os.environ, **(environ or {}), MARK: self._mark}
        self._process: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator["Household"]:
        """Up inside the block; afterwards down, with nothing left of it."""
        try:
            self.up()
            yield self
            self.stop()
        finally:
            left = self.processes()
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            if self._process is not None:
                self._process.wait()
        assert not left, f"left running: {[_described(process) for process in left]}\n{self.logs()}"

    def up(self) -> None:
        """Start it and wait until everything answers."""
        log = self.data.parent / f"{self.data.name}.log"
        command = [*CLI, "up", "--data", str(self.data), "--profile", self._profile, "--threads", "1"]
        command += ["--address", self.service, "--exporter-address", self.exporter]
        command += ["--metrics-address", self.service_metrics]
        command += ["--worker-metrics-port", self.worker_metrics.rpartition(":")[2]]
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, env=self._environ)
        state = self.data / "run" / "up.json"

        def answers() -> bool:
            assert self.process.poll() is None, f"up ended with {self.process.returncode}: {log.read_text()}"
            try:
                return f'"process_id": {self.process.pid},' in state.read_text()
            except FileNotFoundError:  # a new `up` removes what its predecessor left
                return False

        wait_for("a household", answers, timeout_s=_START_S)

    def addresses(self) -> dict[str, Any]:
        """What `up` says of where everyone can be reached."""
        said: dict[str, Any] = json.loads((self.data / "run" / "up.json").read_text())
        return said

    def stop(self) -> None:
        """Ask `up` to end, and wait until nothing is left."""
        before = self.processes()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(_STOP_S)
        wait_gone(before)

    def kill(self) -> None:
        """Kill `up` itself."""
        self.process.kill()
        self.process.wait()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process of `up`."""
        assert self._process is not None
        return self._process

    def client(self) -> Client:
        """A connected client that waits for a service that starts again, on a slow machine too."""
        return Client(self.service, patience=Patience(call_timeout=30, call_attempts=30))

    def cli(
        self, *arguments: str, timeout_s: float = 60.0, address: str | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a verb against the service."""
        environ = {**self._environ, "GRADSIGHT_ADDRESS": address or self.service}
        return subprocess.run(
            [*CLI, *arguments],
            capture_output=True,
            text=True,
            env=environ,
            cwd=cwd,
            timeout=timeout_s,
            check=False,
        )

    def processes(self) -> list[psutil.Process]:
        """Everything that runs because of `up`, orphans too: known by its environment or its directory."""
        return processes_marked(self._mark, self.data)

    def child(self, verb: str) -> psutil.Process:
        """The process that `up` runs for a verb: `serve`, `exporter` or `worker`."""

        def found() -> psutil.Process | None:
            for process in psutil.Process(self.process.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "gradsight.cli" in (words := process.cmdline()) and verb in words:
                        return process
            return None

        return wait_for(f"a process for {verb}", found)

    def store_server(self) -> psutil.Process:
        """The embedded store's process."""

        def found() -> psutil.Process | None:
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.name() in ("valkey-server", "redis-server"):
                        return process
            return None

        return wait_for("a store", found)

    def supervisor(self) -> psutil.Process:
        """The worker's long-lived process."""
        return self.child("worker")

    def attempt(self) -> psutil.Process:
        """The process that holds the running job's lease."""

        def found() -> psutil.Process | None:
            children = self.supervisor().children()
            return next(
                (child for child in children if "metrics_server" not in " ".join(child.cmdline())), None
            )

        return wait_for("an attempt", found)

    def trainer(self) -> psutil.Process:
        """The process that runs the loop."""
        return wait_for("a trainer", lambda: next(iter(self.attempt().children()), None))

    def scrape(self, address: str) -> str:
        """The text of a metrics page."""
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
            return str(page.read().decode())

    def wait_workers(self, client: Client) -> None:
        """Wait until a worker takes jobs."""
        wait_for("a worker", lambda: next(client.workers(), None), timeout_s=_START_S)

    def logs(self) -> str:
        """The last words of every process."""
        files = sorted(self.data.glob("logs/*.log"))
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-2000:]}" for file in files)


CLI = (sys.executable, "-m", "gradsight.cli")


@dataclass(frozen=True, kw_only=True)
class Datasets:
    """Files of rows. `numbers`: two columns, three classes, two teams. `texts`: messages of three intents."""

    numbers: Path
    more_numbers: Path
    texts: Path
    texts_as_jsonl: Path
    one_class: Path

    @classmethod
    def write(cls, directory: Path) -> "Datasets":
        """Write them; the same rows every time."""
        chance = random.Random(0)
        texts = _texts(chance, 500)
        lines = directory / "texts.jsonl"
        lines.write_text("".join(json.dumps(row) + "\n" for row in texts))
        return cls(
            numbers=_write_csv(directory / "numbers.csv", _numbers(chance, 600)),
            more_numbers=_write_csv(directory / "more_numbers.csv", _numbers(chance, 100)),
            texts=_write_csv(directory / "texts.csv", texts),
            texts_as_jsonl=lines,
            one_class=_write_csv(
                directory / "one_class.csv", [{"width": str(n), "size": "small"} for n in range(40)]
            ),
        )

    def job(self, architecture: str, **options: Any) -> JobSpec:
        """A job that is over within a second or so."""
        make = {"mlp": self._mlp, "text_classifier": self._text}[architecture]
        return JobSpec(**{**make(), "steps": 200, "batch_size": 16, **options})

    def long_job(self, architecture: str, **options: Any) -> JobSpec:
        """A job of some seconds that saves its state often; its seed is not the default."""
        steps = {"mlp": 5000, "text_classifier": 2500}[architecture]
        often = {"interval_steps": steps // 20}
        return self.job(architecture, **{"steps": steps, "seed": 11, "checkpoint": often, **options})

    def _mlp(self) -> JobOptions:
        return {
            "name": "sizes",
            "model": {"mlp": {"hidden_sizes": [32, 32]}},
            "train": self.numbers,
            "target": "size",
            "category": "team",
        }

    def _text(self) -> JobOptions:
        return {
            "name": "intents",
            "model": "text_classifier",
            "train": self.texts,
            "text": "text",
            "target": "intent",
            "category": "team",
        }


def wait_for(what: str, found: Callable[[], Found | None], *, timeout_s: float = 60.0) -> Found:
    """Wait for something true and return it."""
    deadline = time.monotonic() + timeout_s
    while not (value := found()):
        assert time.monotonic() < deadline, f"no {what} within {timeout_s:.0f} s"
        time.sleep(0.01)
    return value


def wait_gone(processes: list[psutil.Process], *, timeout_s: float = 10.0) -> None:
    """Wait until these processes have ended; a zombie has."""
    deadline = time.monotonic() + timeout_s
    while left := [process for process in processes if _lives(process)]:
        assert time.monotonic() < deadline, f"still run: {[_described(process) for process in left]}"
        time.sleep(0.01)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, from below the range out of which the system takes ports itself."""
    chance, found = random.SystemRandom(), list[int]()
    while len(found) < count:
        port = chance.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found += [port] if port not in found else []
    return found


def processes_marked(mark: str, directory: Path | None = None) -> list[psutil.Process]:
    """What began with this mark in its environment, forks included, or works in the directory."""
    return [process for process in psutil.process_iter() if _is_marked(process, mark, directory)]


def _is_marked(process: psutil.Process, mark: str, directory: Path | None) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        inside = directory is not None and process.cwd().startswith(str(directory))
        return inside or process.environ().get(MARK) == mark
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def wait_until_saved(handle: JobHandle, *, checkpoints: int = 2) -> Job:
    """Wait until the job runs and has saved its state so often; it must not have ended meanwhile."""
    for event in handle.watch(timeout=90):
        match event.detail:
            case CheckpointSaved():
                checkpoints -= 1
        if checkpoints == 0:
            break
    job = handle.get()
    assert not job.done, "the job was over before anything could happen to it"
    return job


def weights(job: Job) -> str:
    """Digest of the final weights."""
    (digest,) = (file.digest for file in job.result if file.filename == "weights.safetensors")
    return digest


def states(handle: JobHandle) -> list[JobState]:
    """The states that the job went through; its log must have no gap and no duplicate."""
    log = list(handle.events())
    assert [event.sequence for event in log] == list(range(1, len(log) + 1))
    return [event.detail.state for event in log if isinstance(event.detail, StateChanged)]


def _numbers(chance: random.Random, rows: int) -> list[dict[str, str]]:
    """Size follows from width and height; the team does not."""
    made = []
    for _ in range(rows):
        width, height = chance.gauss(0, 1), chance.gauss(0, 1)
        size = "small" if width + height < -0.7 else "large" if width + height > 0.7 else "medium"
        team = chance.choice(["north", "south"])
        made.append({"width": f"{width:.4f}", "height": f"{height:.4f}", "size": size, "team": team})
    return made


def _texts(chance: random.Random, rows: int) -> list[dict[str, str]]:
    words = {
        "refund": ["money", "refund", "paid", "card", "charged"],
        "exchange": ["smaller", "bigger", "swap", "exchange", "size"],
        "delivery": ["parcel", "late", "courier", "tracking", "arrive"],
    }
    fill = ["my", "the", "please", "when", "can", "boots", "shoes", "order", "still", "hello"]
    made = []
    for _ in range(rows):
        intent = chance.choice(list(words))
        text = [*chance.sample(words[intent], 2), *chance.sample(fill, 3)]
        chance.shuffle(text)
        team = "logistics" if intent == "delivery" else "returns"
        made.append({"text": " ".join(text), "intent": intent, "team": team})
    return made


def _write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _described(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return f"{process.pid} {' '.join(process.cmdline())}"
    return str(process.pid)
