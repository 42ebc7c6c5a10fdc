"""The worker's own metrics: processes, device, lease. What jobs do is the exporter's.

A web server has threads and the supervisor forks, so the server is a program of its own, started here and fed over
its stdin with one line of JSON per renewed lease. It ends when that pipe does.
"""

import dataclasses
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_RESTART_S = 10.0
_PORTS_TRIED = 64

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Description:
    """What does not change while a worker lives."""

    worker_id: str
    queue: str
    device: str
    device_name: str
    version: str
    spool: str
    lease_s: float
    supervisor: int = field(default_factory=os.getpid)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a supervisor tells after every renewed lease."""

    state: str
    """`idle`, `busy` or `draining`."""
    renewed: float = field(default_factory=time.time)
    """Seconds since 1970."""
    attempts: Mapping[str, int] = field(default_factory=dict)
    """Attempts so far by outcome: `told` the store themselves how they ended, or `lost`."""


class MetricsServer:
    """The supervisor's handle on the program that serves its metrics.

    Args:
        listening: The socket to serve on, bound here so that a taken port is known at once.
        description: What the metrics say of the worker.
    """

    def __init__(self, listening: socket.socket, description: Description) -> None:
        self._listening = listening
        self._description = description
        self._start()

    @property
    def address(self) -> str:
        """Where the metrics are, `127.0.0.1:9119` say."""
        host, port = self._listening.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def report(self, report: Report) -> None:
        """Pass news on; never blocks. A server that ended is started again."""
        assert self._process.stdin is not None
        try:
            os.write(self._process.stdin.fileno(), json.dumps(dataclasses.asdict(report)).encode() + b"\n")
        except BlockingIOError:
            pass  # it is behind; the next report says everything again
        except BrokenPipeError:
            if time.monotonic() - self._started > _RESTART_S:
                _log.warning("the metrics server ended with status %s: started again", self._process.poll())
                self._start()

    def close(self) -> None:
        """End the program."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        self._listening.close()

    def _start(self) -> None:
        self._started = time.monotonic()
        descriptor = self._listening.fileno()
        description = json.dumps(dataclasses.asdict(self._description))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gradsight_worker.metrics_server", str(descriptor), description],
            stdin=subprocess.PIPE,
            pass_fds=[descriptor],
            env={name: value for name, value in os.environ.items() if not name.startswith("GRADSIGHT_")},
            bufsize=0,
        )
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)


def listen(address: str, *, or_next: bool) -> socket.socket:
    """Bind a socket for the metrics.

    Args:
        address: `HOST:PORT`; port 0 takes a free one.
        or_next: Whether a higher port will do when this one is taken.

    Raises:
        ValueError: The address is malformed or taken.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"--metrics-address: got {address!r}, allowed: HOST:PORT, as in 127.0.0.1:9119")
    host = host.strip("[]")
    for candidate in _candidates(int(port), or_next):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, candidate))
            listening.listen(64)
        except OSError as error:
            listening.close()
            problem = error.strerror
        else:
            return listening
    raise ValueError(
        f"--metrics-address {address}: cannot listen there: {problem}; choose another port, or 'off'"
    )


def _candidates(port: int, or_next: bool) -> Sequence[int]:
    return range(port, min(port + _PORTS_TRIED, 65536)) if or_next and port else [port]
