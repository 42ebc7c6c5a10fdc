"""A job's log: recent events in the store, older ones in segments among the artifacts, read as one.

An event's id in the stream is its sequence; its time and attempt stand beside the bytes and are filled in on read.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from gradsight.v1 import event_pb2
from gradsight_store import keys
from gradsight_store.artifacts import Artifacts
from gradsight_store.operations import Blocking, JobRef, Operation, Pipeline
from gradsight_store.records import parse_stored, read_command
from gradsight_store.v1 import record_pb2

_LENGTH_BYTES = 4


@dataclass(frozen=True)
class EventPage:
    """Consecutive events, with sequence, time and attempt."""

    events: list[event_pb2.JobEvent]
    next_sequence: int
    """Read after this to go on: the last sequence shown, or `after` when nothing was."""
    end: bool
    """No later event existed."""
    done: bool
    """`end`, and the job has ended: no later event will come."""
    first_available: int
    """Oldest sequence that can still be read."""
    last_sequence: int
    """Sequence of the newest event."""


def read_events(ref: JobRef, after: int, limit: int, artifacts: Artifacts) -> Operation[EventPage]:
    """Up to `limit` (at least 1) events after a sequence. A cursor beyond the end gives an empty page.

    Raises:
        JobNotFound: There is no such job.
        ArtifactNotFound: A segment is missing.
    """
    # The stream first, the record after it: what was trimmed from the one is by then named in the other.
    span = ("XRANGE", keys.events(ref), f"{after + 1}-0", "+", "COUNT", limit)
    entries, fields = yield Pipeline([span, read_command(ref)])
    stored = parse_stored(ref, fields)
    recent = [parse_event(entry_id, values) for entry_id, values in entries]
    events: list[event_pb2.JobEvent] = []
    for segment in stored.record.segments:
        wanted = after + 1 + len(events)
        if segment.first_sequence <= wanted <= segment.last_sequence and len(events) < limit:
            older = yield Blocking(partial(_read_segment, ref.tenant, segment, artifacts))
            events += older[wanted - segment.first_sequence :][: limit - len(events)]
    newest_old = after + len(events)
    events += [event for event in recent if event.sequence > newest_old][: limit - len(events)]
    reached = events[-1].sequence if events else after
    end = reached >= stored.sequence
    return EventPage(
        events=events,
        next_sequence=reached,
        end=end,
        done=end and stored.record.job.done,
        first_available=stored.record.segments[0].first_sequence if stored.record.segments else 1,
        last_sequence=stored.sequence,
    )


def parse_event(entry_id: bytes, fields: Sequence[bytes]) -> event_pb2.JobEvent:
    """An event from an entry of the stream."""
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    event = event_pb2.JobEvent.FromString(values[b"e"])
    event.sequence = int(entry_id.partition(b"-")[0])
    event.attempt = int(values[b"a"])
    event.record_time.FromMilliseconds(int(values[b"t"]))
    return event


def encode_segment(events: Sequence[event_pb2.JobEvent]) -> bytes:
    """A file of events: zlib over messages that are each led by their length, 4 bytes big-endian."""
    packer = zlib.compressobj()
    parts = []
    for event in events:
        body = event.SerializeToString()
        parts.append(packer.compress(len(body).to_bytes(_LENGTH_BYTES, "big") + body))
    return b"".join([*parts, packer.flush()])


def decode_segment(data: bytes) -> list[event_pb2.JobEvent]:
    """The events of a segment's file."""
    plain, events, at = memoryview(zlib.decompress(data)), [], 0
    while at < len(plain):
        length = int.from_bytes(plain[at : at + _LENGTH_BYTES], "big")
        at += _LENGTH_BYTES
        events.append(event_pb2.JobEvent.FromString(bytes(plain[at : at + length])))
        at += length
    return events


def _read_segment(
    tenant: str, segment: record_pb2.LogSegment, artifacts: Artifacts
) -> list[event_pb2.JobEvent]:
    with artifacts.open(tenant, segment.digest) as file:
        return decode_segment(file.read())
