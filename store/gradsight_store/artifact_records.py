"""What is known of each file: name, kind, job, when it was stored. The bytes are in `artifacts.py`.

A record is the file's message without its time. It stands in the uses of its digest and in two lists of its job,
one of all files and one of its kind, so recording the same file again finds the first record.
"""

import base64
import binascii
from dataclasses import dataclass

from gradsight.v1 import artifact_pb2
from gradsight_store import keys, scripts
from gradsight_store.artifacts import checked_digest
from gradsight_store.errors import ArtifactNotFound
from gradsight_store.operations import Operation, Pipeline

_TIME_DIGITS = 13  # as in record_artifact.lua


@dataclass(frozen=True)
class ArtifactPage:
    """Files, newest first. An empty token says that this was the last page."""

    artifacts: list[artifact_pb2.Artifact]
    next_page_token: str


def record_artifact(tenant: str, artifact: artifact_pb2.Artifact) -> Operation[artifact_pb2.Artifact]:
    """Make a stored file known; returns it with its time, that of the first recording.

    `artifact.create_time` is ignored: the store's clock tells.
    """
    record = _record_of(artifact)
    (created,) = yield Pipeline([scripts.call("record_artifact", _keys(tenant, artifact), [record])])
    return _artifact_of(created + record)


def forget_artifact(tenant: str, artifact: artifact_pb2.Artifact) -> Operation[bool]:
    """Remove a file's record; True when no record of the content is left, so that its bytes may be deleted."""
    record = _record_of(artifact)
    (last,) = yield Pipeline([scripts.call("forget_artifact", _keys(tenant, artifact), [record])])
    return bool(last)


def get_artifact(tenant: str, digest: str) -> Operation[artifact_pb2.Artifact]:
    """The first record of a content.

    Raises:
        ValueError: The digest is malformed.
        ArtifactNotFound: The tenant has no such file.
    """
    (entry,) = yield Pipeline([("GET", keys.artifact(tenant, checked_digest(digest)))])
    if entry is None:
        raise ArtifactNotFound(digest)
    return _artifact_of(entry)


def list_artifacts(
    tenant: str,
    *,
    job_id: str = "",
    kind: int = artifact_pb2.ARTIFACT_KIND_UNSPECIFIED,
    page_size: int = 100,
    page_token: str = "",
) -> Operation[ArtifactPage]:
    """A page of a job's files, or of the uploads for an empty `job_id`; of one kind or of all.

    Raises:
        ValueError: The page token is not one.
    """
    newest = b"(" + _entry_of_token(page_token) if page_token else b"+"
    key = keys.artifacts(tenant, job_id, kind)
    (entries,) = yield Pipeline([("ZREVRANGEBYLEX", key, newest, "-", "LIMIT", 0, page_size + 1)])
    page = entries[:page_size]
    more = len(entries) > page_size
    return ArtifactPage([_artifact_of(entry) for entry in page], _token_of(page[-1]) if more else "")


def _keys(tenant: str, artifact: artifact_pb2.Artifact) -> list[str]:
    return [
        keys.artifact_uses(tenant, artifact.digest),
        keys.artifact(tenant, artifact.digest),
        keys.artifacts(tenant, artifact.job_id, artifact_pb2.ARTIFACT_KIND_UNSPECIFIED),
        keys.artifacts(tenant, artifact.job_id, artifact.kind),
    ]


def _record_of(artifact: artifact_pb2.Artifact) -> bytes:
    timeless = artifact_pb2.Artifact()
    timeless.CopyFrom(artifact)
    timeless.ClearField("create_time")
    return timeless.SerializeToString(deterministic=True)


def _artifact_of(entry: bytes) -> artifact_pb2.Artifact:
    artifact = artifact_pb2.Artifact.FromString(entry[_TIME_DIGITS:])
    artifact.create_time.FromMilliseconds(int(entry[:_TIME_DIGITS]))
    return artifact


def _token_of(entry: bytes) -> str:
    return base64.urlsafe_b64encode(entry).decode().rstrip("=")


def _entry_of_token(token: str) -> bytes:
    try:
        return base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"page_token: got {token[:40]!r}, allowed: a token of the page before") from error
