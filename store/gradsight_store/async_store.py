"""The asyncio driver, and the blocking reads that wake the hub and the dispatcher."""

from collections.abc import Mapping
from typing import Self, TypeVar

from gradsight.v1 import event_pb2
from gradsight_store.feed import FeedEntry
from gradsight_store.operations import JobRef, Operation
from gradsight_store.settings import StoreSettings

Result = TypeVar("Result")


class AsyncStore:
    """Runs operations on the running event loop."""

    @classmethod
    async def open(cls, settings: StoreSettings) -> Self:
        """Make a store; connects on first use."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """Address without credentials."""
        raise NotImplementedError

    async def run(self, operation: Operation[Result]) -> Result:
        """Carry an operation out."""
        raise NotImplementedError

    async def wait_for_events(
        self, cursors: Mapping[JobRef, int], block_ms: int
    ) -> dict[JobRef, list[event_pb2.JobEvent]]:
        """Wait until a job has events after its cursor, or the time is over; jobs with news only."""
        raise NotImplementedError

    async def wait_for_feed(self, tenant: str, cursor: str, block_ms: int) -> list[FeedEntry]:
        """Wait for entries of a tenant's feed after a cursor."""
        raise NotImplementedError

    async def wait_for_work(self, cursor: str, block_ms: int) -> str:
        """Wait until a job began to wait or a worker became free after the cursor (at first: ""); the new cursor."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close all connections."""
        raise NotImplementedError
