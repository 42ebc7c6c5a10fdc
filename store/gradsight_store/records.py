"""Jobs as they are kept (a hash with the record, the figures and counters) and as they are shown."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gradsight.v1 import artifact_pb2, job_pb2
from gradsight_store import keys
from gradsight_store.errors import JobNotFound
from gradsight_store.operations import Answer, Command, JobRef
from gradsight_store.v1 import record_pb2

_FIELDS = ("record", "revision", "sequence", "created", "figures")


@dataclass(frozen=True)
class Changed:
    """Outcome of a mutation: the answer, and the job as it is now, figures included.

    `dropped` are checkpoints that nothing refers to any more; their files may be deleted.
    """

    answer: Answer
    job: job_pb2.Job
    dropped: tuple[artifact_pb2.Artifact, ...] = ()


@dataclass(frozen=True)
class StoredJob:
    """A job as it was read."""

    record: record_pb2.JobRecord
    revision: int
    """Counts the changes of the record; 0: it was never written."""
    sequence: int
    """Sequence of the newest event."""
    figures: bytes = b""
    """A serialized Job with only progress, summary, verdict and the counts of findings."""

    def after(self, record: record_pb2.JobRecord, revision: int, sequence: int) -> "StoredJob":
        """The job after a change of its record."""
        return replace(self, record=record, revision=revision, sequence=sequence)

    def job(self) -> job_pb2.Job:
        """The public job, figures and last sequence filled in; why it waits is not."""
        job = job_pb2.Job()
        job.CopyFrom(self.record.job)
        job.MergeFromString(self.figures)
        job.last_sequence = self.sequence
        return job


def read_command(ref: JobRef) -> Command:
    """The command whose reply `parse_stored` reads."""
    return ("HMGET", keys.job(ref), *_FIELDS)


def parse_stored(ref: JobRef, reply: Sequence[bytes | None]) -> StoredJob:
    """A job from the reply to `read_command`.

    Raises:
        JobNotFound: There is no such job.
    """
    record_bytes, revision, sequence, created, figures = reply
    if record_bytes is None or revision is None or sequence is None or created is None:
        raise JobNotFound(ref.job_id)
    record = record_pb2.JobRecord.FromString(record_bytes)
    stamp_creation(record, int(created))
    return StoredJob(record, int(revision), int(sequence), figures or b"")


def stamp_creation(record: record_pb2.JobRecord, created_ms: int) -> None:
    """Fill in the times that only the server knew when the job was created."""
    if not record.job.HasField("create_time"):
        record.job.create_time.FromMilliseconds(created_ms)
        record.waiting_since_ms = created_ms


def milliseconds(time_reply: Sequence[bytes]) -> int:
    """The server's clock from a reply to TIME."""
    return int(time_reply[0]) * 1000 + int(time_reply[1]) // 1000
