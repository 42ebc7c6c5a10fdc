"""The program that serves a worker's metrics: `/metrics`, `/livez`, `/readyz`. Started by `metrics.MetricsServer`."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import psutil
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gradsight_worker.metrics import Description, Report
from gradsight_worker.processes import die_with_parent

_STATES = ("idle", "busy", "draining")
_DEVICE_QUERY = ["--query-gpu=memory.used,memory.total,utilization.gpu", "--format=csv,noheader,nounits"]
_DEVICE_FRESH_S = 5.0


def main() -> None:
    """Serve on the inherited socket until the supervisor is gone."""
    description = Description(**json.loads(sys.argv[2]))
    die_with_parent(description.supervisor)
    news = News()
    registry = CollectorRegistry()
    registry.register(WorkerCollector(description, news))
    server = _Server(int(sys.argv[1]))
    server.set_app(_application(make_wsgi_app(registry), news, description.lease_s))
    threading.Thread(target=news.read_for_ever, daemon=True).start()
    server.serve_forever()


class News:
    """What the supervisor told last."""

    def __init__(self) -> None:
        self.report: Report | None = None

    def read_for_ever(self) -> None:
        """Follow stdin; end the process with it."""
        for line in sys.stdin:
            self.report = Report(**json.loads(line))
        os._exit(0)


class WorkerCollector(Collector):
    """The families of one worker, read when asked."""

    def __init__(self, description: Description, news: News) -> None:
        self._description, self._news = description, news
        self._supervisor = psutil.Process(description.supervisor)
        self._cpu_seconds = 0.0
        self._device: tuple[float, list[float]] | None = None

    def collect(self) -> Iterator[Metric]:
        """Every family, once."""
        yield self._info()
        yield from self._news_families()
        yield from self._process_families()
        yield from self._device_families()
        free = GaugeMetricFamily(
            "gradsight_worker_spool_free_bytes", "Space left for the files of running attempts."
        )
        free.add_metric([], shutil.disk_usage(self._description.spool).free)
        yield free

    def _info(self) -> Metric:
        names = ("worker_id", "queue", "device", "device_name", "version")
        info = GaugeMetricFamily("gradsight_worker_info", "What the worker is; always 1.", labels=names)
        info.add_metric([str(getattr(self._description, name)) for name in names], 1)
        return info

    def _news_families(self) -> Iterator[Metric]:
        report = self._news.report
        if report is None:
            return
        state = GaugeMetricFamily(
            "gradsight_worker_state", "1 for what the worker does now.", labels=["state"]
        )
        for name in _STATES:
            state.add_metric([name], float(report.state == name))
        yield state
        renewed = GaugeMetricFamily(
            "gradsight_worker_lease_renewed_timestamp_seconds", "When the store last heard of the worker."
        )
        renewed.add_metric([], report.renewed)
        yield renewed
        attempts = CounterMetricFamily(
            "gradsight_worker_attempts",
            "Attempts that ended: told the store so themselves, or lost.",
            labels=["outcome"],
        )
        for outcome, count in report.attempts.items():
            attempts.add_metric([outcome], count)
        yield attempts

    def _process_families(self) -> Iterator[Metric]:
        memory = GaugeMetricFamily(
            "gradsight_worker_resident_memory_bytes",
            "Memory of the worker's processes; pages that they share count in each.",
            labels=["role"],
        )
        seconds = 0.0
        for role, process in self._processes():
            try:
                times = process.cpu_times()
                memory.add_metric([role], process.memory_info().rss)
            except psutil.NoSuchProcess:
                continue
            seconds += times.user + times.system + times.children_user + times.children_system
        yield memory
        # A process between its end and its parent's notice is in nobody's figures: never go back for that.
        self._cpu_seconds = max(self._cpu_seconds, seconds)
        cpu = CounterMetricFamily(
            "gradsight_worker_cpu_seconds", "CPU time of the worker's processes, ended ones too."
        )
        cpu.add_metric([], self._cpu_seconds)
        yield cpu
        start = GaugeMetricFamily("gradsight_worker_start_time_seconds", "When the supervisor started.")
        start.add_metric([], self._supervisor.create_time())
        yield start

    def _processes(self) -> Iterator[tuple[str, psutil.Process]]:
        yield "supervisor", self._supervisor
        for child in self._supervisor.children():
            if child.pid == os.getpid():
                continue
            yield "attempt", child
            try:
                helpers = child.children()
            except psutil.NoSuchProcess:
                continue
            for number, helper in enumerate(sorted(helpers, key=lambda process: process.pid)):
                yield ("trainer" if number == 0 else "transfer"), helper

    def _device_families(self) -> Iterator[Metric]:
        figures = self._device_figures()
        if not figures:
            return
        used, total, busy = figures
        for name, text, value in (
            ("gradsight_worker_device_memory_used_bytes", "Memory in use on the device.", used * 2**20),
            ("gradsight_worker_device_memory_bytes", "Memory of the device.", total * 2**20),
            (
                "gradsight_worker_device_busy_ratio",
                "Share of time with work on the device, lately.",
                busy / 100,
            ),
        ):
            family = GaugeMetricFamily(name, text)
            family.add_metric([], value)
            yield family

    def _device_figures(self) -> list[float]:
        """Memory used and total in MiB, utilization in percent; empty for a CPU or when the tool is missing."""
        if self._description.device == "cpu":
            return []
        if self._device is None or time.monotonic() - self._device[0] > _DEVICE_FRESH_S:
            self._device = (time.monotonic(), _ask_device(os.environ.get("CUDA_VISIBLE_DEVICES", "")))
        return self._device[1]


def _ask_device(visible: str) -> list[float]:
    try:
        answer = subprocess.run(
            ["nvidia-smi", "-i", visible, *_DEVICE_QUERY],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
        return [float(figure) for figure in answer.stdout.splitlines()[0].split(",")]
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return []


def _application(metrics: Any, news: News, lease_s: float) -> Callable[..., Iterable[bytes]]:
    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            answered: Iterable[bytes] = metrics(environ, start_response)
            return answered
        if path == "/livez":
            return _plain(start_response, "200 OK", "alive")
        if path == "/readyz":
            heard = news.report is not None and time.time() - news.report.renewed < lease_s
            return _plain(
                start_response, *(("200 OK", "ready") if heard else ("503 Service Unavailable", "no lease"))
            )
        return _plain(start_response, "404 Not Found", "here are /metrics, /livez and /readyz")

    return answer


def _plain(start_response: Callable[..., Any], status: str, text: str) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [text.encode() + b"\n"]


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing: scrapes are not news."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, descriptor: int) -> None:
        inherited = socket.socket(fileno=descriptor)
        super().__init__(inherited.getsockname()[:2], _QuietHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = inherited
        self.server_name, self.server_port = inherited.getsockname()[:2]
        self.setup_environ()


if __name__ == "__main__":
    main()
