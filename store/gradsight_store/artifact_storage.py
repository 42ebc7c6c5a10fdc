"""The two kinds of places for blobs: a directory, and anything that fsspec can reach.

A key is a relative path of our own making. A blob appears under its key whole or not at all.
"""
# ruff: noqa: D102 -- the methods are described once, in Storage

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast
from urllib.parse import unquote, urlsplit

from gradsight_store.errors import StorageFull

# A failed write leaves nothing behind there; elsewhere a blob is written under another name and moved.
_ATOMIC_PROTOCOLS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "memory"}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Storage(Protocol):
    """A place for blobs. Reading a key that is not there raises FileNotFoundError."""

    def spool(self) -> Path | None:
        """Directory on this machine from which `adopt` is a rename. None when there is none."""

    def adopt(self, key: str, path: Path) -> None:
        """Make a file the blob, unless the key is taken. The file is gone afterwards."""

    def put_unchanging(self, key: str, path: Path) -> bool:
        """Make the content of a file that never changes the blob. False when it has to be copied first."""

    def open(self, key: str) -> BinaryIO:
        """Open a blob for reading; seekable."""

    def size(self, key: str) -> int | None:
        """Size of a blob in bytes. None when it is not there."""

    def path(self, key: str) -> Path | None:
        """The blob as a file of this machine. None when it is not one."""

    def remove(self, key: str) -> bool:
        """Remove a blob. False when it was not there."""

    def set_aside(self, key: str) -> None:
        """Keep a damaged blob for inspection and free its key."""


def open_storage(root: str) -> Storage:
    """The storage at a directory or an fsspec URL. Connects to nothing yet.

    Raises:
        ValueError: The URL's protocol is unknown or needs a package that is not installed.
    """
    if not root:
        raise ValueError("artifacts: got an empty address, allowed: a directory or an fsspec URL")
    if "://" not in root:
        return DirectoryStorage(Path(root))
    if root.startswith("file://"):
        return DirectoryStorage(Path(unquote(urlsplit(root).path)))
    return FsspecStorage(root)


@contextmanager
def telling_full_storage(needed_bytes: int) -> Iterator[None]:
    """Turn the operating system's ways to say "no space left" into StorageFull."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise StorageFull(needed_bytes) from error
        raise


class DirectoryStorage:
    """Blobs as read-only files of a directory that all processes of the installation see."""

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().absolute()

    def spool(self) -> Path | None:
        return self._root / "incoming"

    def adopt(self, key: str, path: Path) -> None:
        target = self._prepared(key)
        _sync(path)  # before the name exists: a blob that is seen is whole, after a power cut too
        path.chmod(path.stat().st_mode & ~0o222)
        path.replace(target)
        _sync(target.parent)

    def put_unchanging(self, key: str, path: Path) -> bool:
        target = self._prepared(key)
        _sync(path)
        try:
            os.link(path, target)
        except FileExistsError:
            return True
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
                return False  # another file system, or one without links
            raise
        _sync(target.parent)
        return True

    def open(self, key: str) -> BinaryIO:
        return (self._root / key).open("rb")

    def size(self, key: str) -> int | None:
        try:
            return (self._root / key).stat().st_size
        except FileNotFoundError:
            return None

    def path(self, key: str) -> Path | None:
        return self._root / key

    def remove(self, key: str) -> bool:
        try:
            (self._root / key).unlink()
        except FileNotFoundError:
            return False
        return True

    def set_aside(self, key: str) -> None:
        (self._root / key).replace(self._root / f"{key}.damaged")

    def _prepared(self, key: str) -> Path:
        target = self._root / key
        if not target.parent.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            _sync(target.parent.parent)
        return target


class FsspecStorage:
    """Blobs behind an fsspec URL: an object store, or any other file system that fsspec speaks."""

    def __init__(self, url: str) -> None:
        import fsspec  # only installations with an object store pay for its import

        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise ValueError(
                f"artifacts: cannot use {url.partition('://')[0]}:// addresses: {error}"
            ) from error
        protocol = self._files.protocol
        self._atomic = bool(_ATOMIC_PROTOCOLS & set((protocol,) if isinstance(protocol, str) else protocol))

    def spool(self) -> Path | None:
        return None

    def adopt(self, key: str, path: Path) -> None:
        self.put_unchanging(key, path)
        path.unlink()

    def put_unchanging(self, key: str, path: Path) -> bool:
        target = self._address(key)
        self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
        if self._atomic:
            self._files.put_file(str(path), target)
            return True
        partial = f"{target}.{secrets.token_hex(8)}.partial"
        try:
            self._files.put_file(str(path), partial)
            self._files.mv(partial, target)
        except BaseException:
            self._remove(partial)
            raise
        return True

    def open(self, key: str) -> BinaryIO:
        return cast(BinaryIO, self._files.open(self._address(key), "rb"))

    def size(self, key: str) -> int | None:
        try:
            return int(self._files.info(self._address(key))["size"])
        except FileNotFoundError:
            return None

    def path(self, key: str) -> Path | None:
        return None

    def remove(self, key: str) -> bool:
        return self._remove(self._address(key))

    def set_aside(self, key: str) -> None:
        self._files.mv(self._address(key), f"{self._address(key)}.damaged")

    def _remove(self, address: str) -> bool:
        try:
            self._files.rm_file(address)
        except FileNotFoundError:
            return False
        return True

    def _address(self, key: str) -> str:
        return f"{str(self._root).rstrip('/')}/{key}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
