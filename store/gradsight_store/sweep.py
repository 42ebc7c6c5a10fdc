"""What time does to jobs and workers: lapses, losses, back-offs. Any replica may run it, at any time."""

import enum
from dataclasses import dataclass

from gradsight_store.operations import JobRef, Operation


class SweptKind(enum.Enum):
    """What a sweep did."""

    ASSIGNMENT_LAPSED = "assignment_lapsed"
    ATTEMPT_LOST = "attempt_lost"
    JOB_FAILED = "job_failed"
    JOB_CANCELLED = "job_cancelled"
    BACK_OFF_ENDED = "back_off_ended"
    WORKER_LOST = "worker_lost"
    REINDEXED = "reindexed"


@dataclass(frozen=True)
class Swept:
    """One thing that a sweep did: to a job, or to a worker."""

    what: SweptKind
    ref: JobRef | None = None
    worker_id: str = ""


def sweep() -> Operation[list[Swept]]:
    """Do what is due by the server's clock. Call it about every second."""
    raise NotImplementedError


def reconcile() -> Operation[list[Swept]]:
    """Find unfinished jobs that no index holds and put them back. Call it about every minute."""
    raise NotImplementedError
