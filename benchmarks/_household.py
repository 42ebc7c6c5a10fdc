"""What benchmarks start and always end: programs of this machine on free ports, with a directory that is removed."""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psutil

from gradsight_service.up.household import Addresses, Household
from gradsight_store import run_with_parent

Value = TypeVar("Value")

START_S = 60.0
_STOP_S = 80.0
_GRADSIGHT = (sys.executable, "-m", "gradsight.cli")


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """An empty directory that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="gradsight-bench-") as name:
        yield Path(name)


@contextmanager
def household(directory: Path) -> Iterator[Addresses]:
    """Run `gradsight up` with an embedded store, service, exporter and one CPU worker, until the block ends."""
    home = Household(directory / "home")
    free = ["--address", "127.0.0.1:0", "--exporter-address", "127.0.0.1:0"]
    free += ["--metrics-address", "127.0.0.1:0", "--worker-metrics-port", "0"]
    command = [*_GRADSIGHT, "up", "--data", str(home.directory), *free]
    with program(command, directory / "up.log") as process:
        yield wait_until(home.read, process)


def processor_seconds(addresses: Addresses, word: str) -> float:
    """Processor time used so far by the household's process with a word on its command line that ends so."""
    for process in psutil.Process(addresses.process_id).children():
        words = " ".join(process.cmdline()).split()
        if any(each.endswith(word) for each in words):
            times = process.cpu_times()
            return times.user + times.system
    raise LookupError(f"no process of the household has {word!r} in its command line")


@contextmanager
def verb(name: str, options: Sequence[str], directory: Path) -> Iterator[dict[str, str]]:
    """Run one of gradsight's processes, `serve` say, until the block ends; the addresses that it listens on."""
    ready_file = directory / f"{name}.json"
    command = [*_GRADSIGHT, name, *options, "--ready-file", str(ready_file)]

    def addresses() -> dict[str, str] | None:
        return dict(json.loads(ready_file.read_text())) if ready_file.exists() else None

    with program(command, directory / f"{name}.log") as process:
        yield wait_until(addresses, process)


@contextmanager
def program(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the block ends. It is told to end when this process dies, too."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*run_with_parent.launcher(signal.SIGTERM), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(
    condition: Callable[[], Value | None], process: subprocess.Popen[bytes] | None = None
) -> Value:
    """The condition's first value that is not None; `process` must live meanwhile."""
    deadline = time.monotonic() + START_S
    while (value := condition()) is None:
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with status {process.returncode}; its log says why")
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing came of it within {START_S:g} s")
        time.sleep(0.005)
    return value
