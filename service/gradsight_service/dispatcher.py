"""The dispatcher: hands waiting jobs to idle workers. Every replica runs one; the store decides between them."""

import asyncio

import structlog

from gradsight_service.store_access import StoreAccess
from gradsight_store.dispatch import (
    WaitingJob,
    assign,
    choose,
    idle_workers,
    queues_of,
    recipes_of,
    waiting_jobs,
)
from gradsight_store.errors import StoreError
from gradsight_store.operations import Answer, new_operation_id
from gradsight_store.transport import enqueue_attempt

log = structlog.get_logger()

_RETRY_S = 0.5
_PAUSE_S = 0.005  # a thousand creates a second, all workers busy: one look for many, not one each


class Dispatcher:
    """Pairs jobs with workers as soon as either appears.

    Args:
        store: Where jobs and workers are.
        look_again_s: Longest time between two looks, in seconds: bounds what a lost wake-up costs.
    """

    def __init__(self, store: StoreAccess, *, look_again_s: float = 1.0) -> None:
        self._store = store
        self._look_again_s = look_again_s
        self._work = asyncio.Event()

    def wake(self) -> None:
        """Look now: this very process has just created a job."""
        self._work.set()

    async def run(self) -> None:
        """Dispatch until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._dispatch())

    async def _listen(self) -> None:
        """Wake up for what other processes do: their creates, workers that come or become free."""
        cursor = ""
        while True:
            try:
                seen = await self._store.driver.wait_for_work(cursor, 1000)
            except StoreError as error:
                log.warning("dispatcher cannot listen", error=str(error))
                await asyncio.sleep(_RETRY_S)
                continue
            if seen != cursor:
                cursor = seen
                self._work.set()
                await asyncio.sleep(_PAUSE_S)

    async def _dispatch(self) -> None:
        while True:
            self._work.clear()
            try:
                while await self._hand_out():
                    pass
            except StoreError as error:
                log.warning("dispatcher cannot hand out jobs", error=str(error))
                await asyncio.sleep(_RETRY_S)
            except Exception:
                log.exception("dispatcher cannot hand out jobs")  # one record must not stop all the others
                await asyncio.sleep(_RETRY_S)
            await asyncio.sleep(_PAUSE_S)
            try:
                async with asyncio.timeout(self._look_again_s):
                    await self._work.wait()
            except TimeoutError:
                pass

    async def _hand_out(self) -> bool:
        """Hand out what can be handed out now; True when there may be more."""
        idle = await self._store.run(idle_workers())
        if not idle:
            return False
        # As many of each line as could start: a long line costs no more than a short one.
        waiting = await self._store.run(
            waiting_jobs(len(idle), queues=queues_of(idle), recipes=recipes_of(idle))
        )
        pairs = choose(waiting, idle)
        handed = await asyncio.gather(*(self._hand(job, worker.worker_id) for job, worker in pairs))
        return any(handed)

    async def _hand(self, job: WaitingJob, worker_id: str) -> bool:
        assigned = await self._store.run(assign(job.ref, worker_id, operation_id=new_operation_id()))
        if assigned.answer is Answer.FENCED:
            return False
        # Should this fail, the assignment lapses unclaimed and the job is handed out again.
        await self._store.run(enqueue_attempt(worker_id, job.ref, assigned.term))
        log.info("job handed out", job_id=job.ref.job_id, worker_id=worker_id)
        return True
