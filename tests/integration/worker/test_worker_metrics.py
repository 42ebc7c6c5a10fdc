"""The worker's own metrics port."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from gradsight_worker.metrics import listen

if TYPE_CHECKING:
    from tests.integration.worker.conftest import RunningWorker, Workshop


@pytest.fixture
def worker(workshop: Workshop) -> RunningWorker:
    return workshop.start_worker(metrics_address="127.0.0.1:0")


def test_the_port_shows_state_processes_and_attempts(workshop: Workshop, worker: RunningWorker) -> None:
    ref = workshop.submit(steps=400)
    workshop.wait_step(ref, 50)
    busy = until(worker, 'gradsight_worker_state{state="busy"} 1.0')
    assert 'gradsight_worker_resident_memory_bytes{role="supervisor"}' in busy
    assert 'gradsight_worker_resident_memory_bytes{role="attempt"}' in busy
    assert 'gradsight_worker_resident_memory_bytes{role="trainer"}' in busy
    assert 'device="cpu"' in busy
    workshop.wait_done(ref)
    idle = until(worker, 'gradsight_worker_state{state="idle"} 1.0')
    assert 'gradsight_worker_attempts_total{outcome="told"} 1.0' in idle


def test_the_metrics_pass_promtool(worker: RunningWorker) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    page = until(worker, "gradsight_worker_attempts_total")
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_alive_is_not_ready_when_the_store_is_gone(workshop: Workshop, worker: RunningWorker) -> None:
    until(worker, "gradsight_worker_attempts_total")
    assert get(worker, "/livez")[0] == get(worker, "/readyz")[0] == 200
    worker.process.send_signal(signal.SIGSTOP)  # the supervisor renews nothing
    deadline = time.monotonic() + 10
    while get(worker, "/readyz")[0] == 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert get(worker, "/readyz")[0] == 503
    assert get(worker, "/livez")[0] == 200


def test_the_server_ends_with_its_supervisor(workshop: Workshop, worker: RunningWorker) -> None:
    until(worker, "gradsight_worker_info")
    left = [worker.metrics_server()]
    worker.process.kill()
    worker.process.wait()
    workshop.wait_gone(left)


def test_a_server_that_died_is_started_again(worker: RunningWorker, workshop: Workshop) -> None:
    until(worker, "gradsight_worker_info")
    worker.metrics_server().kill()
    until(worker, "gradsight_worker_info", timeout_s=20)


def test_a_taken_port_is_an_error_or_the_next_one_is_taken() -> None:
    first = listen("127.0.0.1:0", or_next=False)
    port = first.getsockname()[1]
    with pytest.raises(ValueError, match=f"127.0.0.1:{port}.*choose another"):
        listen(f"127.0.0.1:{port}", or_next=False)
    second = listen(f"127.0.0.1:{port}", or_next=True)
    assert second.getsockname()[1] > port
    first.close()
    second.close()


@pytest.mark.parametrize("address", ["9119", "127.0.0.1", ":80", "127.0.0.1:x", "127.0.0.1:70000"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="allowed: HOST:PORT"):
        listen(address, or_next=True)


def get(worker: RunningWorker, path: str) -> tuple[int, str]:
    """Status and body of a page."""
    address = json.loads(worker.ready_file.read_text())["metrics"]
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def until(worker: RunningWorker, text: str, timeout_s: float = 10.0) -> str:
    """The metrics, once they contain a text."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            page = get(worker, "/metrics")[1]
        except (OSError, ValueError):
            page = ""
        if text in page:
            return page
        assert time.monotonic() < deadline, f"{text!r} is not in\n{page}\n{worker.log()}"
        time.sleep(0.02)
