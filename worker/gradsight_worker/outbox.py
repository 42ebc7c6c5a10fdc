"""What an attempt has to tell the store, in order and until the store has it.

While the store is away, writes wait here and are sent again under the same operation id, so that an outage
shorter than the lease is invisible. Events are appended many at a time.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gradsight.v1 import event_pb2
from gradsight_store import attempts
from gradsight_store.errors import JobNotFound, StoreFull, StoreUnavailable, TransitionRefused
from gradsight_store.operations import Answer, JobRef, Operation, new_operation_id
from gradsight_store.projection import JobProjection, apply_event
from gradsight_store.store import Store

MOST_BYTES = 8 << 20
"""Beyond this much in waiting events the attempt stops listening to its trainer."""
_MOST_EVENTS_PER_APPEND = 256
_MOST_BYTES_PER_APPEND = 512 << 10
_PACE_S = 0.02
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 0.5


class Fenced(Exception):
    """The term is over: somebody else may hold the job. Nothing may be written any more."""


@dataclass(frozen=True, kw_only=True)
class Write:
    """One write other than events. The operation must keep its operation id when it is made again."""

    operation: Callable[[], Operation[Any]]
    applied: Callable[[Any], None]


@dataclass
class _Append:
    events: list[event_pb2.JobEvent]
    operation_id: str


class Outbox:
    """Writes of one term in the order in which they were added.

    Args:
        store: Where they go.
        ref: The job.
        term: The term; the first write that is refused for it raises Fenced.
        projection: Figures of the job so far; events are folded in as they are sent.
    """

    def __init__(self, store: Store, ref: JobRef, term: int, projection: JobProjection) -> None:
        self._store, self._ref, self._term = store, ref, term
        self._projection = projection
        self._waiting: deque[event_pb2.JobEvent | Write] = deque()
        self._append: _Append | None = None
        self._not_before = 0.0
        self._pause_s = _FIRST_PAUSE_S
        self.waiting_bytes = 0
        self.desired_state = 0
        """What the store asked for in its last answer to an append."""

    def add(self, entry: event_pb2.JobEvent | Write) -> None:
        """Queue a write behind all others."""
        self._waiting.append(entry)
        if isinstance(entry, event_pb2.JobEvent):
            self.waiting_bytes += entry.ByteSize()

    def fold(self, event: event_pb2.JobEvent) -> None:
        """Fold an event into the figures that the store has told of itself."""
        apply_event(self._projection, event)

    def due(self) -> float | None:
        """Monotonic time of the next `send`. None: there is nothing to send."""
        return self._not_before if self._append or self._waiting else None

    def send(self, now: float) -> bool:
        """Send what waits, as far as the store takes it. False: the store does not answer.

        Raises:
            Fenced: The term is over.
        """
        if now < self._not_before:
            return True
        try:
            while self._append or self._waiting:
                self._send_next()
        except (StoreUnavailable, StoreFull):
            self._not_before = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            return False
        except (JobNotFound, TransitionRefused) as error:
            raise Fenced(str(error)) from error
        self._pause_s = _FIRST_PAUSE_S
        self._not_before = now + _PACE_S
        return True

    def _send_next(self) -> None:
        if self._append is None and isinstance(self._waiting[0], event_pb2.JobEvent):
            self._append = _Append(self._take_events(), new_operation_id())
        if self._append is not None:
            appended = self._store.run(
                attempts.append_events(
                    self._ref,
                    self._term,
                    self._append.events,
                    self._projection,
                    operation_id=self._append.operation_id,
                )
            )
            self._require_term(appended.answer)
            self.desired_state = appended.desired_state
            self._append = None
            return
        write = self._waiting[0]
        assert isinstance(write, Write)
        outcome = self._store.run(write.operation())
        self._require_term(getattr(outcome, "answer", Answer.APPLIED))
        self._waiting.popleft()
        write.applied(outcome)

    def _take_events(self) -> list[event_pb2.JobEvent]:
        """The events at the front, folded into the figures: what one append carries stays one append for good."""
        events: list[event_pb2.JobEvent] = []
        size = 0
        while self._waiting and len(events) < _MOST_EVENTS_PER_APPEND and size < _MOST_BYTES_PER_APPEND:
            event = self._waiting[0]
            if not isinstance(event, event_pb2.JobEvent):
                break
            self._waiting.popleft()
            events.append(event)
            size += event.ByteSize()
            apply_event(self._projection, event)
        self.waiting_bytes -= size
        return events

    def _require_term(self, answer: Answer) -> None:
        if answer is Answer.FENCED:
            raise Fenced(f"term {self._term} is over")
