"""Files on their way in, chunk by chunk.

An upload is two files in the tenant's incoming directory: `<id>.json`, what was announced, and `<id>.part`, the
bytes so far. Its offset is the size of the part. Nothing is kept in memory, so an upload goes on after a restart
of the service, or at another service that sees the same directory. Blocking I/O, as in `artifacts.py`.
"""

import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from gradsight_store.artifact_storage import telling_full_storage
from gradsight_store.artifacts import Artifacts, checked_digest, digest_of
from gradsight_store.errors import DigestMismatch, StorageFull, UploadConflict, UploadNotFound

ABANDONED_AFTER_S = 3600.0

_UPLOAD_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class Upload:
    """How far an upload is, and what was announced at its start."""

    upload_id: str
    """Names the upload; empty when the content was there already and nothing is left to send."""
    digest: str
    size_bytes: int
    filename: str
    kind: int
    """Number of a `gradsight.v1.ArtifactKind`."""
    committed_bytes: int = 0
    """Bytes that are stored: send on from here."""
    finished: bool = False
    """True when the content is complete, verified and stored under its digest."""

    def ended(self) -> "Upload":
        """The same upload with its content stored."""
        return replace(self, committed_bytes=self.size_bytes, finished=True)


class Uploads:
    """The uploads of all tenants into one `Artifacts`.

    Args:
        artifacts: Where finished uploads go.
        reserve_bytes: Space to leave on the disk of the incoming directory; what needs more is refused at the
            start. A disk that runs full takes the store's append-only file with it.
    """

    def __init__(self, artifacts: Artifacts, *, reserve_bytes: int = 64 << 20) -> None:
        self._artifacts = artifacts
        self._reserve_bytes = reserve_bytes

    def create_upload(self, tenant: str, *, digest: str, size_bytes: int, filename: str, kind: int) -> Upload:
        """Start an upload. It is finished at once when the tenant has the content already.

        Raises:
            ValueError: The digest is malformed, or the size differs from that of the content with this digest.
            StorageFull: The content would not fit.
        """
        upload = Upload(
            upload_id="", digest=checked_digest(digest), size_bytes=size_bytes, filename=filename, kind=kind
        )
        if self._artifacts.exists(tenant, digest):
            stored_bytes = self._artifacts.size(tenant, digest)
            if stored_bytes != size_bytes:
                raise ValueError(f"size_bytes: got {size_bytes}, but {digest} has {stored_bytes} bytes")
            return upload.ended()
        incoming = self._artifacts.incoming(tenant)
        if shutil.disk_usage(incoming).free < size_bytes + self._reserve_bytes:
            raise StorageFull(size_bytes)
        upload = replace(upload, upload_id=secrets.token_hex(16))
        with telling_full_storage(size_bytes):
            (incoming / f"{upload.upload_id}.part").touch(exist_ok=False)
            (incoming / f"{upload.upload_id}.json").write_text(json.dumps(asdict(upload)), encoding="utf-8")
        return upload

    def upload_status(self, tenant: str, upload_id: str) -> Upload:
        """How far an upload is. One that has all its bytes and is not finished waits for `finish`.

        Raises:
            UploadNotFound: The tenant has no such upload.
        """
        upload = self._announcement(tenant, upload_id)
        try:
            committed = self._part(tenant, upload_id).stat().st_size
        except FileNotFoundError:
            if self._artifacts.exists(tenant, upload.digest):
                return upload.ended()
            raise UploadNotFound(upload_id) from None
        return replace(upload, committed_bytes=committed)

    def append(self, tenant: str, upload_id: str, offset: int, data: bytes) -> Upload:
        """Store a chunk. Bytes that are stored already are compared, so a chunk may be sent again.

        Raises:
            UploadNotFound: The tenant has no such upload.
            UploadConflict: The chunk leaves a gap, or differs from the stored bytes.
            DigestMismatch: There are more bytes than announced. The upload is gone.
            StorageFull: No space is left. The upload stands where it stood before this chunk.
        """
        with self._locked_part(tenant, upload_id) as (upload, descriptor):
            if descriptor is None:
                self._require_stored(tenant, upload, offset, data)
                return upload
            stored = os.fstat(descriptor).st_size
            if offset < 0 or offset > stored:
                raise UploadConflict(stored, f"the chunk starts at byte {offset}")
            if offset + len(data) > upload.size_bytes:
                self._discard(tenant, upload_id)
                raise DigestMismatch(
                    f"{upload.size_bytes} bytes", f"at least {offset + len(data)} bytes long"
                )
            known = data[: stored - offset]
            if known and os.pread(descriptor, len(known), offset) != known:
                raise UploadConflict(
                    stored, f"the chunk at byte {offset} differs from the bytes stored there"
                )
            _write_all(descriptor, data[len(known) :], stored)
            return replace(upload, committed_bytes=max(stored, offset + len(data)))

    def finish(self, tenant: str, upload_id: str) -> Upload:
        """End an upload whose bytes are all there: verify them and store them under their digest.

        Raises:
            UploadNotFound: The tenant has no such upload.
            UploadConflict: Bytes are missing.
            DigestMismatch: The bytes are not the announced ones. The upload is gone.
            StorageFull: The artifact storage has no space left. The upload can be finished later.
        """
        with self._locked_part(tenant, upload_id) as (upload, descriptor):
            if descriptor is None:
                return upload
            part = self._part(tenant, upload_id)
            found = digest_of(part)
            if found.size_bytes < upload.size_bytes:
                raise UploadConflict(found.size_bytes, f"{upload.size_bytes} bytes were announced")
            if found.digest != upload.digest:
                self._discard(tenant, upload_id)
                raise DigestMismatch(upload.digest, found.digest)
            self._artifacts.adopt(tenant, upload.digest, part)
            with suppress(FileNotFoundError):
                part.with_suffix(".json").touch()  # a client that missed the answer may ask for an hour
            return upload.ended()

    def collect_abandoned(self, older_than_s: float = ABANDONED_AFTER_S) -> int:
        """Remove what nobody has written to for so long, of every tenant; returns how many uploads that were.

        Any service may run this at any time. Announcements of finished uploads go the same way, uncounted.
        """
        removed = 0
        for directory in self._artifacts.incoming_directories():
            for path in sorted(directory.glob("*.*")):
                with suppress(FileNotFoundError):
                    if _idle_s(path) > older_than_s and not _has_younger_part(path, older_than_s):
                        path.unlink()
                        removed += path.suffix == ".part"
        return removed

    def _announcement(self, tenant: str, upload_id: str) -> Upload:
        if not _UPLOAD_ID.fullmatch(upload_id):
            raise UploadNotFound(upload_id)
        try:
            fields = json.loads((self._artifacts.incoming(tenant) / f"{upload_id}.json").read_bytes())
        except FileNotFoundError as error:
            raise UploadNotFound(upload_id) from error
        return Upload(**fields)

    def _part(self, tenant: str, upload_id: str) -> Path:
        return self._artifacts.incoming(tenant) / f"{upload_id}.part"

    def _discard(self, tenant: str, upload_id: str) -> None:
        part = self._part(tenant, upload_id)
        part.with_suffix(".json").unlink(missing_ok=True)
        part.unlink(missing_ok=True)

    def _require_stored(self, tenant: str, upload: Upload, offset: int, data: bytes) -> None:
        with self._artifacts.open(tenant, upload.digest) as stored:
            stored.seek(max(offset, 0))
            if offset < 0 or stored.read(len(data)) != data:
                raise UploadConflict(
                    upload.size_bytes, f"the chunk at byte {offset} differs from the bytes there"
                )

    @contextmanager
    def _locked_part(self, tenant: str, upload_id: str) -> Iterator[tuple[Upload, int | None]]:
        """The upload and its part, held against every other writer. No part when the upload is finished."""
        upload = self._announcement(tenant, upload_id)
        try:
            descriptor = os.open(self._part(tenant, upload_id), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            yield self.upload_status(tenant, upload_id), None
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # The writer before may have finished or discarded the upload: the file is then another's or nobody's.
            if os.fstat(descriptor).st_nlink == 0 or not self._is_part(tenant, upload_id, descriptor):
                yield self.upload_status(tenant, upload_id), None
            else:
                yield upload, descriptor
        finally:
            os.close(descriptor)

    def _is_part(self, tenant: str, upload_id: str, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self._part(tenant, upload_id).stat())
        except FileNotFoundError:
            return False


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    rest = memoryview(data)
    try:
        with telling_full_storage(len(data)):
            while rest:
                rest = rest[os.pwrite(descriptor, rest, offset + len(data) - len(rest)) :]
    except BaseException:
        os.ftruncate(descriptor, offset)
        raise


def _idle_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _has_younger_part(path: Path, older_than_s: float) -> bool:
    """Whether this is the announcement of an upload that still receives bytes."""
    part = path.with_suffix(".part")
    return path.suffix == ".json" and part.exists() and _idle_s(part) <= older_than_s
