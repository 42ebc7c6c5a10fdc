"""The state events of all jobs: one blocking read on a tenant's feed for all who watch it."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from gradsight.v1 import training_service_pb2
from gradsight_service.errors import draining, store_unavailable, stream_expired
from gradsight_service.hub import HubSettings, Watcher
from gradsight_service.store_access import StoreAccess
from gradsight_store.errors import StoreError, StoreUnavailable
from gradsight_store.feed import FeedEntry, newest_cursor, read_feed

log = structlog.get_logger()

_TICK_S = 0.25
_READ_ENTRIES = 200
_KEPT_ENTRIES = 2000
_RETRY_S = 0.2


class FeedHub:
    """The feed of one tenant, followed while somebody watches it."""

    def __init__(self, store: StoreAccess, tenant: str, settings: HubSettings) -> None:
        self._store = store
        self._tenant = tenant
        self._settings = settings
        self._watchers: set[Watcher] = set()
        self._watched = asyncio.Event()
        self._draining = False
        self._entries: list[FeedEntry] = []
        self._places: dict[str, int] = {}

    async def run(self) -> None:
        """Follow the feed until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._tick())

    def drain(self) -> None:
        """Ask every stream to end."""
        self._draining = True
        self._wake_all()

    async def stream(self, after: str, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Send entries after a cursor, an empty one meaning from now on. Never returns.

        Raises:
            CallError: The stream has to end.
        """
        cursor = after or await self._store.run(newest_cursor(self._tenant))
        watcher = Watcher(self._settings)
        self._watchers.add(watcher)
        self._watched.set()
        try:
            while True:
                self._refuse_if_ending(watcher)
                watcher.wake.clear()
                entries = await self._after(cursor)
                for entry in entries:
                    await write(_frame(entry))
                    cursor = entry.cursor
                if entries:
                    watcher.sent()
                elif time.monotonic() >= watcher.due:
                    await write(training_service_pb2.WatchJobsResponse(cursor=cursor).SerializeToString())
                    watcher.sent()
                else:
                    await watcher.wake.wait()
        finally:
            self._watchers.discard(watcher)

    def _refuse_if_ending(self, watcher: Watcher) -> None:
        if self._draining:
            raise draining()
        if self._store.away_s() > self._settings.outage_s:
            raise store_unavailable()
        if time.monotonic() >= watcher.expires:
            raise stream_expired()

    async def _after(self, cursor: str) -> list[FeedEntry]:
        """Entries after a cursor: from memory for those who are up to date, from the store for the others."""
        place = self._places.get(cursor)
        if place is not None:
            return self._entries[place + 1 :]
        try:
            return await self._store.run(read_feed(self._tenant, cursor, _READ_ENTRIES))
        except StoreUnavailable:
            await asyncio.sleep(_RETRY_S)
            return []

    async def _follow(self) -> None:
        cursor = ""
        while True:
            if not self._watchers:
                self._watched.clear()
                await self._watched.wait()
                cursor = ""
            try:
                if not cursor:
                    self._remember([])
                    cursor = await self._store.run(newest_cursor(self._tenant))
                    self._wake_all()  # what came before this cursor, they read themselves
                entries = await self._store.driver.wait_for_feed(self._tenant, cursor, 1000)
            except StoreError as error:
                log.warning("feed cannot be followed", tenant=self._tenant, error=str(error))
                await asyncio.sleep(_RETRY_S)
                continue
            if entries:
                cursor = entries[-1].cursor
                self._remember([*self._entries, *entries][-_KEPT_ENTRIES:])
                self._wake_all()

    def _remember(self, entries: list[FeedEntry]) -> None:
        self._entries = entries
        self._places = {entry.cursor: place for place, entry in enumerate(entries)}

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            away = self._store.away_s() > self._settings.outage_s
            for watcher in self._watchers:
                if away or now >= min(watcher.due, watcher.expires):
                    watcher.wake.set()

    def _wake_all(self) -> None:
        for watcher in self._watchers:
            watcher.wake.set()


def _frame(entry: FeedEntry) -> bytes:
    return training_service_pb2.WatchJobsResponse(
        cursor=entry.cursor, job_id=entry.job_id, event=entry.event, name=entry.name
    ).SerializeToString()
