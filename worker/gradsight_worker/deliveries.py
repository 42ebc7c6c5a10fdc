"""Files that a trainer made, on their way into the artifacts: checkpoints and the result."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gradsight.v1 import artifact_pb2
from gradsight_store.artifacts import Artifacts
from gradsight_store.errors import StorageFull
from gradsight_worker.training.channel import ResultFile

_TRIES = 3
_PAUSE_S = 0.5


def store_checkpoint(artifacts: Artifacts, tenant: str, path: Path) -> dict[str, Any]:
    """Store a checkpoint's file and remove it here. In words of JSON, for `checkpoint_from`."""
    stored = artifacts.put_file(tenant, path, immutable=True)
    path.unlink()
    return {"digest": stored.digest, "size_bytes": stored.size_bytes}


def checkpoint_from(answer: dict[str, Any], *, job_id: str, step: int) -> artifact_pb2.Artifact:
    """The checkpoint as the store will know it."""
    return artifact_pb2.Artifact(
        kind=artifact_pb2.ARTIFACT_KIND_CHECKPOINT,
        filename=f"step-{step}.safetensors",
        job_id=job_id,
        step=step,
        digest=answer["digest"],
        size_bytes=answer["size_bytes"],
    )


def store_result(artifacts: Artifacts, tenant: str, files: Sequence[ResultFile]) -> list[dict[str, Any]]:
    """Store the files of a result, patiently. In words of JSON, for `result_from`."""
    return [_store_patiently(artifacts, tenant, file) for file in files]


def result_from(answer: Iterable[dict[str, Any]], *, job_id: str) -> list[artifact_pb2.Artifact]:
    """The result's files as the store will know them."""
    return [artifact_pb2.Artifact(job_id=job_id, **fields) for fields in answer]


def _store_patiently(artifacts: Artifacts, tenant: str, file: ResultFile) -> dict[str, Any]:
    """A result is the fruit of hours: a storage that fails once is asked again."""
    for tries_left in reversed(range(_TRIES)):
        try:
            stored = artifacts.put_file(tenant, file.path, immutable=True)
            break
        except (OSError, StorageFull):
            if tries_left == 0:
                raise
            time.sleep(_PAUSE_S)
    return {
        "digest": stored.digest,
        "size_bytes": stored.size_bytes,
        "filename": file.filename,
        "kind": file.kind,
    }
