"""The state events of all jobs of a tenant, in one feed."""

from dataclasses import dataclass

from gradsight.v1 import event_pb2
from gradsight_store.operations import Operation


@dataclass(frozen=True)
class FeedEntry:
    """One state event. Read on after `cursor`."""

    cursor: str
    job_id: str
    name: str
    event: event_pb2.JobEvent


def read_feed(tenant: str, after: str, limit: int) -> Operation[list[FeedEntry]]:
    """Entries after a cursor; `0` from the beginning of what is kept."""
    raise NotImplementedError


def newest_cursor(tenant: str) -> Operation[str]:
    """Cursor from which only later events come."""
    raise NotImplementedError


def checked_cursor(cursor: str) -> str:
    """The cursor itself.

    Raises:
        ValueError: It is malformed.
    """
    raise NotImplementedError
