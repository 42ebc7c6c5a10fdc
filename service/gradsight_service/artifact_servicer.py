"""The ArtifactService: files in and out in chunks. File I/O runs in threads, never on the event loop."""

# ruff: noqa: N802 -- the methods are named by the contract

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import BinaryIO

import structlog

from gradsight._data_formats import MAGIC_BYTES, code_carrier
from gradsight._reasons import Reason
from gradsight.graph import MOST_GRAPH_BYTES
from gradsight.v1 import artifact_pb2, artifact_service_pb2_grpc
from gradsight.v1 import artifact_service_pb2 as pb
from gradsight_service import requests
from gradsight_service.calls import Context
from gradsight_service.errors import CallError, Violation, draining, invalid_request
from gradsight_service.limits import shown
from gradsight_service.store_access import StoreAccess
from gradsight_store.artifact_records import get_artifact, list_artifacts, record_artifact
from gradsight_store.artifacts import Artifacts
from gradsight_store.uploads import Upload, Uploads

log = structlog.get_logger()

MAX_CHUNK_BYTES = 1 << 20
MAX_UPLOAD_BYTES = 8 << 30
_MOST_FILENAME = 128


@dataclass(kw_only=True)
class ArtifactServicer(artifact_service_pb2_grpc.ArtifactServiceServicer):
    """The methods of the contract, for one tenant until tokens name others."""

    store: StoreAccess
    artifacts: Artifacts
    uploads: Uploads
    tenant: str
    draining: bool = False

    async def CreateUpload(
        self, request: pb.CreateUploadRequest, context: Context
    ) -> pb.CreateUploadResponse:
        """Start an upload, or return the file at once when its content is there."""
        if self.draining:
            raise draining()
        kind = request.kind or artifact_pb2.ARTIFACT_KIND_DATASET
        _check_announcement(request, kind)
        with requests.refusing("size_bytes"):
            upload = await asyncio.to_thread(
                self.uploads.create_upload,
                self.tenant,
                digest=requests.digest(request.digest),
                size_bytes=request.size_bytes,
                filename=request.filename,
                kind=kind,
            )
        if upload.finished:
            return pb.CreateUploadResponse(artifact=await self._record(upload, context))
        return pb.CreateUploadResponse(upload_id=upload.upload_id)

    async def GetUpload(self, request: pb.GetUploadRequest, context: Context) -> pb.GetUploadResponse:
        """Return how far an upload is."""
        upload_id = requests.upload_id(request.upload_id)
        upload = await asyncio.to_thread(self.uploads.upload_status, self.tenant, upload_id)
        upload = await self._finish_if_complete(upload)
        artifact = await self._record(upload, context) if upload.finished else None
        return pb.GetUploadResponse(committed_bytes=upload.committed_bytes, artifact=artifact)

    async def WriteUpload(
        self, request_iterator: AsyncIterator[pb.WriteUploadRequest], context: Context
    ) -> pb.WriteUploadResponse:
        """Take chunks until the client ends the stream; finish the upload when its size is reached."""
        upload: Upload | None = None
        upload_id = ""
        async for chunk in request_iterator:
            upload_id = upload_id or requests.upload_id(chunk.upload_id)
            _check_chunk(chunk)
            upload = await asyncio.to_thread(
                self.uploads.append, self.tenant, upload_id, chunk.offset, chunk.data
            )
        if upload is None:
            raise invalid_request("upload_id", "required: name the upload in the first message")
        upload = await self._finish_if_complete(upload)
        artifact = await self._record(upload, context) if upload.finished else None
        return pb.WriteUploadResponse(committed_bytes=upload.committed_bytes, artifact=artifact)

    async def DownloadArtifact(self, request: pb.DownloadArtifactRequest, context: Context) -> None:  # type: ignore[override]  # it writes
        """Stream a file's content."""
        digest = requests.digest(request.digest)
        file = await asyncio.to_thread(self.artifacts.open, self.tenant, digest)
        try:
            size = await asyncio.to_thread(file.seek, 0, os.SEEK_END)
            offset = requests.whole_number("offset", request.offset, low=0, high=size)
            await asyncio.to_thread(file.seek, offset)
            await _send(file, offset, context)
        finally:
            await asyncio.to_thread(file.close)

    async def GetArtifact(self, request: pb.GetArtifactRequest, context: Context) -> pb.GetArtifactResponse:
        """Return what is known of a file."""
        operation = get_artifact(self.tenant, requests.digest(request.digest))
        return pb.GetArtifactResponse(artifact=await self.store.run(operation, context))

    async def ListArtifacts(
        self, request: pb.ListArtifactsRequest, context: Context
    ) -> pb.ListArtifactsResponse:
        """Return a page of files, newest first."""
        if request.job_id:
            requests.job_ref(self.tenant, request.job_id)
        if request.kind not in artifact_pb2.ArtifactKind.values():
            raise invalid_request("kind", f"got {request.kind}, allowed a kind of file")
        operation = list_artifacts(
            self.tenant,
            job_id=request.job_id,
            kind=request.kind,
            page_size=requests.page_size(request.page_size, default=100),
            page_token=request.page_token,
        )
        with requests.refusing("page_token"):
            page = await self.store.run(operation, context)
        return pb.ListArtifactsResponse(artifacts=page.artifacts, next_page_token=page.next_page_token)

    async def _finish_if_complete(self, upload: Upload) -> Upload:
        if upload.finished or upload.committed_bytes < upload.size_bytes:
            return upload
        finished = await asyncio.to_thread(self.uploads.finish, self.tenant, upload.upload_id)
        log.info("upload finished", digest=upload.digest, size_bytes=upload.size_bytes)
        return finished

    async def _record(self, upload: Upload, context: Context) -> artifact_pb2.Artifact:
        # Again after every finish: whoever answered first may have died between the file and its record.
        artifact = artifact_pb2.Artifact(
            digest=upload.digest,
            kind=artifact_pb2.ArtifactKind.ValueType(upload.kind),
            filename=upload.filename,
            size_bytes=upload.size_bytes,
        )
        return await self.store.run(record_artifact(self.tenant, artifact), context)


def _check_announcement(request: pb.CreateUploadRequest, kind: int) -> None:
    name = request.filename
    if (
        not 1 <= len(name) <= _MOST_FILENAME
        or not name.isprintable()
        or {"/", "\\"} & set(name)
        or name in (".", "..")
    ):
        raise invalid_request(
            "filename", f"got {shown(name)}, allowed 1 to 128 characters, no path separators"
        )
    if kind not in requests.UPLOADED_KINDS:
        allowed = ", ".join(map(requests.kind_name, requests.UPLOADED_KINDS))
        raise invalid_request("kind", f"got {kind}, allowed {allowed}")
    most = MOST_GRAPH_BYTES if kind == artifact_pb2.ARTIFACT_KIND_GRAPH else MAX_UPLOAD_BYTES
    if request.size_bytes > most:
        raise _too_large("size_bytes", request.size_bytes, most)
    requests.whole_number("size_bytes", request.size_bytes, low=1, high=MAX_UPLOAD_BYTES)


def _check_chunk(chunk: pb.WriteUploadRequest) -> None:
    if len(chunk.data) > MAX_CHUNK_BYTES:
        raise _too_large("data", len(chunk.data), MAX_CHUNK_BYTES)
    requests.sequence("offset", chunk.offset)
    kind = code_carrier(chunk.data[:MAGIC_BYTES]) if chunk.offset == 0 else ""
    if kind:
        raise invalid_request("data", f"got {kind}")


def _too_large(path: str, got: int, most: int) -> CallError:
    message = f"got {got} bytes, allowed at most {most}"
    violation = Violation(path=path, message=message, reason=Reason.UPLOAD_TOO_LARGE)
    return CallError(Reason.UPLOAD_TOO_LARGE, f"{path}: {message}", violations=[violation])


async def _send(file: BinaryIO, offset: int, context: Context) -> None:
    while data := await asyncio.to_thread(file.read, MAX_CHUNK_BYTES):
        await context.write(pb.DownloadArtifactResponse(offset=offset, data=data))
        offset += len(data)
