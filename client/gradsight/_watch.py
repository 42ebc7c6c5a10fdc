"""Following streams across broken connections and restarts, without gap and without duplicate."""

import contextlib
import time
from collections.abc import Callable, Sequence

from google.protobuf.message import Message

from gradsight import _convert
from gradsight._effects import Emit, Open, Operation, Receive, Sleep
from gradsight._enums import WatchMode
from gradsight._errors import (
    CallCancelled,
    DeadlineExceeded,
    GradsightError,
    ServiceUnreachable,
    Unavailable,
    WaitTimeout,
    WatchGap,
)
from gradsight._events import Gap, JobEvent
from gradsight._retry import Patience
from gradsight.v1 import training_service_pb2 as wire

OnGap = Callable[[Gap], None]


class JobCursor:
    """Where a watch is in a job's log: decides what of each frame is new, and what is missing.

    Sequences count without gaps, so a missing event cannot go unnoticed. A watch of some kinds only sees rising
    sequences and has to trust the service about those between.
    """

    def __init__(self, job_id: str, after: int, kinds: Sequence[str], on_gap: OnGap | None) -> None:
        self.sequence = after
        self.done = False
        self._job_id = job_id
        self._all_kinds = not kinds
        self._on_gap = on_gap

    def accept(self, frame: wire.WatchJobResponse) -> JobEvent | None:
        """Takes the next frame and returns its event if it is new to the reader. Raises WatchGap."""
        match frame.WhichOneof("frame"):
            case "event":
                return self._event(frame)
            case "gap":
                self._gap(_convert.gap(frame.gap))
            case "heartbeat" if not self._all_kinds:
                self.sequence = max(self.sequence, frame.heartbeat.last_sequence)
            case "end":
                self.done = frame.end.reason == wire.STREAM_END_REASON_JOB_DONE
        return None

    def _event(self, frame: wire.WatchJobResponse) -> JobEvent | None:
        sequence = frame.event.sequence
        if sequence <= self.sequence:
            return None
        if self._all_kinds and sequence > self.sequence + 1:
            self._missing(self.sequence + 1, sequence - 1, "did not come, and the service did not say why")
        self.sequence = sequence
        return _convert.event(frame.event)

    def _gap(self, gap: Gap) -> None:
        if gap.last_sequence <= self.sequence:
            return
        if self._on_gap is not None:
            self._on_gap(gap)
        elif not gap.conflated:
            self._missing(gap.first_sequence, gap.last_sequence, "were deleted by retention")
        self.sequence = gap.last_sequence

    def _missing(self, first: int, last: int, why: str) -> None:
        raise WatchGap(
            f"events {first} to {last} of job {self._job_id} {why}; watch again with after={last} to go on behind them",
            first,
            last,
        )


def watch_job(
    job_id: str,
    patience: Patience,
    *,
    after: int = 0,
    kinds: Sequence[str] = (),
    mode: WatchMode = WatchMode.EVERY,
    on_gap: OnGap | None = None,
    timeout: float | None = None,
) -> Operation[None]:
    """Emits a job's events after a sequence, history then live, until the job has ended.

    Raises WaitTimeout after `timeout` seconds, WatchGap when events are missing.
    """
    cursor = JobCursor(job_id, after, kinds, on_gap)

    def request() -> Message:
        return wire.WatchJobRequest(
            job_id=job_id,
            after_sequence=cursor.sequence,
            event_kinds=kinds,
            mode=wire.WatchMode.Value(f"WATCH_MODE_{WatchMode(mode).name}"),
        )

    def take(frame: Message) -> Operation[bool]:
        assert isinstance(frame, wire.WatchJobResponse)
        event = cursor.accept(frame)
        if event is not None:
            yield Emit(event)
        return cursor.done

    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        yield from follow("WatchJob", request, take, patience, deadline)
    except DeadlineExceeded:
        raise WaitTimeout(
            f"job {job_id} has not ended after {round(timeout or 0, 1):g} s; it goes on", job_id
        ) from None


def watch_jobs(patience: Patience, *, after: str = "") -> Operation[None]:
    """Emits the state events of all jobs after a cursor, without end."""
    cursor = after

    def request() -> Message:
        return wire.WatchJobsRequest(after_cursor=cursor)

    def take(frame: Message) -> Operation[bool]:
        nonlocal cursor
        assert isinstance(frame, wire.WatchJobsResponse)
        cursor = frame.cursor or cursor
        event = _convert.feed_event(frame)
        if event is not None:
            yield Emit(event)
        return False

    yield from follow("WatchJobs", request, take, patience)


def follow(
    method: str,
    request: Callable[[], Message],
    take: Callable[[Message], Operation[bool]],
    patience: Patience,
    deadline: float | None = None,
) -> Operation[None]:
    """Receives a stream until `take` says that it is complete, and opens it again whenever it breaks.

    `request` describes what is still missing at that moment. A service that has answered before is waited for as long
    as `patience.reconnect` says; one that never did only for a few tries, because then the address may be wrong.
    """
    answered, heard, pauses, tries = False, time.monotonic(), patience.pauses(), 1
    while True:
        opened, frames = request(), 0
        lost: GradsightError
        try:
            yield Open(method, opened, _remaining(deadline))
            while (frame := (yield Receive())) is not None:
                answered, last, frames = True, time.monotonic(), frames + 1
                if (yield from take(frame)):
                    yield from _let_it_end()
                    return
            lost = ServiceUnreachable(f"{method} ended early")
        except (Unavailable, CallCancelled) as error:
            # A service that is stopped hard cancels its streams; we never cancel one that we still read.
            lost = error
        # A stream that breaks right after its first frame, again and again, is no sign of life.
        if frames > 1 or request() != opened:
            heard, pauses = last, patience.pauses()
        patient = (
            time.monotonic() - heard < patience.reconnect if answered else tries < patience.call_attempts
        )
        if not patient:
            raise lost
        tries += 1
        pause, remaining = next(pauses), _remaining(deadline)
        yield Sleep(pause if remaining is None else min(pause, remaining))


def _let_it_end() -> Operation[None]:
    """Waits for the orderly end of a stream that has brought everything, so that it does not count as cancelled."""
    with contextlib.suppress(GradsightError):
        yield Receive()


def _remaining(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise DeadlineExceeded("the time for this call is over")
    return remaining
