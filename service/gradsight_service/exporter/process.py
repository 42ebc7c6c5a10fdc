"""The exporter's process: one HTTP port with the page, until a signal ends it."""

import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import structlog

from gradsight_service.exporter.page import Page
from gradsight_service.metrics_port import MetricsPort
from gradsight_service.ready_file import write_ready_file
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
    """Serves the page from the moment it is made until it is closed; raises OSError when it cannot listen."""

    def __init__(self, settings: ExporterSettings) -> None:
        self._store = Store.open(settings.store)
        self._page = Page(self._store, grace_s=settings.grace_s)
        # Two scrapes at once would only read the same records twice.
        self._one_scrape = threading.Lock()
        self._port = MetricsPort(
            settings.host, settings.port, metrics=self._metrics, not_ready=self._not_ready
        )

    @property
    def address(self) -> str:
        """`host:port` that it listens on."""
        return self._port.address

    def close(self) -> None:
        """Stop listening and let go of the store."""
        self._port.close()
        self._store.close()

    def _metrics(self) -> bytes:
        with self._one_scrape:
            return self._page.render()

    def _not_ready(self) -> str | None:
        try:
            self._page.ping()
        except StoreUnavailable:
            return "the store does not answer"
        return None


def run_until_signalled(exporter: Exporter, ready_file: Path | None) -> None:
    """Serve until SIGTERM or SIGINT; `ready_file` is told the address first."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    write_ready_file(ready_file, metrics=exporter.address)
    log.info("exporter ready", address=f"http://{exporter.address}/metrics")
    ended.wait()
    exporter.close()
