"""`gradsight worker`: options, environment, and one clear sentence for everything that can be wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--device", "tpu"], "--device: got 'tpu', allowed: 'cpu' or 'cuda:N'"),
        (["--device", "cuda:99"], "--device cuda:99 is not available"),
        (["--queue", "Über"], "--queue: got 'Über'"),
        (["--metrics-address", "nowhere"], "--metrics-address: got 'nowhere'"),
        (["--store", "http://localhost"], "store URL"),
        (["--store", "redis://127.0.0.1:1/0"], "the store at redis://127.0.0.1:1/0 does not answer"),
        (["--artifacts", ""], "--artifacts (GRADSIGHT_ARTIFACTS)"),
        (["--artifacts", "nosuch://bucket"], "artifacts: cannot use nosuch://"),
        (["--spool", "/proc/nothing"], "spool /proc/nothing"),
        (["--memory-limit", "lots"], "allowed: bytes, as in 800M or 4G"),
    ],
)
def test_what_cannot_work_is_said_in_one_sentence(
    store_url: str, tmp_path: Path, arguments: list[str], says: str
) -> None:
    good = [
        "--store",
        store_url,
        "--artifacts",
        str(tmp_path / "artifacts"),
        "--metrics-address",
        "127.0.0.1:0",
    ]
    ended = worker_command([*good, "--spool", str(tmp_path / "spool"), *arguments])
    assert ended.returncode in (1, 2)
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len([line for line in ended.stderr.splitlines() if line.startswith("Error: ")]) == 1


def test_every_option_can_come_from_the_environment(store_url: str, tmp_path: Path) -> None:
    ended = worker_command(
        [], GRADSIGHT_STORE=store_url, GRADSIGHT_ARTIFACTS=str(tmp_path), GRADSIGHT_DEVICE="tpu"
    )
    assert "--device: got 'tpu'" in ended.stderr


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, gradsight_worker.cli; sys.exit('torch' in sys.modules or 'rq' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_worker_that_is_told_to_dies_with_its_parent(store_url: str, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    arguments = ["--store", store_url, "--artifacts", str(tmp_path), "--spool", str(tmp_path / "spool")]
    arguments += ["--metrics-address", "off", "--die-with-parent", "--ready-file", str(ready)]
    parent = (
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-m', 'gradsight.cli', 'worker', *sys.argv[2:]])\n"
        "while not pathlib.Path(sys.argv[1]).exists() and child.poll() is None: time.sleep(0.01)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", parent, str(ready), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert ready.exists()
        process.kill()
        process.wait()
        process.stdout.read()
    deadline = 200
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        deadline -= 1
        assert deadline > 0
        os.sched_yield()


def worker_command(arguments: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the verb to its end."""
    code = "from gradsight_worker.cli import worker; worker()"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GRADSIGHT_")}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=kept | environ,
    )
