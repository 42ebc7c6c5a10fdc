"""Jobs as they are kept and as they are shown."""

from dataclasses import dataclass

from gradsight.v1 import artifact_pb2, job_pb2
from gradsight_store.operations import Answer


@dataclass(frozen=True)
class Changed:
    """Outcome of a mutation: the answer, and the job as it is now, figures included.

    `dropped` are checkpoints that nothing refers to any more; their files may be deleted.
    """

    answer: Answer
    job: job_pb2.Job
    dropped: tuple[artifact_pb2.Artifact, ...] = ()
