"""What the holder of a job may do; everything is checked against the term."""

from collections.abc import Sequence
from dataclasses import dataclass

from gradsight.v1 import artifact_pb2, event_pb2, state_pb2
from gradsight_store.operations import Answer, JobRef, Operation
from gradsight_store.projection import JobProjection
from gradsight_store.records import Changed
from gradsight_store.v1 import record_pb2


@dataclass(frozen=True)
class Claim:
    """An attempt that may start. `record.job` carries progress and summary of earlier attempts. FENCED: do not start."""

    answer: Answer
    record: record_pb2.JobRecord
    attempt: int
    resumed_at_step: int


@dataclass(frozen=True)
class Renewal:
    """FENCED: the lease is gone. Else what the holder is asked to do, a `DesiredState`."""

    answer: Answer
    desired_state: int


@dataclass(frozen=True)
class Appended:
    """Sequence of the job's newest event; what the holder is asked to do comes with it, as in a renewal."""

    answer: Answer
    last_sequence: int
    desired_state: int


def claim(ref: JobRef, term: int, *, worker_id: str, device: str, operation_id: str) -> Operation[Claim]:
    """Start the attempt that was assigned: QUEUED becomes RUNNING and the lease begins."""
    raise NotImplementedError


def renew_lease(ref: JobRef, term: int) -> Operation[Renewal]:
    """Keep the job for another lease, counted from now on the server's clock."""
    raise NotImplementedError


def append_events(
    ref: JobRef,
    term: int,
    events: Sequence[event_pb2.JobEvent],
    projection: JobProjection,
    *,
    operation_id: str,
) -> Operation[Appended]:
    """Append facts to the job's log and replace its figures; all or nothing."""
    raise NotImplementedError


def record_checkpoint(
    ref: JobRef, term: int, artifact: artifact_pb2.Artifact, seconds: float, *, operation_id: str
) -> Operation[Changed]:
    """Make a stored file the checkpoint to resume from; the spec's `checkpoint.keep` newest stay."""
    raise NotImplementedError


def finish(
    ref: JobRef,
    term: int,
    *,
    state: int,
    error: state_pb2.JobError | None = None,
    result: Sequence[artifact_pb2.Artifact] = (),
    operation_id: str,
) -> Operation[Changed]:
    """End the job: SUCCEEDED, FAILED or CANCELLED. A job that was asked to cancel ends CANCELLED whatever is said."""
    raise NotImplementedError


def release(ref: JobRef, term: int, *, error: state_pb2.JobError, operation_id: str) -> Operation[Changed]:
    """Give the job back: QUEUED again, or FAILED when the budget of losses is used up."""
    raise NotImplementedError
