"""What time does to jobs and workers: lapses, losses, ends of back-offs. Any replica may run it, at any time.

Every step is a compare-and-set with the reason as a guard, so losing a race is fine and silent.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from gradsight.v1 import state_pb2
from gradsight_store import keys, rules
from gradsight_store.commits import Guard, Outcome, Rule, change, lease_ms
from gradsight_store.errors import JobNotFound
from gradsight_store.operations import (
    Answer,
    JobRef,
    Operation,
    Pipeline,
    new_operation_id,
    read_settings,
)
from gradsight_store.placements import Placements, Write, placements
from gradsight_store.records import milliseconds, parse_stored, read_command
from gradsight_store.v1 import record_pb2
from gradsight_store.workers import free_worker, list_workers, removal_command

_AT_ONCE = 200
_UNFINISHED = (state_pb2.JOB_STATE_QUEUED, *sorted(rules.HELD))
_WORKER_LOST = state_pb2.JobError(
    reason=state_pb2.JOB_ERROR_REASON_WORKER_LOST,
    fault=state_pb2.FAULT_INFRA,
    message="the worker stopped renewing its lease: it died, was cut off or stood still",
    retryable=True,
)


class SweptKind(enum.Enum):
    """What a sweep did."""

    ASSIGNMENT_LAPSED = "assignment_lapsed"
    ATTEMPT_LOST = "attempt_lost"
    JOB_FAILED = "job_failed"
    JOB_CANCELLED = "job_cancelled"
    BACK_OFF_ENDED = "back_off_ended"
    WORKER_LOST = "worker_lost"
    WORKER_FREED = "worker_freed"
    REINDEXED = "reindexed"


@dataclass(frozen=True)
class Swept:
    """One thing that a sweep did: to a job, or to a worker."""

    what: SweptKind
    ref: JobRef | None = None
    worker_id: str = ""


def sweep() -> Operation[list[Swept]]:
    """Do what is due by the server's clock. Call it about every second; one round trip when nothing is due.

    After a restart of the store nobody could renew for a while: for one lease, nothing is taken for lost.
    """
    lines = [keys.ASSIGNMENTS, keys.BACK_OFFS, keys.LEASES, keys.WORKERS]
    time, server, seen, *replies = yield Pipeline(
        [
            ("TIME",),
            ("INFO", "server"),
            ("HMGET", keys.SERVER_RUN, "run_id", "since_ms"),
            *(("ZRANGE", line, 0, _AT_ONCE - 1, "WITHSCORES") for line in lines),
        ]
    )
    now_ms = milliseconds(time)
    assignments, back_offs, leases, workers = (_due(reply, now_ms) for reply in replies)
    swept = yield from _lapse(assignments)
    swept += yield from _wake(back_offs)
    if (yield from _leases_can_be_judged(_run_id(server), seen, now_ms)):
        swept += yield from _lose(leases)
        swept += yield from _remove_workers(workers)
    return swept


def reconcile() -> Operation[list[Swept]]:
    """Put unfinished jobs back that stand in no index, and empty slots whose job knows nothing of it.

    No commit leaves such a thing behind; it mends what a damaged or partly restored store lacks. Call it about
    every minute.
    """
    settings = yield from read_settings()
    (tenants,) = yield Pipeline([("SMEMBERS", keys.TENANTS)])
    swept: list[Swept] = []
    for tenant in sorted(name.decode() for name in tenants):
        lists = yield Pipeline(
            [("ZRANGE", keys.jobs_in_state(tenant, state), 0, -1) for state in _UNFINISHED]
        )
        refs = [JobRef(tenant, job_id.decode()) for job_ids in lists for job_id in job_ids]
        for at in range(0, len(refs), _AT_ONCE):
            swept += yield from _reindex(refs[at : at + _AT_ONCE], lease_ms(settings))
    swept += yield from _empty_stale_slots()
    return swept


def _lapse(due: Sequence[bytes]) -> Operation[list[Swept]]:
    swept = []
    for member in due:
        outcome = yield from _change_if_due(keys.ASSIGNMENTS, member, rules.lapse)
        if outcome is not None:
            swept.append(Swept(SweptKind.ASSIGNMENT_LAPSED, keys.parse_member(member)))
    return swept


def _wake(due: Sequence[bytes]) -> Operation[list[Swept]]:
    swept = []
    for member in due:
        outcome = yield from _change_if_due(keys.BACK_OFFS, member, rules.wake)
        if outcome is not None:
            swept.append(Swept(SweptKind.BACK_OFF_ENDED, keys.parse_member(member)))
    return swept


def _lose(due: Sequence[bytes]) -> Operation[list[Swept]]:
    swept = []
    kinds = {
        state_pb2.JOB_STATE_QUEUED: SweptKind.ATTEMPT_LOST,
        state_pb2.JOB_STATE_FAILED: SweptKind.JOB_FAILED,
        state_pb2.JOB_STATE_CANCELLED: SweptKind.JOB_CANCELLED,
    }

    def rule(record: record_pb2.JobRecord, now_ms: int) -> rules.Verdict:
        return rules.lose(record, now_ms, error=_WORKER_LOST)

    for member in due:
        outcome = yield from _change_if_due(keys.LEASES, member, rule)
        if outcome is not None:
            swept.append(Swept(kinds[outcome.stored.record.job.state], keys.parse_member(member)))
    return swept


def _remove_workers(due: Sequence[bytes]) -> Operation[list[Swept]]:
    ids = [worker_id.decode() for worker_id in due]
    if not ids:
        return []
    removed = yield Pipeline([removal_command(worker_id, only_expired=True) for worker_id in ids])
    return [
        Swept(SweptKind.WORKER_LOST, worker_id=worker_id)
        for worker_id, gone in zip(ids, removed, strict=True)
        if gone
    ]


def _change_if_due(line: str, member: bytes, rule: Rule) -> Operation[Outcome | None]:
    """The outcome when this very call changed the job. A member whose job is gone is dropped."""
    ref = keys.parse_member(member)
    guard = Guard("expired", line, member)
    try:
        outcome = yield from change(ref, rule, operation_id=new_operation_id(), guards=[guard])
    except JobNotFound:
        yield Pipeline([("ZREM", line, member)])
        return None
    return outcome if outcome.answer is Answer.APPLIED else None


def _due(reply: Sequence[bytes], now_ms: int) -> list[bytes]:
    pairs = zip(reply[::2], reply[1::2], strict=True)
    return [member for member, score in pairs if float(score) <= now_ms]


def _run_id(info: bytes) -> bytes:
    lines = (line.partition(b":") for line in info.splitlines())
    return next((value.strip() for name, _, value in lines if name == b"run_id"), b"")


def _leases_can_be_judged(run_id: bytes, seen: Sequence[bytes | None], now_ms: int) -> Operation[bool]:
    settings = yield from read_settings()
    if seen[0] != run_id:
        yield Pipeline([("HSET", keys.SERVER_RUN, "run_id", run_id, "since_ms", now_ms)])
        return False
    grace_ms = 1000 * max(settings.lease_s, settings.worker_lease_s)
    return now_ms - int(seen[1] or 0) >= grace_ms


def _reindex(refs: Sequence[JobRef], lease: int) -> Operation[list[Swept]]:
    replies = yield Pipeline([read_command(ref) for ref in refs])
    jobs = [
        parse_stored(ref, reply) for ref, reply in zip(refs, replies, strict=True) if reply[0] is not None
    ]
    wanted = [(job, placements(job.record, lease)) for job in jobs]
    pairs = [pair for _, places in wanted for pair in places.scores]
    scores = iter((yield Pipeline([("ZSCORE", key, member) for key, member in pairs])) if pairs else [])
    swept = []
    for job, places in wanted:
        missing = [pair for pair in places.scores if next(scores) is None]
        if missing:
            ref = JobRef(job.record.job.tenant, job.record.job.job_id)
            mended = yield from _mend(ref, missing, places)
            swept += [Swept(SweptKind.REINDEXED, ref)] if mended else []
    return swept


def _mend(ref: JobRef, missing: Sequence[tuple[str, str]], places: Placements) -> Operation[bool]:
    """Write the missing entries, if the job still belongs where it did."""

    def rule(record: record_pb2.JobRecord, now_ms: int) -> rules.Verdict:
        unchanged = placements(record, 0).scores.keys() == places.scores.keys()
        return rules.Decision(record) if unchanged else Answer.FENCED

    writes = [
        Write("zadd_from_now" if score.from_now else "zadd", key, member, score.value)
        for (key, member), score in places.scores.items()
        if (key, member) in missing
    ]
    outcome = yield from change(
        ref, rule, operation_id=new_operation_id(), writes=[*writes, Write("wake", keys.WAKE)]
    )
    return outcome.answer is Answer.APPLIED


def _empty_stale_slots() -> Operation[list[Swept]]:
    holders = [worker for worker in (yield from list_workers()) if worker.job_id]
    if not holders:
        return []
    slots = yield Pipeline([("HGET", keys.worker(worker.worker_id), "slot") for worker in holders])
    swept = []
    for worker, slot in zip(holders, slots, strict=True):
        message = (slot or b"").decode()
        if not message:
            continue
        ref, term = keys.parse_message(message)
        (fields,) = yield Pipeline([read_command(ref)])
        record = parse_stored(ref, fields).record if fields[0] is not None else record_pb2.JobRecord()
        if (record.worker_id, record.term) != (worker.worker_id, term):
            freed = yield from free_worker(worker.worker_id, message)
            swept += [Swept(SweptKind.WORKER_FREED, worker_id=worker.worker_id)] if freed else []
    return swept
