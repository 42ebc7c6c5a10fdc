"""Keeps a job's log in the store bounded: an old prefix of it becomes a segment among the artifacts.

The file is stored first, then one commit names it in the record and trims the stream; a reader sees either the
events or the segment, never neither.
"""

from collections.abc import Sequence

from gradsight.v1 import artifact_pb2
from gradsight_store import keys, rules
from gradsight_store.artifact_records import record_artifact
from gradsight_store.artifacts import Artifacts
from gradsight_store.commits import change
from gradsight_store.events import encode_segment, parse_event
from gradsight_store.operations import (
    Answer,
    Blocking,
    JobRef,
    Operation,
    Pipeline,
    new_operation_id,
    read_settings,
)
from gradsight_store.placements import Write
from gradsight_store.settings import StoreSettings
from gradsight_store.v1 import record_pb2

Entry = tuple[bytes, Sequence[bytes]]
"""Id and fields of an event in the stream, its bytes first."""


def overlong_logs(limit: int = 100) -> Operation[list[JobRef]]:
    """Jobs whose log has passed its bound, some of them when there are more than `limit`."""
    (members,) = yield Pipeline([("SRANDMEMBER", keys.OVERLONG, limit)])
    return [keys.parse_member(member) for member in members]


def compact(ref: JobRef, artifacts: Artifacts) -> Operation[bool]:
    """Move the older half of a job's log, if the log has passed its bound.

    False when it had not, or when somebody else was faster, or when there is no such job.

    Raises:
        StorageFull: The artifacts have no space; the log stays where it is.
    """
    settings = yield from read_settings()
    (entries,) = yield Pipeline([("XRANGE", keys.events(ref), "-", "+")])
    prefix = _older_half(entries, settings)
    if not prefix:
        yield Pipeline([("SREM", keys.OVERLONG, keys.member(ref))])
        return False
    return (yield from _move(ref, prefix, artifacts))


def _older_half(entries: Sequence[Entry], settings: StoreSettings) -> Sequence[Entry]:
    """The entries to move, so that the rest is within half of both bounds; none when all are within the bounds."""
    sizes = [len(values[1]) for _, values in entries]
    left_bytes, left = sum(sizes), len(entries)
    if left <= settings.log_max_events and left_bytes <= settings.log_max_bytes:
        return []
    moved = 0
    while left > 1 and (left > settings.log_max_events // 2 or left_bytes > settings.log_max_bytes // 2):
        left_bytes -= sizes[moved]
        left -= 1
        moved += 1
    return entries[:moved]


def _move(ref: JobRef, prefix: Sequence[Entry], artifacts: Artifacts) -> Operation[bool]:
    events = [parse_event(entry_id, values) for entry_id, values in prefix]
    first, last = events[0].sequence, events[-1].sequence
    data = encode_segment(events)
    file = yield Blocking(lambda: artifacts.put_bytes(ref.tenant, data))
    artifact = artifact_pb2.Artifact(
        digest=file.digest,
        kind=artifact_pb2.ARTIFACT_KIND_HISTORY,
        filename=f"events-{first}-{last}.zlib",
        size_bytes=file.size_bytes,
        job_id=ref.job_id,
    )
    yield from record_artifact(ref.tenant, artifact)
    segment = record_pb2.LogSegment(first_sequence=first, last_sequence=last, digest=file.digest)

    def rule(record: record_pb2.JobRecord, now_ms: int) -> rules.Verdict:
        return rules.shorten_log(record, now_ms, segment=segment)

    moved_bytes = sum(len(values[1]) for _, values in prefix)
    writes = [
        Write("drop_events_before", keys.events(ref), last + 1),
        Write("count", keys.job(ref), "log_bytes", -moved_bytes),
        Write("srem", keys.OVERLONG, keys.member(ref)),
    ]
    outcome = yield from change(ref, rule, operation_id=new_operation_id(), writes=writes)
    return outcome.answer is Answer.APPLIED
