"""One WatchJob stream: the snapshot, then history and live events alike, at the reader's own pace."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from gradsight.v1 import job_pb2, training_service_pb2
from gradsight_service.errors import CallError, draining, store_unavailable, stream_expired
from gradsight_service.event_pages import Frame
from gradsight_service.hub import Hub, WatchedJob, Watcher
from gradsight_store.errors import StoreUnavailable
from gradsight_store.operations import JobRef

_RETRY_S = 0.2

_REFUSALS: dict[training_service_pb2.StreamEndReason.ValueType, Callable[[], CallError]] = {
    training_service_pb2.STREAM_END_REASON_SERVER_DRAINING: draining,
    training_service_pb2.STREAM_END_REASON_STORE_UNAVAILABLE: store_unavailable,
    training_service_pb2.STREAM_END_REASON_STREAM_EXPIRED: stream_expired,
}


@dataclass(kw_only=True)
class JobStream:
    """A stream in progress. `position` is the last sequence that was sent or left out on purpose.

    `kinds` empty lets every kind pass; `latest` leaves out batches of steps in favour of newer ones.
    """

    hub: Hub
    ref: JobRef
    position: int
    kinds: frozenset[str]
    latest: bool
    write: Callable[[bytes], Awaitable[None]]
    _conflated: "_Conflated | None" = field(default=None, init=False)
    _quiet_until: float = field(default=0.0, init=False)

    async def run(self, snapshot: job_pb2.Job) -> None:
        """Send everything; returns after the frame that says that the job is done.

        Raises:
            CallError: The stream ends before the job does; the last frame has said why and where to go on.
        """
        await self._send(training_service_pb2.WatchJobResponse(snapshot=snapshot))
        with self.hub.watch(self.ref, snapshot) as (job, watcher):
            while not await self._advance(job, watcher):
                if reason := self.hub.ending(watcher):
                    await self._end(reason)
                    raise _REFUSALS[reason]()
            await self._end(training_service_pb2.STREAM_END_REASON_JOB_DONE)

    async def _advance(self, job: WatchedJob, watcher: Watcher) -> bool:
        """Send what there is, or wait for it. True when the job has ended and nothing is left to send."""
        watcher.wake.clear()
        try:
            frames = job.after(self.position)
            if frames is None:
                frames = await self.hub.pages.read(self.ref, self.position)
        except StoreUnavailable:
            await asyncio.sleep(_RETRY_S)  # the hub decides for how long an outage is borne
            return False
        if frames:
            await self._pass(frames)
            watcher.sent()
            return False
        if job.done:
            return True
        await self._rest(watcher)
        return False

    async def _pass(self, frames: list[Frame]) -> None:
        for frame in frames:
            if frame.sequence > self.position + 1:
                await self._flush()
                await self._gap(self.position + 1, frame.sequence - 1, conflated=False)
            if self.kinds and frame.kind not in self.kinds:
                pass
            elif self.latest and frame.kind == "steps_recorded":
                first = self._conflated.first_sequence if self._conflated else frame.sequence
                self._conflated = _Conflated(first, frame)
            else:
                await self._flush()
                await self.write(frame.data)
            self.position = frame.sequence

    async def _rest(self, watcher: Watcher) -> None:
        """Nothing is there to read: send what was held back, else a heartbeat if one is due, else wait."""
        if self._conflated:
            if (pause := self._quiet_until - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            else:
                await self._flush()
        elif time.monotonic() >= watcher.due:
            beat = training_service_pb2.Heartbeat(last_sequence=self.position)
            beat.time.GetCurrentTime()
            await self._send(training_service_pb2.WatchJobResponse(heartbeat=beat))
            watcher.sent()
        else:
            await watcher.wake.wait()

    async def _flush(self) -> None:
        """Send the held-back batch of steps, after a gap that names those which it replaces."""
        held, self._conflated = self._conflated, None
        if held is None:
            return
        if held.first_sequence < held.newest.sequence:
            await self._gap(held.first_sequence, held.newest.sequence - 1, conflated=True)
        await self.write(held.newest.data)
        self._quiet_until = time.monotonic() + self.hub.settings.conflation_s

    async def _gap(self, first: int, last: int, *, conflated: bool) -> None:
        gap = training_service_pb2.Gap(first_sequence=first, last_sequence=last, conflated=conflated)
        await self._send(training_service_pb2.WatchJobResponse(gap=gap))

    async def _end(self, reason: training_service_pb2.StreamEndReason.ValueType) -> None:
        await self._flush()
        end = training_service_pb2.StreamEnd(reason=reason, next_sequence=self.position)
        await self._send(training_service_pb2.WatchJobResponse(end=end))

    async def _send(self, frame: training_service_pb2.WatchJobResponse) -> None:
        await self.write(frame.SerializeToString())


@dataclass(frozen=True)
class _Conflated:
    """The newest of consecutive batches of steps, and where they began."""

    first_sequence: int
    newest: Frame
