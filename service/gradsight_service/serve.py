"""The process behind `gradsight serve`: puts the service together, runs it, and takes it down in order."""

import asyncio
import contextlib
import gc
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_client.exposition import generate_latest

from gradsight_service.artifact_servicer import ArtifactServicer
from gradsight_service.calls import CallFigures, CallInterceptor
from gradsight_service.comparisons import Comparisons
from gradsight_service.dispatcher import Dispatcher
from gradsight_service.feed_hub import FeedHub
from gradsight_service.hub import Hub, HubSettings
from gradsight_service.metrics_port import MetricsPort
from gradsight_service.ready_file import write_ready_file
from gradsight_service.references import References
from gradsight_service.reports import Reports
from gradsight_service.server import CannotListen, Server, is_local
from gradsight_service.servicer import TENANT, TrainingServicer
from gradsight_service.store_access import StoreAccess
from gradsight_service.sweeper import Sweeper
from gradsight_store.artifacts import Artifacts
from gradsight_store.async_store import AsyncStore
from gradsight_store.errors import StoreUnavailable
from gradsight_store.settings import StoreSettings
from gradsight_store.startcheck import Durability, check_store
from gradsight_store.uploads import Uploads

log = structlog.get_logger()

_HEALTH_TICK_S = 0.25


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """What the service listens on and stands on. Durations in seconds.

    `reflection` None: only where nobody but this machine can ask.
    """

    store: StoreSettings
    artifacts: str
    address: str = "127.0.0.1:7117"
    metrics_address: str = "127.0.0.1:9118"
    durability: Durability = "checked"
    dev: bool = False
    insecure_listen: bool = False
    reflection: bool | None = None
    ready_file: Path | None = None
    hub: HubSettings = field(default_factory=HubSettings)
    store_patience_s: float = 10.0
    """How long the start waits for a store that does not answer yet."""
    store_away_s: float = 5.0
    """After this long without an answer from the store, health says NOT_SERVING."""
    streams_grace_s: float = 2.0
    calls_grace_s: float = 6.0


class CannotServe(Exception):
    """The settings forbid to start; the message says what to change."""


async def serve(settings: ServeSettings, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain. `say` gets the one line that tells the addresses.

    Raises:
        CannotServe: The settings are not safe, or an address is taken.
        StoreError: The store does not answer or is not fit.
    """
    _refuse_to_expose(settings)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    driver = await AsyncStore.open(settings.store)
    try:
        service = await _Service.make(settings, driver)
        async with service.running():
            say(
                f"gradsight serves on {service.server.address}, metrics on http://{service.metrics.address}/metrics"
            )
            await stop.wait()
            await service.drain()
    finally:
        await driver.close()


class _Service:
    """The parts of a running service."""

    def __init__(self, settings: ServeSettings, store: StoreAccess, registry: CollectorRegistry) -> None:
        artifacts = Artifacts(settings.artifacts)
        uploads = Uploads(artifacts)
        self._settings = settings
        self._store = store
        self._registry = registry
        self.hub = Hub(store, artifacts, settings.hub)
        self.feed = FeedHub(store, TENANT, settings.hub)
        self.dispatcher = Dispatcher(store)
        self.sweeper = Sweeper(store, artifacts, uploads)
        self.training = TrainingServicer(
            store=store,
            artifacts=artifacts,
            references=References(store, artifacts),
            comparisons=Comparisons(store, artifacts),
            hub=self.hub,
            feed=self.feed,
            dispatcher=self.dispatcher,
            reports=Reports(store, artifacts),
        )
        self.files = ArtifactServicer(store=store, artifacts=artifacts, uploads=uploads, tenant=TENANT)
        self.server = Server(
            settings.address,
            training=self.training,
            artifacts=self.files,
            interceptor=CallInterceptor(CallFigures(registry)),
            reflection=is_local(settings.address) if settings.reflection is None else settings.reflection,
            most_watchers=settings.hub.most_watchers,
        )
        streams = Gauge("gradsight_watch_streams", "Streams that are open.", registry=registry)
        streams.set_function(lambda: self.hub.streams)
        ProcessCollector(registry=registry)
        self.metrics = _metrics_port(settings.metrics_address, self._page, self._not_ready)

    @classmethod
    async def make(cls, settings: ServeSettings, driver: AsyncStore) -> "_Service":
        registry = CollectorRegistry()
        store = StoreAccess(driver, registry=registry)
        await _check(store, settings)
        try:
            return cls(settings, store, registry)
        except CannotListen as error:
            raise CannotServe(str(error)) from error

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take calls inside the block; the ready file stands there for as long."""
        await self.server.start()
        gc.freeze()  # what is loaded now stays: no collection needs to look at it again
        loops = (
            self.hub.run(),
            self.feed.run(),
            self.dispatcher.run(),
            self.sweeper.run(),
            self._tell_health(),
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(loop) for loop in loops]
                write_ready_file(
                    self._settings.ready_file, address=self.server.address, metrics=self.metrics.address
                )
                yield
                for task in running:
                    task.cancel()
        finally:
            await self.server.stop(0.0)
            self.metrics.close()
            self.training.reports.close()

    async def drain(self) -> None:
        """End the service without a call that hangs or a stream that breaks off."""
        started = time.monotonic()
        log.info("draining")
        await self.server.leave_service()
        self.training.draining = self.files.draining = True
        self.hub.drain()
        self.feed.drain()
        await self.hub.wait_drained(self._settings.streams_grace_s)
        await self.server.stop(self._settings.calls_grace_s)
        log.info("drained", seconds=round(time.monotonic() - started, 3))

    async def _tell_health(self) -> None:
        serving = True
        while True:
            await asyncio.sleep(_HEALTH_TICK_S)
            reachable = self._store.away_s() <= self._settings.store_away_s
            if reachable is not serving:
                serving = reachable
                await self.server.set_serving(serving)

    def _page(self) -> bytes:
        return generate_latest(self._registry)

    def _not_ready(self) -> str | None:
        if self.training.draining:
            return "the service is shutting down"
        away_s = self._store.away_s()
        return (
            f"the store has not answered for {away_s:.0f} s" if away_s > self._settings.store_away_s else None
        )


def _refuse_to_expose(settings: ServeSettings) -> None:
    if not is_local(settings.address) and not settings.insecure_listen:
        raise CannotServe(
            f"refusing to listen on {settings.address}: others could reach it, and TLS and tokens come later; "
            "listen on 127.0.0.1, or say --insecure-listen where TLS and access control end in front of this service"
        )


async def _check(store: StoreAccess, settings: ServeSettings) -> None:
    deadline = time.monotonic() + settings.store_patience_s
    while True:
        try:
            warnings = await store.run(check_store(settings.durability, dev=settings.dev))
        except StoreUnavailable:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)
        else:
            for warning in warnings:
                log.warning("store not fit for production", problem=warning)
            return


def _metrics_port(
    address: str, page: Callable[[], bytes], not_ready: Callable[[], str | None]
) -> MetricsPort:
    host, _, port = address.rpartition(":")
    try:
        return MetricsPort(host.strip("[]"), int(port), metrics=page, not_ready=not_ready)
    except (OSError, ValueError, OverflowError) as error:
        raise CannotServe(
            f"cannot listen on {address} for metrics: {getattr(error, 'strerror', None) or 'not HOST:PORT'}; "
            "choose another with --metrics-address (GRADSIGHT_METRICS_ADDRESS)"
        ) from error
