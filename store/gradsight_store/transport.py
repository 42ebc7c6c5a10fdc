"""RQ carries one message per attempt: "someone please try this job in this term". It decides nothing."""

from collections.abc import Callable
from typing import ClassVar

import redis
from rq import Queue
from rq.job import Job

from gradsight_store.operations import JobRef, Operation
from gradsight_store.settings import StoreSettings


class AttemptJob(Job):
    """An RQ job that runs `entry_point(ref, term)` with what its id says, whatever the entry contains."""

    entry_point: ClassVar[Callable[[JobRef, int], None] | None] = None
    """Set by the worker process before it works; a plain function or bound method."""


class AttemptQueue(Queue):
    """An RQ queue that hands out AttemptJobs and survives entries that are not even ids."""


def queue_name(worker_id: str) -> str:
    """Name of a worker's own RQ queue."""
    raise NotImplementedError


def message_id(ref: JobRef, term: int) -> str:
    """Id of the RQ entry for a term of a job."""
    raise NotImplementedError


def parse_message(text: str) -> tuple[JobRef, int]:
    """Job and term that a message id names.

    Raises:
        ValueError: It is not a message id.
    """
    raise NotImplementedError


def enqueue_attempt(worker_id: str, ref: JobRef, term: int) -> Operation[None]:
    """Put the message in the worker's RQ queue, once: one round trip, safe to repeat."""
    raise NotImplementedError


def rq_connection(settings: StoreSettings) -> redis.Redis:
    """A client for RQ alone; RQ raises its socket timeout above its blocking reads."""
    raise NotImplementedError
