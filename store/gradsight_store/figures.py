"""Figures for the exporter: counters kept by the store itself, and active jobs at little cost."""

from dataclasses import dataclass, field

from gradsight.v1 import job_pb2
from gradsight_store.operations import Operation

WAIT_BUCKETS_S: tuple[float, ...] = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 14400)
"""Upper bounds of the histogram of queue waits, in seconds; a last bucket is open."""


@dataclass
class QueueWaits:
    """Histogram of the time from QUEUED to RUNNING."""

    buckets: list[int]
    """Waits per bucket, not cumulative: one more than WAIT_BUCKETS_S has bounds."""
    total_s: float


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
    """Jobs that are QUEUED, by queue."""
    oldest_waiting_s: dict[str, float] = field(default_factory=dict)
    """Age of the longest wait that lasts, by queue; absent when none waits."""
    workers: dict[tuple[str, int], int] = field(default_factory=dict)
    """Workers by (queue, state)."""


def fleet_figures(tenant: str | None = None) -> Operation[FleetFigures]:
    """Counters of one tenant or of all; `queued`, `oldest_waiting_s` and `workers` are of all."""
    raise NotImplementedError


def active_jobs(since_ms: int, *, limit: int = 10_000) -> Operation[list[job_pb2.Job]]:
    """Unfinished jobs and those that ended at or after a time of the server's clock, of all tenants."""
    raise NotImplementedError
