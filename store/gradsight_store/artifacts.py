"""Files of jobs, known by the digest of their content: datasets, checkpoints, results, log segments.

One blob per content and tenant, written once and never changed. The root is a directory (the default and the
fast path: the worker trains straight from the stored file) or any fsspec URL, an object store say. What a file
*is* (name, kind, job) is a record in the store: `artifact_records.py`. Files on their way in: `uploads.py`.

Everything here is blocking I/O; asynchronous callers use a thread.
"""

import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from gradsight_store.artifact_storage import open_storage, telling_full_storage
from gradsight_store.errors import ArtifactDamaged, ArtifactNotFound

_BLOCK_BYTES = 1 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


class StoredFile(NamedTuple):
    """What identifies a stored content."""

    digest: str
    """`sha256:` and 64 hex digits."""
    size_bytes: int


class Artifacts:
    """The blobs of all tenants under one root.

    Args:
        root: A directory, or an fsspec URL such as `s3://bucket/prefix`.
        spool: Directory for files on their way in. Default: inside the root; for a URL, in the user's cache.
            Several services on one object store share their unfinished uploads only through a shared spool.

    Every method raises ValueError for a malformed tenant or digest.
    """

    def __init__(self, root: str | Path, *, spool: Path | None = None) -> None:
        self._storage = open_storage(str(root))
        self._spool = spool or self._storage.spool() or _cache_directory(str(root))

    def put_file(self, tenant: str, path: Path, *, immutable: bool = False) -> StoredFile:
        """Store a file's content. A content that is already there takes no more space.

        Args:
            tenant: Owner of the content.
            path: The file.
            immutable: The caller's promise that nobody writes into `path` again: it is linked, not copied.

        Raises:
            StorageFull: No space is left; nothing was stored.
        """
        if immutable:
            stored = digest_of(path)
            key = _key(tenant, stored.digest)
            with telling_full_storage(stored.size_bytes):
                if self._storage.size(key) is not None or self._storage.put_unchanging(key, path):
                    return stored
        with path.open("rb") as source, self._incoming_file(tenant, path.stat().st_size) as (copy, target):
            stored = _read_whole(source, copy_to=target)
            target.close()
            self.adopt(tenant, stored.digest, copy)
        return stored

    def put_bytes(self, tenant: str, data: bytes) -> StoredFile:
        """Store a small content that is in memory.

        Raises:
            StorageFull: No space is left; nothing was stored.
        """
        stored = StoredFile(f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))
        if not self.exists(tenant, stored.digest):
            with self._incoming_file(tenant, len(data)) as (copy, target):
                target.write(data)
                target.close()
                self.adopt(tenant, stored.digest, copy)
        return stored

    def adopt(self, tenant: str, digest: str, path: Path) -> None:
        """Make a file whose digest the caller computed the blob; the file itself is gone afterwards."""
        if self.exists(tenant, digest):
            path.unlink()
        else:
            with telling_full_storage(path.stat().st_size):
                self._storage.adopt(_key(tenant, digest), path)

    def exists(self, tenant: str, digest: str) -> bool:
        """Whether the tenant has a file with this digest."""
        return self._storage.size(_key(tenant, digest)) is not None

    def size(self, tenant: str, digest: str) -> int:
        """Size of a file in bytes.

        Raises:
            ArtifactNotFound: The tenant has no such file.
        """
        size = self._storage.size(_key(tenant, digest))
        if size is None:
            raise ArtifactNotFound(digest)
        return size

    def open(self, tenant: str, digest: str) -> BinaryIO:
        """Open a file for reading; seekable. The bytes are not verified: whoever keeps them compares the digest.

        Raises:
            ArtifactNotFound: The tenant has no such file.
        """
        try:
            return self._storage.open(_key(tenant, digest))
        except FileNotFoundError as error:
            raise ArtifactNotFound(digest) from error

    def local_path(self, tenant: str, digest: str) -> Path | None:
        """The stored file itself, to be read in place and never written. None when it is not on this machine.

        Raises:
            ArtifactNotFound: The tenant has no such file.
        """
        path = self._storage.path(_key(tenant, digest))
        if path is not None and not path.exists():
            raise ArtifactNotFound(digest)
        return path

    def fetch(self, tenant: str, digest: str, destination: Path) -> StoredFile:
        """Copy a file to `destination`, whole and verified or not at all.

        Raises:
            ArtifactNotFound: The tenant has no such file.
            ArtifactDamaged: The bytes do not agree with the digest. The blob was set aside, so that the content
                can be stored again.
            StorageFull: No space is left at the destination.
        """
        partial = destination.with_name(f"{destination.name}.{secrets.token_hex(8)}.partial")
        try:
            with (
                self.open(tenant, digest) as source,
                telling_full_storage(self.size(tenant, digest)),
                partial.open("xb") as target,
            ):
                stored = _read_whole(source, copy_to=target)
            self._require(tenant, digest, stored)
            partial.replace(destination)
        finally:
            partial.unlink(missing_ok=True)
        return stored

    def verify(self, tenant: str, digest: str) -> StoredFile:
        """Read a file whole and compare its digest, before it is used in place.

        Raises:
            ArtifactNotFound: The tenant has no such file.
            ArtifactDamaged: As in `fetch`.
        """
        with self.open(tenant, digest) as source:
            stored = _read_whole(source)
        self._require(tenant, digest, stored)
        return stored

    def delete(self, tenant: str, digest: str) -> bool:
        """Remove a file. False when there was none. Readers that have it open keep it."""
        return self._storage.remove(_key(tenant, digest))

    def incoming(self, tenant: str) -> Path:
        """The tenant's directory for files on their way in; made when missing."""
        directory = self._spool / checked_tenant(tenant)
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def incoming_directories(self) -> list[Path]:
        """Every tenant's directory for files on their way in that exists."""
        try:
            return sorted(path for path in self._spool.iterdir() if path.is_dir())
        except FileNotFoundError:
            return []

    def _require(self, tenant: str, digest: str, found: StoredFile) -> None:
        if found.digest != digest:
            self._storage.set_aside(_key(tenant, digest))
            raise ArtifactDamaged(digest, found.digest)

    @contextmanager
    def _incoming_file(self, tenant: str, size_bytes: int) -> Iterator[tuple[Path, BinaryIO]]:
        path = self.incoming(tenant) / f"{secrets.token_hex(16)}.tmp"
        try:
            with telling_full_storage(size_bytes), path.open("xb") as file:
                yield path, file
        finally:
            path.unlink(missing_ok=True)


def digest_of(path: Path) -> StoredFile:
    """Digest and size of a file, read once."""
    with path.open("rb") as source:
        return _read_whole(source)


def checked_digest(digest: str) -> str:
    """The digest itself.

    Raises:
        ValueError: It is malformed.
    """
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"digest: got {digest[:80]!r}, allowed: 'sha256:' and 64 lower-case hex digits")
    return digest


def checked_tenant(tenant: str) -> str:
    """The tenant itself.

    Raises:
        ValueError: It is malformed.
    """
    if not _TENANT.fullmatch(tenant):
        raise ValueError(f"tenant: got {tenant[:80]!r}, allowed: 1 to 64 characters of a-z, 0-9 and -")
    return tenant


def _key(tenant: str, digest: str) -> str:
    hexadecimal = checked_digest(digest).removeprefix("sha256:")
    return f"blobs/{checked_tenant(tenant)}/{hexadecimal[:2]}/{hexadecimal}"


def _read_whole(source: BinaryIO, copy_to: BinaryIO | None = None) -> StoredFile:
    digest, size = hashlib.sha256(), 0
    while block := source.read(_BLOCK_BYTES):
        digest.update(block)
        size += len(block)
        if copy_to is not None:
            copy_to.write(block)
    return StoredFile(f"sha256:{digest.hexdigest()}", size)


def _cache_directory(root: str) -> Path:
    """A directory of this user that is the same for every process with the same root."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "gradsight" / "incoming" / hashlib.sha256(root.encode()).hexdigest()[:16]
