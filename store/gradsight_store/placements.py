"""Where a job stands in the indexes: a pure function of its record. A change of the record tells what to write.

`writes_between(old, new)` compares the placements of two records; so no rule can forget an index, and
`sweep.reconcile` can tell from a record alone where the job must be found.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from gradsight.v1 import spec_pb2, state_pb2
from gradsight_store import keys, rules
from gradsight_store.operations import Argument, JobRef
from gradsight_store.v1 import record_pb2

PRIORITY_STEP = 10**13
"""Ranks lie further apart than times in milliseconds are long, and all sums are exact in a double."""
MAX_PRIORITY = 100
UNFINISHED_SCORE = 10**15
WAIT_BUCKETS_S: tuple[float, ...] = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 14400)
DEVICE_CLASSES = (
    spec_pb2.DEVICE_CLASS_UNSPECIFIED,
    spec_pb2.DEVICE_CLASS_CPU,
    spec_pb2.DEVICE_CLASS_CUDA,
)


class Score(NamedTuple):
    """A score in a sorted set; `from_now`: the server adds its clock's milliseconds when it writes."""

    value: int
    from_now: bool = False


class Write(NamedTuple):
    """One verb of `commit.lua` with its arguments."""

    verb: str
    key: str
    first: Argument = ""
    second: Argument = ""


@dataclass(frozen=True)
class Placements:
    """Scores by (sorted set, member), and the worker's slot that the job fills: (worker id, message id)."""

    scores: dict[tuple[str, str], Score] = field(default_factory=dict)
    slot: tuple[str, str] | None = None


def job_ref(record: record_pb2.JobRecord) -> JobRef:
    """Which job the record is of."""
    return JobRef(record.job.tenant, record.job.job_id)


def placements(record: record_pb2.JobRecord, lease_ms: int) -> Placements:
    """Everywhere the job must stand. A record that was never written (no state) stands nowhere."""
    job, ref = record.job, job_ref(record)
    if job.state == state_pb2.JOB_STATE_UNSPECIFIED:
        return Placements()
    member = keys.member(ref)
    ended = Score(job.end_time.ToMilliseconds() if job.done else UNFINISHED_SCORE)
    scores = {
        (keys.jobs(ref.tenant), ref.job_id): Score(0),
        (keys.jobs_of_name(ref.tenant, job.spec.name), ref.job_id): Score(0),
        (keys.jobs_in_state(ref.tenant, job.state), ref.job_id): Score(0),
        (keys.activity(ref.tenant), ref.job_id): ended,
    }
    if job.state in rules.HELD:
        scores[keys.LEASES, member] = Score(lease_ms, from_now=True)
    if job.state == state_pb2.JOB_STATE_QUEUED:
        since = Score(record.waiting_since_ms, from_now=record.waiting_since_ms == 0)
        scores[keys.queued(job.spec.queue), member] = since
        key, score = _line(record, since)
        scores[key, member] = score
    slot = (record.worker_id, keys.message_id(ref, record.term)) if record.worker_id else None
    return Placements(scores, slot)


def writes_between(
    old: record_pb2.JobRecord, new: record_pb2.JobRecord, now_ms: int, lease_ms: int
) -> list[Write]:
    """What to write so that the indexes and counters follow the change."""
    before, after = placements(old, lease_ms), placements(new, lease_ms)
    writes = [Write("zrem", key, member) for key, member in before.scores.keys() - after.scores.keys()]
    for (key, member), score in after.scores.items():
        if before.scores.get((key, member)) != score:
            writes.append(Write("zadd_from_now" if score.from_now else "zadd", key, member, score.value))
    if before.slot and before.slot != after.slot:
        worker_id, message = before.slot
        writes.append(Write("empty_slot", keys.worker(worker_id), message))
    if after.slot and before.slot != after.slot:
        worker_id, message = after.slot
        writes.append(Write("fill_slot", keys.worker(worker_id), message))
    writes += _counts(old, new, now_ms)
    if (before.slot and not after.slot) or (_can_start(new) and not _can_start(old)):
        writes.append(Write("wake", keys.WAKE))
    return writes


def waiting_score(priority: int, waiting_since_ms: int) -> int:
    """Score in a waiting line: higher priority first, then the longer wait."""
    return (MAX_PRIORITY - priority) * PRIORITY_STEP + waiting_since_ms


def parse_waiting_score(score: float) -> tuple[int, int]:
    """Priority and waiting_since_ms of a score in a waiting line."""
    rank, since = divmod(int(score), PRIORITY_STEP)
    return MAX_PRIORITY - rank, since


def wait_bucket(seconds: float) -> int:
    """Place of a queue wait in the histogram; the last bucket is open."""
    return next((i for i, bound in enumerate(WAIT_BUCKETS_S) if seconds <= bound), len(WAIT_BUCKETS_S))


def _can_start(record: record_pb2.JobRecord) -> bool:
    queued = record.job.state == state_pb2.JOB_STATE_QUEUED
    return queued and not record.worker_id and not record.not_before_ms


def _line(record: record_pb2.JobRecord, since: Score) -> tuple[str, Score]:
    """The one line that a QUEUED job stands in."""
    if record.worker_id:
        return keys.ASSIGNMENTS, Score(record.assignment_deadline_ms)
    if record.not_before_ms:
        return keys.BACK_OFFS, Score(record.not_before_ms)
    spec = record.job.spec
    score = Score(waiting_score(spec.priority, since.value), since.from_now)
    return keys.waiting(spec.queue, spec.resources.device_class, spec.model.recipe.name), score


def _counts(old: record_pb2.JobRecord, new: record_pb2.JobRecord, now_ms: int) -> Iterator[Write]:
    if old.job.state == new.job.state:
        return
    key, queue = keys.counters(new.job.tenant), new.job.spec.queue
    if old.job.state == state_pb2.JOB_STATE_UNSPECIFIED:
        yield Write("count", key, f"created:{queue}", 1)
        yield Write("sadd", keys.TENANTS, new.job.tenant)
        yield Write("sadd", keys.QUEUES, queue)
    else:
        yield Write("count", key, f"jobs:{queue}:{old.job.state}", -1)
    yield Write("count", key, f"jobs:{queue}:{new.job.state}", 1)
    if new.job.state == state_pb2.JOB_STATE_RUNNING:
        wait_ms = max(0, now_ms - new.waiting_since_ms)
        yield Write("count", key, f"waits:{queue}:{wait_bucket(wait_ms / 1000)}", 1)
        yield Write("count", key, f"wait_ms:{queue}", wait_ms)
    if new.job.done:
        error = new.job.error
        yield Write("count", key, f"finished:{queue}:{new.job.state}:{error.fault}:{error.reason}", 1)
        yield Write("forget_later", keys.operations(job_ref(new)))
