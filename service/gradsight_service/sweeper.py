"""The sweeper: what time does to jobs, workers, logs and uploads. Every replica runs one; twice is harmless."""

import asyncio
import time

import structlog

from gradsight_service.store_access import StoreAccess
from gradsight_store.artifacts import Artifacts
from gradsight_store.compaction import compact, overlong_logs
from gradsight_store.errors import StoreError
from gradsight_store.sweep import Swept, reconcile, sweep
from gradsight_store.uploads import Uploads

log = structlog.get_logger()

SWEEP_EVERY_S = 1.0
_RECONCILE_EVERY_S = 60.0
_COMPACT_EVERY_S = 2.0
_COLLECT_EVERY_S = 600.0


class Sweeper:
    """Does what is due, each at its own cadence."""

    def __init__(self, store: StoreAccess, artifacts: Artifacts, uploads: Uploads) -> None:
        self._store = store
        self._artifacts = artifacts
        self._uploads = uploads
        self._done_at: dict[str, float] = {}

    async def run(self) -> None:
        """Sweep until cancelled. An outage of the store is noticed here first, and is no reason to stop."""
        while True:
            started = time.monotonic()
            try:
                await self._sweep_once()
            except StoreError as error:
                log.warning("sweep failed", error=str(error))
            except Exception:
                # One record that we cannot handle must not end the sweeping of all others.
                log.exception("sweep failed")
            await asyncio.sleep(max(0.1, SWEEP_EVERY_S - (time.monotonic() - started)))

    async def _sweep_once(self) -> None:
        _report(await self._store.run(sweep()))
        if self._due("reconcile", _RECONCILE_EVERY_S):
            _report(await self._store.run(reconcile()))
        if self._due("compact", _COMPACT_EVERY_S):
            for ref in await self._store.run(overlong_logs()):
                # No time limit but the driver's own: a segment is written to the artifacts meanwhile.
                if await self._store.driver.run(compact(ref, self._artifacts)):
                    log.info("log compacted", job_id=ref.job_id)
        if self._due("collect", _COLLECT_EVERY_S):
            removed = await asyncio.to_thread(self._uploads.collect_abandoned)
            if removed:
                log.info("abandoned uploads removed", files=removed)

    def _due(self, what: str, every_s: float) -> bool:
        now = time.monotonic()
        if now - self._done_at.get(what, -every_s) < every_s:
            return False
        self._done_at[what] = now
        return True


def _report(swept: list[Swept]) -> None:
    for one in swept:
        job_id = one.ref.job_id if one.ref else None
        log.info("swept", what=one.what.value, job_id=job_id, worker_id=one.worker_id or None)
