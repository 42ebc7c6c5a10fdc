"""The HTTP port that Prometheus and the machinery around a process ask: `/metrics`, `/livez`, `/readyz`.

It runs in a thread of its own, so that a scrape is answered while the event loop is busy, and carries no job text.
"""

import gzip
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

_TEXT = "text/plain; charset=utf-8"
_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


class MetricsPort:
    """Serves until it is closed.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one, see `address`.
        metrics: The page of `/metrics`, in Prometheus's text format 0.0.4. Called from the port's threads.
        not_ready: Why the process should get no traffic, or None. Called likewise. `/livez` asks nothing at all: a
            process that can answer is alive, whatever its store does.

    Raises:
        OSError: The address cannot be listened on.
    """

    def __init__(
        self, host: str, port: int, *, metrics: Callable[[], bytes], not_ready: Callable[[], str | None]
    ) -> None:
        self._metrics = metrics
        self._not_ready = not_ready
        self._server = ThreadingHTTPServer((host, port), _handler(self._page))
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="metrics-port", daemon=True
        )
        self._thread.start()

    @property
    def address(self) -> str:
        """`host:port` as it was taken."""
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _page(self, path: str) -> tuple[int, bytes, str]:
        match path:
            case "/metrics":
                return 200, self._metrics(), _EXPOSITION
            case "/livez":
                return 200, b"ok\n", _TEXT
            case "/readyz":
                problem = self._not_ready()
                return (503, f"{problem}\n".encode(), _TEXT) if problem else (200, b"ok\n", _TEXT)
            case _:
                return 404, b"not found: try /metrics, /livez or /readyz\n", _TEXT


def _handler(page: Callable[[str], tuple[int, bytes, str]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10  # a scraper that stops in the middle does not keep a thread

        def do_GET(self) -> None:
            status, body, content_type = page(self.path.partition("?")[0])
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            if "gzip" in self.headers.get("Accept-Encoding", "") and len(body) > 1024:
                body = gzip.compress(body, compresslevel=1, mtime=0)
                self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the name is the base class's
            """Scrapes are not news."""

    return Handler
