"""Files to the service and back: known by digest, sent once, resumed after a broken connection, verified on arrival."""

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from google.protobuf.message import Message

from gradsight import _convert
from gradsight._effects import Compute, Operation, Send, Sleep
from gradsight._errors import (
    DigestMismatch,
    InvalidRequest,
    Unavailable,
    UploadNotFound,
    UploadOffsetConflict,
)
from gradsight._records import Artifact
from gradsight._retry import Patience, call
from gradsight._watch import follow
from gradsight.v1 import artifact_pb2
from gradsight.v1 import artifact_service_pb2 as wire

Reader = Callable[[], BinaryIO]
"""Opens the content anew, from its beginning."""

CHUNK_BYTES = 512 * 1024
_LONGEST_FILENAME = 128


def upload(
    path: Path,
    patience: Patience,
    *,
    kind: artifact_pb2.ArtifactKind.ValueType = artifact_pb2.ARTIFACT_KIND_DATASET,
    content: bytes | None = None,
) -> Operation[Artifact]:
    """Makes the service hold the file's content; sends only what it does not hold yet.

    With `content`, `path` is no more than its name. Raises OSError when the file cannot be read, InvalidRequest when
    it is empty, DigestMismatch when it changes meanwhile.
    """
    read = _file(path) if content is None else partial(io.BytesIO, content)
    digest, size = yield Compute(partial(_measure, read))
    if size == 0:
        raise InvalidRequest(f"{path} is empty; a file to upload has at least one byte")
    create = wire.CreateUploadRequest(
        digest=digest, size_bytes=size, filename=path.name[-_LONGEST_FILENAME:], kind=kind
    )
    upload_id, sent, pauses, tries = "", -1, patience.pauses(), 0
    while True:
        try:
            status = yield from _begin_or_resume(create, upload_id, patience)
            if isinstance(status, Artifact):
                return status
            upload_id, committed = status
            if (yield Compute(partial(_size, read))) != size:
                raise DigestMismatch(f"{path} changed while it was sent; upload it again")
            if committed > sent:
                sent, pauses, tries = committed, patience.pauses(), 0
            response = yield Send("WriteUpload", _chunks(read, upload_id, committed))
            if response.HasField("artifact"):
                return _convert.record(Artifact, response.artifact)
        except UploadNotFound:
            upload_id = ""
        except (Unavailable, UploadOffsetConflict):
            # A service that has never answered was already tried as often as any call is.
            if sent < 0 or tries >= patience.call_attempts:
                raise
        tries += 1
        if tries > patience.call_attempts:
            raise DigestMismatch(f"{path} does not arrive whole; upload it again")
        yield Sleep(next(pauses))


def download(artifact: Artifact, path: Path, patience: Patience) -> Operation[None]:
    """Writes the file's content to `path`, which appears only once it is complete and agrees with the digest."""
    partial_path = path.with_name(path.name + ".part")
    received, hasher = 0, hashlib.sha256()
    yield Compute(partial(partial_path.write_bytes, b""))

    def request() -> Message:
        return wire.DownloadArtifactRequest(digest=artifact.digest, offset=received)

    def take(chunk: Message) -> Operation[bool]:
        nonlocal received
        assert isinstance(chunk, wire.DownloadArtifactResponse)
        fresh = chunk.data[received - chunk.offset :]
        yield Compute(partial(_append, partial_path, fresh))
        hasher.update(fresh)
        received += len(fresh)
        return received >= artifact.size_bytes

    if artifact.size_bytes:
        yield from follow("DownloadArtifact", request, take, patience)
    if f"sha256:{hasher.hexdigest()}" != artifact.digest:
        yield Compute(partial_path.unlink)
        raise DigestMismatch(
            f"{artifact.filename} arrived damaged: its content is not that of {artifact.digest}"
        )
    yield Compute(partial(os.replace, partial_path, path))


def holds(path: Path, artifact: Artifact) -> bool:
    """Returns whether `path` already is the file."""
    return (
        path.is_file()
        and path.stat().st_size == artifact.size_bytes
        and _measure(_file(path))[0] == artifact.digest
    )


def _begin_or_resume(
    create: wire.CreateUploadRequest, upload_id: str, patience: Patience
) -> Operation[Artifact | tuple[str, int]]:
    """Returns the file if the service has it whole, else the upload's id and how many bytes it holds."""
    if not upload_id:
        begun: wire.CreateUploadResponse = yield from call("CreateUpload", create, patience)
        if begun.HasField("artifact"):
            return _convert.record(Artifact, begun.artifact)
        upload_id = begun.upload_id
    # Also for an upload that looks new: the service may go on with one that an earlier process began.
    request = wire.GetUploadRequest(upload_id=upload_id)
    status: wire.GetUploadResponse = yield from call("GetUpload", request, patience)
    if status.HasField("artifact"):
        return _convert.record(Artifact, status.artifact)
    return upload_id, status.committed_bytes


def _chunks(read: Reader, upload_id: str, offset: int) -> Iterator[Message]:
    with read() as file:
        file.seek(offset)
        while data := file.read(CHUNK_BYTES):
            yield wire.WriteUploadRequest(upload_id=upload_id, offset=offset, data=data)
            offset += len(data)


def _file(path: Path) -> Reader:
    def read() -> BinaryIO:
        return path.open("rb")

    return read


def _measure(read: Reader) -> tuple[str, int]:
    with read() as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        return f"sha256:{digest}", file.seek(0, os.SEEK_END)


def _size(read: Reader) -> int:
    with read() as file:
        return file.seek(0, os.SEEK_END)


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
