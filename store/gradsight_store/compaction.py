"""Keeps a job's log in the store bounded: an old prefix becomes a segment among the artifacts."""

from gradsight_store.artifacts import Artifacts
from gradsight_store.operations import JobRef, Operation


def overlong_logs(limit: int = 100) -> Operation[list[JobRef]]:
    """Jobs whose log has passed its bound."""
    raise NotImplementedError


def compact(ref: JobRef, artifacts: Artifacts) -> Operation[bool]:
    """Move a prefix of the job's log; False when it was within its bound or somebody else was faster."""
    raise NotImplementedError
