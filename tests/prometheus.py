"""A real Prometheus for tests; where CI runs it has to be there, elsewhere such a test is skipped."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
RULES = ROOT / "deploy" / "prometheus" / "rules" / "gradsight.rules.yaml"


@dataclass(frozen=True, kw_only=True)
class Prometheus:
    """A running server."""

    address: str

    def query(self, expression: str) -> dict[tuple[str, ...], float]:
        """Value by the labels that are left beside the job's id and the scrape's own, sorted by their names."""
        asked = urllib.parse.urlencode({"query": expression})
        found = self._get(f"query?{asked}")["result"]
        hidden = {"__name__", "instance", "job", "job_id"}
        return {
            tuple(value for name, value in sorted(series["metric"].items()) if name not in hidden): float(
                series["value"][1]
            )
            for series in found
        }

    def alerts(self) -> list[dict[str, Any]]:
        """Alerts that are pending or firing, with labels and annotations."""
        alerts: list[dict[str, Any]] = self._get("alerts")["alerts"]
        return alerts

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self.address}/api/v1/{path}", timeout=10) as answer:
            return json.load(answer)["data"]


@contextlib.contextmanager
def running_prometheus(configuration: dict[str, Any], directory: Path) -> Iterator[Prometheus]:
    """A server with this configuration that answers queries, for as long as the block."""
    file = directory / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration))
    address = f"127.0.0.1:{_free_port()}"
    command = [program("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={directory}/data"]
    command += [f"--web.listen-address={address}", "--log.level=warn"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        server = Prometheus(address=address)
        deadline = time.monotonic() + 30
        while not _answers(server):
            assert process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < deadline, "Prometheus did not answer"
            time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait(30)


def program(name: str) -> str:
    """Path of `prometheus` or `promtool`."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not on the PATH, and here it must be")
        pytest.skip(f"{name} is not on the PATH")
    return found


def _answers(server: Prometheus) -> bool:
    with contextlib.suppress(OSError):
        return bool(server.query("vector(1)"))
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
