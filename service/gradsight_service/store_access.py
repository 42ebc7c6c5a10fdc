"""The store as the service uses it: every call bounded in time, measured, and an outage known to all."""

import asyncio
import time
from typing import TypeVar

import structlog
from prometheus_client import CollectorRegistry, Histogram

from gradsight._reasons import Reason
from gradsight_service.calls import Context, time_left
from gradsight_service.errors import CallError
from gradsight_store.async_store import AsyncStore
from gradsight_store.errors import StoreUnavailable
from gradsight_store.operations import Operation

log = structlog.get_logger()

Result = TypeVar("Result")

_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class StoreAccess:
    """Runs operations for handlers and for the service's own loops.

    Args:
        store: The driver.
        registry: Where the latencies are shown.
        limit_s: Longest time for one operation, re-sending included, in seconds.
    """

    def __init__(self, store: AsyncStore, *, registry: CollectorRegistry, limit_s: float = 3.0) -> None:
        self.driver = store
        self._limit_s = limit_s
        self._away_since: float | None = None
        self._seconds = Histogram(
            "gradsight_store_operation_seconds",
            "Time of one operation on the store, in seconds.",
            ("operation",),
            buckets=_BUCKETS_S,
            registry=registry,
        )

    async def run(self, operation: Operation[Result], context: Context | None = None) -> Result:
        """Carry an operation out, within the time limit and the caller's deadline.

        Raises:
            StoreError: As the operation says; StoreUnavailable also when the limit is over.
            CallError: The caller's deadline comes first.
        """
        left = None if context is None else time_left(context)
        name = getattr(operation, "__name__", "other")
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._limit_s if left is None else min(left, self._limit_s)):
                result = await self.driver.run(operation)
        except TimeoutError as error:
            if left is not None and left < self._limit_s:
                raise CallError(
                    Reason.DEADLINE_EXCEEDED, "the caller's deadline is over; allow more time"
                ) from error
            self._miss(f"no answer within {self._limit_s:g} s")
            raise StoreUnavailable(self.driver.url, f"no answer within {self._limit_s:g} s") from error
        except StoreUnavailable as error:
            self._miss(error.reason)
            raise
        finally:
            self._seconds.labels(name).observe(time.perf_counter() - started)
        self._answered()
        return result

    def away_s(self) -> float:
        """For how long the store has not answered, in seconds; 0 while it does. May be called from any thread."""
        since = self._away_since
        return 0.0 if since is None else time.monotonic() - since

    def _miss(self, reason: str) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            log.warning("store away", store=self.driver.url, reason=reason)

    def _answered(self) -> None:
        if self._away_since is not None:
            log.info("store back", store=self.driver.url, away_s=round(self.away_s(), 1))
            self._away_since = None
