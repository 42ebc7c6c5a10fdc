"""The hub: follows every watched job over one blocking read, and wakes whoever watches it.

A watcher reads at its own pace: recent frames from the job's tail that all its watchers share, older ones from the
log's pages. The hub never queues anything for a watcher, so a slow one costs nothing and loses nothing.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from gradsight._reasons import Reason
from gradsight.v1 import event_pb2, job_pb2, training_service_pb2
from gradsight_service.errors import CallError
from gradsight_service.event_pages import EventPages, Frame, frame_of
from gradsight_service.store_access import StoreAccess
from gradsight_store.artifacts import Artifacts
from gradsight_store.errors import StoreError
from gradsight_store.operations import JobRef

log = structlog.get_logger()

_TICK_S = 0.25
_JOIN_PAUSE_S = 0.005
_RETRY_S = 0.2


@dataclass(frozen=True, kw_only=True)
class HubSettings:
    """Bounds of the streams. Durations in seconds."""

    most_watchers: int = 1000
    heartbeat_s: float = 10.0
    """A stream on which nothing happened for this long gets a heartbeat."""
    stream_age_s: float = 1800.0
    """A stream ends after this long, so that clients spread over the replicas."""
    outage_s: float = 2.0
    """Streams end when the store has not answered for this long."""
    conflation_s: float = 0.1
    """Least time between two batches of steps in mode LATEST."""
    tail_frames: int = 1024
    tail_bytes: int = 1 << 20


class WatchedJob:
    """The newest frames of one job, without gaps, and those who watch it."""

    def __init__(self, last_sequence: int, *, done: bool) -> None:
        self.watchers: set[Watcher] = set()
        self.last_sequence = last_sequence
        self.done = done
        """True when `last_sequence` is the event that ended the job."""
        self._frames: list[Frame] = []
        self._bytes = 0

    def publish(self, frames: list[Frame], settings: HubSettings) -> None:
        """Append new frames and wake the watchers."""
        if frames[0].sequence != self.last_sequence + 1:
            # The log's beginning moved to a segment before we came to read it; the pages still have it.
            self._frames.clear()
            self._bytes = 0
        self._frames.extend(frames)
        self._bytes += sum(len(frame.data) for frame in frames)
        self.last_sequence = frames[-1].sequence
        self.done = self.done or frames[-1].last
        while len(self._frames) > settings.tail_frames or (
            self._bytes > settings.tail_bytes and len(self._frames) > 1
        ):
            old = self._frames[: len(self._frames) // 2]
            del self._frames[: len(old)]
            self._bytes -= sum(len(frame.data) for frame in old)
        for watcher in self.watchers:
            watcher.wake.set()

    def after(self, sequence: int) -> list[Frame] | None:
        """Frames after a sequence; None when the tail does not reach back that far."""
        if not self._frames:
            return [] if sequence >= self.last_sequence else None
        first = self._frames[0].sequence
        return self._frames[sequence + 1 - first :] if sequence + 1 >= first else None


class Watcher:
    """One stream of one job."""

    def __init__(self, settings: HubSettings) -> None:
        self.wake = asyncio.Event()
        self.due = time.monotonic() + settings.heartbeat_s
        """When the hub wakes the stream at the latest, on the monotonic clock."""
        self.expires = time.monotonic() + settings.stream_age_s
        self._heartbeat_s = settings.heartbeat_s

    def sent(self) -> None:
        """The stream has just sent something: no heartbeat is due for a while."""
        self.due = time.monotonic() + self._heartbeat_s


class Hub:
    """All job streams of this process."""

    def __init__(self, store: StoreAccess, artifacts: Artifacts, settings: HubSettings) -> None:
        self.settings = settings
        self.pages = EventPages(store, artifacts)
        self._draining = False
        self._store = store
        self._jobs: dict[JobRef, WatchedJob] = {}
        self._joined = asyncio.Event()
        self.streams = 0
        """Streams that are open now, of jobs and of feeds."""
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def seat(self) -> Iterator[None]:
        """One of the places for streams, of whatever kind.

        Raises:
            CallError: All are taken.
        """
        if self.streams >= self.settings.most_watchers:
            raise CallError(
                Reason.TOO_MANY_WATCHERS,
                f"watchers: got one more than {self.settings.most_watchers}, allowed {self.settings.most_watchers} at "
                "once; close some, or ask the operator for more replicas",
                retry_after_s=5.0,
            )
        self.streams += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.streams -= 1
            if not self.streams:
                self._idle.set()

    @contextmanager
    def watch(self, ref: JobRef, snapshot: job_pb2.Job) -> Iterator[tuple[WatchedJob, Watcher]]:
        """Follow a job from where its snapshot stands, or join those who do already. Ended jobs need no following."""
        job = self._jobs.get(ref)
        if job is None:
            job = WatchedJob(snapshot.last_sequence, done=snapshot.done)
            if not snapshot.done:
                self._jobs[ref] = job
                self._joined.set()
        watcher = Watcher(self.settings)
        job.watchers.add(watcher)
        try:
            yield job, watcher
        finally:
            job.watchers.discard(watcher)
            if not job.watchers and self._jobs.get(ref) is job:
                del self._jobs[ref]

    async def run(self) -> None:
        """Follow the watched jobs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._tick())

    def drain(self) -> None:
        """Ask every stream to end."""
        self._draining = True
        self._wake_all()

    def ending(self, watcher: "Watcher") -> training_service_pb2.StreamEndReason.ValueType | None:
        """Why the stream should end now, or None."""
        if self._draining:
            return training_service_pb2.STREAM_END_REASON_SERVER_DRAINING
        if self._store.away_s() > self.settings.outage_s:
            return training_service_pb2.STREAM_END_REASON_STORE_UNAVAILABLE
        if time.monotonic() >= watcher.expires:
            return training_service_pb2.STREAM_END_REASON_STREAM_EXPIRED
        return None

    async def wait_drained(self, timeout_s: float) -> None:
        """Wait until every stream has ended, or the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("streams still open", streams=self.streams)

    async def _follow(self) -> None:
        while True:
            if not self._jobs:
                await self._joined.wait()
            self._joined.clear()
            try:
                await self._read_news()
            except StoreError as error:
                log.warning("watched jobs cannot be followed", error=str(error))
                await asyncio.sleep(_RETRY_S)
            except Exception:
                log.exception(
                    "watched jobs cannot be followed"
                )  # a fault with one job must not end the service
                await asyncio.sleep(_RETRY_S)

    async def _read_news(self) -> None:
        """Read until somebody watches a job that the read does not cover."""
        joined = asyncio.create_task(self._joined.wait())
        try:
            while self._jobs and not joined.done():
                cursors = {ref: job.last_sequence for ref, job in self._jobs.items()}
                read = asyncio.create_task(self._store.driver.wait_for_events(cursors, 1000))
                try:
                    await asyncio.wait({read, joined}, return_when=asyncio.FIRST_COMPLETED)
                    if read.done():
                        self._publish(read.result())
                finally:
                    read.cancel()
            # Many streams tend to come at once, after a restart say: one new read for all of them.
            await asyncio.sleep(_JOIN_PAUSE_S)
        finally:
            joined.cancel()

    def _publish(self, news: dict[JobRef, list[event_pb2.JobEvent]]) -> None:
        for ref, events in news.items():
            job = self._jobs.get(ref)
            fresh = [frame_of(event) for event in events if job and event.sequence > job.last_sequence]
            if job and fresh:
                job.publish(fresh, self.settings)

    async def _tick(self) -> None:
        """Wake the streams that owe a heartbeat or are too old; one clock for all costs less than one each."""
        while True:
            await asyncio.sleep(_TICK_S)
            if self._store.away_s() > self.settings.outage_s:
                self._wake_all()
            now = time.monotonic()
            for job in self._jobs.values():
                for watcher in job.watchers:
                    if now >= min(watcher.due, watcher.expires):
                        watcher.wake.set()

    def _wake_all(self) -> None:
        for job in self._jobs.values():
            for watcher in job.watchers:
                watcher.wake.set()
