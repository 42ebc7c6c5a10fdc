"""The cycle of every change to a job: read, decide by a pure rule, commit by compare-and-set, else read again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gradsight_store import keys, scripts
from gradsight_store.errors import StoreError
from gradsight_store.operations import (
    Answer,
    Argument,
    Command,
    JobRef,
    Operation,
    Pipeline,
    read_settings,
)
from gradsight_store.placements import Write, writes_between
from gradsight_store.records import StoredJob, milliseconds, parse_stored, read_command
from gradsight_store.rules import HELD, Decision, Verdict
from gradsight_store.settings import StoreSettings
from gradsight_store.v1 import record_pb2

OPERATIONS_REMEMBERED = 64
FEED_ENTRIES_KEPT = 100_000
_MOST_TRIES = 50

Rule = Callable[[record_pb2.JobRecord, int], Verdict]


class Guard(NamedTuple):
    """What must hold besides the revision when the change is committed; kinds are those of `commit.lua`."""

    kind: str
    key: str
    argument: Argument = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a change, and the job as it is now (FENCED: as it was read)."""

    answer: Answer
    stored: StoredJob


class CommitReply(NamedTuple):
    """What `commit.lua` answers."""

    what: str
    revision: int
    sequence: int
    now_ms: int
    detail: str

    @classmethod
    def parse(cls, reply: Sequence[bytes | int]) -> "CommitReply":
        """The reply as it came."""
        what, revision, sequence, now_ms, detail = reply
        assert isinstance(what, bytes)
        assert isinstance(detail, bytes)
        return cls(what.decode(), int(revision), int(sequence), int(now_ms), detail.decode())


def change(
    ref: JobRef,
    rule: Rule,
    *,
    operation_id: str,
    guards: Sequence[Guard] = (),
    writes: Sequence[Write] = (),
) -> Operation[Outcome]:
    """Apply a rule to a job. Concurrent changes are waited out; a refused guard answers FENCED.

    Raises:
        JobNotFound: There is no such job.
        TransitionRefused: The rule says so.
    """
    settings = yield from read_settings()
    for _ in range(_MOST_TRIES):
        known = ("LPOS", keys.operations(ref), operation_id)
        fields, position, time = yield Pipeline([read_command(ref), known, ("TIME",)])
        stored = parse_stored(ref, fields)
        if position is not None:
            return Outcome(Answer.ALREADY_APPLIED, (yield from read_stored(ref)))
        now_ms = milliseconds(time)
        verdict = rule(stored.record, now_ms)
        if isinstance(verdict, Answer):
            return Outcome(verdict, stored)
        all_writes = [*writes_between(stored.record, verdict.record, now_ms, lease_ms(settings)), *writes]
        command = commit_command(operation_id, stored, verdict, guards, all_writes)
        (raw,) = yield Pipeline([command])
        reply = CommitReply.parse(raw)
        if reply.what == "refused":
            return Outcome(Answer.FENCED, stored)
        if reply.what == "already":
            return Outcome(Answer.ALREADY_APPLIED, (yield from read_stored(ref)))
        if reply.what == "applied":
            return Outcome(Answer.APPLIED, stored.after(verdict.record, reply.revision, reply.sequence))
    raise StoreError(
        f"job {ref.job_id} changed {_MOST_TRIES} times while it was being changed; try again later"
    )


def read_stored(ref: JobRef) -> Operation[StoredJob]:
    """The job as it is kept.

    Raises:
        JobNotFound: There is no such job.
    """
    (fields,) = yield Pipeline([read_command(ref)])
    return parse_stored(ref, fields)


def commit_command(
    operation_id: str,
    stored: StoredJob,
    decision: Decision,
    guards: Sequence[Guard],
    writes: Sequence[Write],
) -> Command:
    """The command that commits a decision on a job as it was read."""
    record = decision.record
    ref, job = JobRef(record.job.tenant, record.job.job_id), record.job
    fields: list[Argument] = [
        "record",
        record.SerializeToString(),
        "holder",
        record.term if job.state in HELD else 0,
        "desired",
        record.desired_state,
        "attempt",
        len(job.attempts),
        "avoided",
        record.avoided_worker_id,
    ]
    if stored.revision == 0:
        fields += ["sequence", 0, "log_bytes", 0]
    arguments: list[Argument] = [
        operation_id,
        stored.revision,
        OPERATIONS_REMEMBERED,
        FEED_ENTRIES_KEPT,
        ref.job_id,
        job.spec.name,
        len(job.attempts),
        len(fields) // 2,
        *fields,
        len(guards),
    ]
    for guard in guards:
        arguments += guard
    arguments.append(len(decision.events))
    for event in decision.events:
        arguments += [event.SerializeToString(), int(event.WhichOneof("kind") == "state_changed")]
    arguments.append(len(writes))
    for write in writes:
        arguments += write
    job_keys = [keys.job(ref), keys.operations(ref), keys.events(ref), keys.feed(ref.tenant)]
    return scripts.call("commit", job_keys, arguments)


def lease_ms(settings: StoreSettings) -> int:
    """Length of a job's lease."""
    return round(settings.lease_s * 1000)
