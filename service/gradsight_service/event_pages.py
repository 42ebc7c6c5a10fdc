"""Events as frames that are ready to be sent, read from the log in pages that all watchers of a job share."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import NamedTuple

from gradsight.v1 import event_pb2, state_pb2, training_service_pb2
from gradsight_service.calls import Context
from gradsight_service.requests import MOST_IN_PAGE
from gradsight_service.store_access import StoreAccess
from gradsight_store.artifacts import Artifacts
from gradsight_store.events import read_events
from gradsight_store.operations import JobRef

PAGE_EVENTS = 256

TERMINAL_STATES = frozenset(
    {state_pb2.JOB_STATE_SUCCEEDED, state_pb2.JOB_STATE_FAILED, state_pb2.JOB_STATE_CANCELLED}
)


class Frame(NamedTuple):
    """One event, serialized once as a WatchJobResponse."""

    sequence: int
    kind: str
    """Name of the field in JobEvent."""
    data: bytes
    last: bool
    """True for the event that ends the job."""


def frame_of(event: event_pb2.JobEvent) -> Frame:
    """The frame of an event."""
    return Frame(
        event.sequence,
        event.WhichOneof("kind") or "",
        training_service_pb2.WatchJobResponse(event=event).SerializeToString(),
        event.state_changed.state in TERMINAL_STATES,
    )


async def whole_log(
    store: StoreAccess, artifacts: Artifacts, ref: JobRef, context: Context
) -> AsyncIterator[event_pb2.JobEvent]:
    """Every event of a job, in order, read in large pages that nobody shares.

    Raises:
        StoreError: The store does not answer, or the job is gone.
    """
    after, end = 0, False
    while not end:
        page = await store.run(read_events(ref, after, MOST_IN_PAGE, artifacts), context)
        for event in page.events:
            yield event
        after, end = page.next_sequence, page.end


class EventPages:
    """The logs of all jobs in pages of fixed bounds; the most recently used ones are kept.

    Args:
        store: Where the logs are.
        artifacts: Where the older parts of long logs are.
        keep_bytes: Size up to which pages are kept, in bytes of their frames.
    """

    def __init__(self, store: StoreAccess, artifacts: Artifacts, *, keep_bytes: int = 64 << 20) -> None:
        self._store = store
        self._artifacts = artifacts
        self._keep_bytes = keep_bytes
        self._kept_bytes = 0
        self._pages: OrderedDict[tuple[JobRef, int], list[Frame]] = OrderedDict()
        self._reading: dict[tuple[JobRef, int], asyncio.Task[list[Frame]]] = {}

    async def read(self, ref: JobRef, after: int) -> list[Frame]:
        """Consecutive frames after a sequence; none when the log ends there. At most a page.

        The first one comes later than `after + 1` only when what lies between was deleted.

        Raises:
            StoreError: The store does not answer, or the job is gone.
        """
        key = (ref, after // PAGE_EVENTS)
        page = self._pages.get(key)
        if page is None or page[-1].sequence <= after:
            page = await self._read_page(key)
        else:
            self._pages.move_to_end(key)
        return [frame for frame in page if frame.sequence > after]

    async def _read_page(self, key: tuple[JobRef, int]) -> list[Frame]:
        reading = self._reading.get(key)
        if reading is None:
            reading = self._reading[key] = asyncio.create_task(self._read_from_store(*key))
            reading.add_done_callback(lambda _: self._reading.pop(key, None))
        # Shielded: the reader who asked first may leave, the others still wait for the page.
        return await asyncio.shield(reading)

    async def _read_from_store(self, ref: JobRef, number: int) -> list[Frame]:
        start = number * PAGE_EVENTS
        found = await self._store.run(read_events(ref, start, PAGE_EVENTS, self._artifacts))
        frames = [frame_of(event) for event in found.events]
        within = [frame for frame in frames if frame.sequence <= start + PAGE_EVENTS]
        if within:
            self._keep((ref, number), within)
        return within or frames

    def _keep(self, key: tuple[JobRef, int], page: list[Frame]) -> None:
        self._kept_bytes += _size(page) - _size(self._pages.pop(key, []))
        self._pages[key] = page
        while self._kept_bytes > self._keep_bytes and len(self._pages) > 1:
            self._kept_bytes -= _size(self._pages.popitem(last=False)[1])


def _size(page: list[Frame]) -> int:
    return sum(len(frame.data) for frame in page)
