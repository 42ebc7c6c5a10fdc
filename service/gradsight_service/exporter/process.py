"""The exporter's process: one HTTP port with `/metrics`, `/livez` and `/readyz`.

Scrapes are answered one at a time: two at once would only read the same records twice.
"""

import gzip
import signal
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType

import structlog

from gradsight_service.exporter.exposition import CONTENT_TYPE
from gradsight_service.exporter.page import Page
from gradsight_store.errors import StoreUnavailable
from gradsight_store.settings import StoreSettings
from gradsight_store.store import Store

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class ExporterSettings:
    """Where the exporter listens and what it reads.

    `host` and `port` are those of the metrics page (port 0 takes a free one). `grace_s` is how long, in seconds, the
    series of an ended job stay on the page.
    """

    store: StoreSettings
    host: str = "127.0.0.1"
    port: int = 9117
    grace_s: float = 300.0


class Exporter:
    """Serves the page until `stop` is called."""

    def __init__(self, settings: ExporterSettings) -> None:
        self.page = Page(Store.open(settings.store), grace_s=settings.grace_s)
        self._scrape = threading.Lock()
        self._server = ThreadingHTTPServer((settings.host, settings.port), self._handler())
        self._server.daemon_threads = True

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def run(self) -> None:
        """Serve until stopped."""
        self._server.serve_forever(poll_interval=0.2)
        self._server.server_close()

    def stop(self) -> None:
        """End `run` from another thread."""
        self._server.shutdown()

    def metrics(self) -> bytes:
        """The page; a store that is away is a figure on it, not an error."""
        with self._scrape:
            return self.page.render()

    def ready(self) -> bool:
        """True when the store answers."""
        try:
            self.page.ping()
        except StoreUnavailable:
            return False
        return True

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    self._answer(200, exporter.metrics(), CONTENT_TYPE)
                elif path == "/livez":
                    self._answer(200, b"ok\n")
                elif path == "/readyz":
                    ready = exporter.ready()
                    self._answer(200 if ready else 503, b"ok\n" if ready else b"the store does not answer\n")
                else:
                    self._answer(404, b"not found: try /metrics, /livez or /readyz\n")

            def _answer(
                self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8"
            ) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                if "gzip" in self.headers.get("Accept-Encoding", "") and len(body) > 1024:
                    # Level 1: a scraper nearby is better served by a fast page than by a small one.
                    body = gzip.compress(body, compresslevel=1, mtime=0)
                    self.send_header("Content-Encoding", "gzip")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: object) -> None:
                """Scrapes are not news."""

        return Handler


def run_until_signalled(exporter: Exporter) -> None:
    """Run until SIGTERM or SIGINT."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        # shutdown() waits for serve_forever, which runs in this very thread.
        threading.Thread(target=exporter.stop, daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    host, port = exporter.address
    log.info("exporter ready", address=f"http://{host}:{port}/metrics")
    exporter.run()
