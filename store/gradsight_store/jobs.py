"""Jobs as clients see them: create, read, list, cancel."""

import base64
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradsight.v1 import artifact_pb2, job_pb2, spec_pb2, state_pb2
from gradsight_store import keys, rules
from gradsight_store.commits import CommitReply, Guard, change, commit_command, lease_ms
from gradsight_store.errors import JobNotFound, RequestIdReused, StoreError
from gradsight_store.operations import Command, JobRef, Operation, Pipeline, read_settings
from gradsight_store.placements import Write, writes_between
from gradsight_store.records import (
    Changed,
    StoredJob,
    milliseconds,
    parse_stored,
    read_command,
    stamp_creation,
)
from gradsight_store.v1 import record_pb2
from gradsight_store.waiting import fill_waiting

REQUEST_IDS_KEPT_S = 7 * 24 * 3600
_BASE32 = "0123456789abcdefghijklmnopqrstuv"
_TIME_DIGITS = 9
_RANDOM_DIGITS = 6
_JOB_ID = re.compile(r"[a-z0-9-]{1,64}")
_SCANNED_AT_ONCE = 200
_MOST_SCANNED = 20_000


@dataclass(frozen=True)
class Created:
    """A job, and whether this very request made it."""

    job: job_pb2.Job
    created: bool


@dataclass(frozen=True)
class Page:
    """Jobs, newest first. An empty token says that this was the last page; a page may be short of its size."""

    jobs: list[job_pb2.Job]
    next_page_token: str


def create_job(
    tenant: str, spec: spec_pb2.JobSpec, *, request_id: str, request_digest: str, operation_id: str
) -> Operation[Created]:
    """Record a job and put it in its queue, all at once and in one round trip; one more when it extends another.

    Args:
        tenant: Owner.
        spec: What to train, defaults filled in.
        request_id: The same id with the same digest gives the same job, for a week. Empty: the operation id is used.
        request_digest: Digest over what the client asked for, hexadecimal.
        operation_id: Knows this very call again.

    Raises:
        RequestIdReused: The request id came with another digest before.
    """
    settings = yield from read_settings()
    ref = JobRef(tenant, new_job_id())
    extended = yield from _last_state(tenant, spec.start.extended_job_id)
    decision = rules.create(tenant, ref.job_id, spec, request_digest, extended)
    request_key = keys.request(tenant, request_id or f"~{operation_id}")
    unwritten = StoredJob(record_pb2.JobRecord(), revision=0, sequence=0)
    remember = Write("remember", request_key, f"{request_digest} {ref.job_id}", REQUEST_IDS_KEPT_S)
    writes = [*writes_between(unwritten.record, decision.record, 0, lease_ms(settings)), remember]
    guards = [Guard("request_unknown", request_key)]
    (raw,) = yield Pipeline([commit_command(operation_id, unwritten, decision, guards, writes)])
    reply = CommitReply.parse(raw)
    if reply.what in ("applied", "already"):  # already: our own, sent again because its reply was lost
        stamp_creation(decision.record, reply.now_ms)
        job = StoredJob(decision.record, reply.revision, reply.sequence).job()
        job.waiting.since.CopyFrom(job.create_time)
        return Created(job, created=True)
    if reply.what != "request_known":
        raise StoreError(f"job {ref.job_id} could not be created: {reply.what}; try again")
    digest, _, job_id = reply.detail.partition(" ")
    if digest != request_digest:
        raise RequestIdReused(request_id, job_id)
    return Created((yield from get_job(JobRef(tenant, job_id))), created=False)


def get_job(ref: JobRef) -> Operation[job_pb2.Job]:
    """The job with progress, summary, last sequence and, while QUEUED, why it waits.

    Raises:
        JobNotFound: There is no such job.
    """
    fields, time_reply = yield Pipeline([read_command(ref), ("TIME",)])
    stored = parse_stored(ref, fields)
    (job,) = yield from _shown([stored], milliseconds(time_reply))
    return job


def list_jobs(
    tenant: str,
    *,
    page_size: int,
    page_token: str = "",
    states: Sequence[int] = (),
    labels: Mapping[str, str] | None = None,
    name: str = "",
    queue: str = "",
) -> Operation[Page]:
    """A page of the tenant's jobs, newest first.

    Args:
        tenant: Owner.
        page_size: Most jobs in the page, from 1.
        page_token: The token of the page before; empty: the first page.
        states: Only jobs in one of these `JobState`s. Empty: all.
        labels: Only jobs with all of these labels.
        name: Only jobs of this name. Empty: all.
        queue: Only jobs of this queue. Empty: all.

    Raises:
        ValueError: The token is malformed.
    """
    before = _parse_token(page_token)
    found: list[StoredJob] = []
    scanned = now_ms = 0
    while scanned < _MOST_SCANNED:
        batch = _SCANNED_AT_ONCE if labels or queue or (name and states) else page_size + 1 - len(found)
        time_reply, *replies = yield Pipeline([("TIME",), *_id_commands(tenant, name, states, before, batch)])
        now_ms = milliseconds(time_reply)
        ids = sorted({job_id.decode() for reply in replies for job_id in reply}, reverse=True)[:batch]
        jobs = yield from _read_many([JobRef(tenant, job_id) for job_id in ids])
        found += [job for job in jobs if _matches(job.record.job, states, labels or {}, name, queue)]
        if len(found) > page_size or len(ids) < batch:
            break
        scanned += len(ids)
        before = ids[-1]
    page = found[:page_size]
    if len(found) > page_size:
        token = _token(page[-1].record.job.job_id)
    else:
        token = _token(before) if scanned >= _MOST_SCANNED else ""
    return Page((yield from _shown(page, now_ms)), token)


def request_cancel(ref: JobRef, *, operation_id: str) -> Operation[Changed]:
    """Ask a job to end: QUEUED becomes CANCELLED, RUNNING becomes CANCELLING and its holder is told.

    ALREADY_APPLIED when it was asked before, whoever asked.

    Raises:
        JobNotFound: There is no such job.
        TransitionRefused: The job has already succeeded or failed.
    """
    outcome = yield from change(ref, rules.cancel, operation_id=operation_id)
    return Changed(outcome.answer, outcome.stored.job())


def _last_state(tenant: str, job_id: str) -> Operation[artifact_pb2.Artifact | None]:
    """The checkpoint that a job which succeeded left behind. None: there is nothing to go on with."""
    if not job_id:
        return None
    ref = JobRef(tenant, job_id)
    (fields,) = yield Pipeline([read_command(ref)])
    try:
        record = parse_stored(ref, fields).record
    except JobNotFound:
        return None
    succeeded = record.job.state == state_pb2.JOB_STATE_SUCCEEDED
    return record.checkpoints[0] if succeeded and record.checkpoints else None


def new_job_id() -> str:
    """Identity of a new job: sorts by time to the millisecond, unique by 30 random bits beside it."""
    number, digits = time.time_ns() // 1_000_000, []
    for _ in range(_TIME_DIGITS):
        number, digit = divmod(number, len(_BASE32))
        digits.append(_BASE32[digit])
    random = secrets.token_bytes(_RANDOM_DIGITS)
    return "".join(reversed(digits)) + "".join(_BASE32[byte % len(_BASE32)] for byte in random)


def _shown(jobs: Sequence[StoredJob], now_ms: int) -> Operation[list[job_pb2.Job]]:
    shown = [stored.job() for stored in jobs]
    queued = [
        (stored.record, job)
        for stored, job in zip(jobs, shown, strict=True)
        if job.state == state_pb2.JOB_STATE_QUEUED
    ]
    yield from fill_waiting(queued, now_ms)
    return shown


def _read_many(refs: Sequence[JobRef]) -> Operation[list[StoredJob]]:
    if not refs:
        return []
    replies = yield Pipeline([read_command(ref) for ref in refs])
    return [
        parse_stored(ref, reply) for ref, reply in zip(refs, replies, strict=True) if reply[0] is not None
    ]


def _id_commands(tenant: str, name: str, states: Sequence[int], before: str, batch: int) -> list[Command]:
    """Commands that list ids below `before`, newest first, from the narrowest index."""
    if name:
        indexes = [keys.jobs_of_name(tenant, name)]
    elif states:
        indexes = [keys.jobs_in_state(tenant, state) for state in states]
    else:
        indexes = [keys.jobs(tenant)]
    highest = f"({before}" if before else "+"
    return [("ZREVRANGEBYLEX", index, highest, "-", "LIMIT", 0, batch) for index in indexes]


def _matches(
    job: job_pb2.Job, states: Sequence[int], labels: Mapping[str, str], name: str, queue: str
) -> bool:
    return (
        (not states or job.state in states)
        and (not name or job.spec.name == name)
        and (not queue or job.spec.queue == queue)
        and all(job.spec.labels.get(key) == value for key, value in labels.items())
    )


def _token(job_id: str) -> str:
    return base64.urlsafe_b64encode(job_id.encode()).decode().rstrip("=")


def _parse_token(token: str) -> str:
    if not token:
        return ""
    try:
        job_id = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except ValueError:
        job_id = ""
    if not _JOB_ID.fullmatch(job_id):
        raise ValueError(f"page_token: got {token[:80]!r}, allowed: the token of an earlier page, or none")
    return job_id
