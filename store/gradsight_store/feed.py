"""The state events of all jobs of a tenant, in one feed. A cursor is the place of an entry in it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gradsight.v1 import event_pb2
from gradsight_store import keys
from gradsight_store.operations import Operation, Pipeline

_CURSOR = re.compile(r"[0-9]{1,19}(-[0-9]{1,19})?")


@dataclass(frozen=True)
class FeedEntry:
    """One state event of one job. Read on after `cursor`."""

    cursor: str
    job_id: str
    name: str
    event: event_pb2.JobEvent


def read_feed(tenant: str, after: str, limit: int) -> Operation[list[FeedEntry]]:
    """Up to `limit` entries after a cursor; `0` from the beginning of what is kept.

    Raises:
        ValueError: The cursor is malformed.
    """
    span = ("XREAD", "COUNT", limit, "STREAMS", keys.feed(tenant), checked_cursor(after))
    (streams,) = yield Pipeline([span])
    return [parse_entry(entry_id, fields) for _, entries in streams or () for entry_id, fields in entries]


def newest_cursor(tenant: str) -> Operation[str]:
    """The cursor after which only later events come."""
    (entries,) = yield Pipeline([("XREVRANGE", keys.feed(tenant), "+", "-", "COUNT", 1)])
    return entries[0][0].decode() if entries else "0"


def checked_cursor(cursor: str) -> str:
    """The cursor itself.

    Raises:
        ValueError: It is malformed.
    """
    if not _CURSOR.fullmatch(cursor):
        raise ValueError(f"cursor: got {cursor[:80]!r}, allowed: '0' or the cursor of an earlier entry")
    return cursor


def parse_entry(entry_id: bytes, fields: Sequence[bytes]) -> FeedEntry:
    """An entry of the feed's stream."""
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    event = event_pb2.JobEvent.FromString(values[b"e"])
    event.sequence = int(values[b"s"])
    event.attempt = int(values[b"a"])
    event.record_time.FromMilliseconds(int(values[b"t"]))
    return FeedEntry(entry_id.decode(), values[b"j"].decode(), values[b"n"].decode(), event)
