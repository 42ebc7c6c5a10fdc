"""From waiting job to free worker."""

from collections.abc import Sequence
from dataclasses import dataclass

from gradsight.v1 import worker_pb2
from gradsight_store.operations import Answer, JobRef, Operation


@dataclass(frozen=True)
class WaitingJob:
    """A job that could start now."""

    ref: JobRef
    queue: str
    device_class: int
    """A `gradsight.v1.DeviceClass`; unspecified: any."""
    priority: int
    waiting_since_ms: int
    avoided_worker_id: str = ""


@dataclass(frozen=True)
class Assigned:
    """The term to hand to the worker with the job. FENCED: somebody else was faster, or the worker is taken."""

    answer: Answer
    term: int


def waiting_jobs(limit: int) -> Operation[list[WaitingJob]]:
    """The waiting jobs of all tenants, best first; per queue and device class at most `limit`."""
    raise NotImplementedError


def idle_workers() -> Operation[list[worker_pb2.Worker]]:
    """Workers that are alive, not draining and hold no job."""
    raise NotImplementedError


def choose(
    waiting: Sequence[WaitingJob], idle: Sequence[worker_pb2.Worker]
) -> list[tuple[WaitingJob, worker_pb2.Worker]]:
    """Pair the best jobs with workers of their queue and class; a job's avoided worker only when no other is idle."""
    raise NotImplementedError


def assign(ref: JobRef, worker_id: str, *, operation_id: str) -> Operation[Assigned]:
    """Hand a waiting job to an idle worker; then `transport.enqueue_attempt` tells the worker."""
    raise NotImplementedError
