"""Figures for the exporter: counters kept by the store itself, and active jobs at little cost.

Fields of a tenant's counters: `created:<queue>`, `jobs:<queue>:<state>`, `finished:<queue>:<state>:<fault>:<reason>`,
`waits:<queue>:<bucket>`, `wait_ms:<queue>`; every commit keeps them (`placements.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gradsight.v1 import job_pb2
from gradsight_store import keys
from gradsight_store.operations import JobRef, Operation, Pipeline
from gradsight_store.placements import WAIT_BUCKETS_S as WAIT_BUCKETS_S
from gradsight_store.records import milliseconds, parse_stored, read_command
from gradsight_store.workers import list_workers

_AT_ONCE = 500


@dataclass
class QueueWaits:
    """Histogram of the time from QUEUED to RUNNING."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(WAIT_BUCKETS_S) + 1))
    """Waits per bucket, not cumulative; bounds are `placements.WAIT_BUCKETS_S`, the last bucket is open."""
    total_s: float = 0.0
    """Sum of all waits, in seconds."""


@dataclass
class FleetFigures:
    """What the whole fleet did and does. Enum values are numbers of the `gradsight.v1` enums."""

    now_ms: int
    """The server's clock."""
    created: dict[str, int] = field(default_factory=dict)
    """Jobs created, by queue."""
    finished: dict[tuple[str, int, int, int], int] = field(default_factory=dict)
    """Jobs ended, by (queue, state, fault, reason)."""
    jobs: dict[tuple[str, int], int] = field(default_factory=dict)
    """Jobs that exist, by (queue, state)."""
    waits: dict[str, QueueWaits] = field(default_factory=dict)
    """Queue waits by queue."""
    queued: dict[str, int] = field(default_factory=dict)
    """Jobs that are QUEUED, by queue; 0 when none is."""
    oldest_waiting_s: dict[str, float] = field(default_factory=dict)
    """Age of the longest wait that lasts, by queue; absent when none waits."""
    workers: dict[tuple[str, int], int] = field(default_factory=dict)
    """Workers by (queue, state)."""


def fleet_figures(tenant: str | None = None) -> Operation[FleetFigures]:
    """Counters of one tenant or the sum of all; `queued`, `oldest_waiting_s` and `workers` are always of all."""
    time, tenants, names = yield Pipeline([("TIME",), ("SMEMBERS", keys.TENANTS), ("SMEMBERS", keys.QUEUES)])
    figures = FleetFigures(milliseconds(time))
    chosen = [tenant] if tenant is not None else sorted(name.decode() for name in tenants)
    queues = sorted(name.decode() for name in names)
    counters = [("HGETALL", keys.counters(name)) for name in chosen]
    sizes = [("ZCARD", keys.queued(queue)) for queue in queues]
    oldest = [("ZRANGE", keys.queued(queue), 0, 0, "WITHSCORES") for queue in queues]
    if counters or queues:
        replies = yield Pipeline([*counters, *sizes, *oldest])
        for reply in replies[: len(counters)]:
            _add_counters(figures, reply)
        lines = replies[len(counters) :]
        for queue, size, first in zip(queues, lines[: len(queues)], lines[len(queues) :], strict=True):
            figures.queued[queue] = size
            if first:
                figures.oldest_waiting_s[queue] = max(0.0, (figures.now_ms - float(first[1])) / 1000)
    for worker in (yield from list_workers()):
        by = (worker.queue, worker.state)
        figures.workers[by] = figures.workers.get(by, 0) + 1
    return figures


def active_jobs(since_ms: int, *, limit: int = 10_000) -> Operation[list[job_pb2.Job]]:
    """Unfinished jobs and those that ended at or after a time of the server's clock, of all tenants.

    At most `limit` of each tenant, unfinished ones first. Progress, summary and last sequence are filled in, why a
    job waits is not.
    """
    (tenants,) = yield Pipeline([("SMEMBERS", keys.TENANTS)])
    jobs: list[job_pb2.Job] = []
    for tenant in sorted(name.decode() for name in tenants):
        span = ("ZREVRANGEBYSCORE", keys.activity(tenant), "+inf", since_ms, "LIMIT", 0, limit)
        (job_ids,) = yield Pipeline([span])
        refs = [JobRef(tenant, job_id.decode()) for job_id in job_ids]
        for at in range(0, len(refs), _AT_ONCE):
            jobs += yield from _read_jobs(refs[at : at + _AT_ONCE])
    return jobs


def _read_jobs(refs: Sequence[JobRef]) -> Operation[list[job_pb2.Job]]:
    replies = yield Pipeline([read_command(ref) for ref in refs])
    return [
        parse_stored(ref, reply).job()
        for ref, reply in zip(refs, replies, strict=True)
        if reply[0] is not None
    ]


def _add_counters(figures: FleetFigures, reply: Sequence[bytes]) -> None:
    for name, value in zip(reply[::2], reply[1::2], strict=True):
        kind, queue, *labels = name.decode().split(":")
        count, numbers = int(value), [int(label) for label in labels]
        match kind, numbers:
            case "created", []:
                figures.created[queue] = figures.created.get(queue, 0) + count
            case "jobs", [state]:
                figures.jobs[queue, state] = figures.jobs.get((queue, state), 0) + count
            case "finished", [state, fault, reason]:
                by = (queue, state, fault, reason)
                figures.finished[by] = figures.finished.get(by, 0) + count
            case "waits", [bucket]:
                figures.waits.setdefault(queue, QueueWaits()).buckets[bucket] += count
            case "wait_ms", []:
                figures.waits.setdefault(queue, QueueWaits()).total_s += count / 1000
