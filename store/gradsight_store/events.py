"""A job's log: recent events in the store, older ones in segments among the artifacts, read as one."""

from dataclasses import dataclass

from gradsight.v1 import event_pb2
from gradsight_store.artifacts import Artifacts
from gradsight_store.operations import JobRef, Operation


@dataclass(frozen=True)
class EventPage:
    """Consecutive events, sequence, time and attempt filled in."""

    events: list[event_pb2.JobEvent]
    next_sequence: int
    """Read after this to go on: the last sequence shown, or `after`."""
    end: bool
    """No later event existed."""
    done: bool
    """The job has ended and this page (or an earlier one) shows its last event."""
    first_available: int
    """Oldest sequence that can still be read."""


def read_events(ref: JobRef, after: int, limit: int, artifacts: Artifacts) -> Operation[EventPage]:
    """Up to `limit` events after a sequence."""
    raise NotImplementedError
