"""Jobs as clients see them: create, read, list, cancel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradsight.v1 import job_pb2, spec_pb2
from gradsight_store.operations import JobRef, Operation
from gradsight_store.records import Changed


@dataclass(frozen=True)
class Created:
    """A job, and whether this very request made it."""

    job: job_pb2.Job
    created: bool


@dataclass(frozen=True)
class Page:
    """Jobs, newest first. An empty token says that this was the last page."""

    jobs: list[job_pb2.Job]
    next_page_token: str


def create_job(
    tenant: str, spec: spec_pb2.JobSpec, *, request_id: str, request_digest: str, operation_id: str
) -> Operation[Created]:
    """Record a job and put it in the queue, in one round trip."""
    raise NotImplementedError


def get_job(ref: JobRef) -> Operation[job_pb2.Job]:
    """The job with progress, summary, last sequence and, while QUEUED, why it waits."""
    raise NotImplementedError


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
    """A page of the tenant's jobs, newest first."""
    raise NotImplementedError


def request_cancel(ref: JobRef, *, operation_id: str) -> Operation[Changed]:
    """Ask a job to end."""
    raise NotImplementedError
