"""Private directories for the files of running attempts, and the removal of those left by the dead."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Self

_LOCK = ".lock"


class Scratch:
    """A worker's directory below a spool that several workers may share.

    Its lock is held for as long as the worker or one of its children lives: a directory whose lock is free
    belongs to the dead, and the next worker that starts removes it.
    """

    def __init__(self, directory: Path, lock: int) -> None:
        self.directory = directory
        self._lock = lock

    @classmethod
    def open(cls, spool: Path, worker_id: str) -> Self:
        """Make a worker's directory, readable by its user only, and remove what dead workers left.

        Raises:
            ValueError: `spool` is no directory, belongs to another user or cannot be written.
        """
        _make_spool(spool)
        _remove_leftovers(spool)
        directory = spool / worker_id
        directory.mkdir(mode=0o700)
        lock = os.open(directory / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return cls(directory, lock)

    def make(self, name: str) -> Path:
        """Make the empty directory of one attempt."""
        path = self.directory / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o700)
        return path

    def remove(self, name: str) -> None:
        """Remove an attempt's directory, if it is there."""
        shutil.rmtree(self.directory / name, ignore_errors=True)

    def close(self) -> None:
        """Remove the worker's directory."""
        shutil.rmtree(self.directory, ignore_errors=True)
        os.close(self._lock)


def default_spool() -> Path:
    """The spool of this user: below `$TMPDIR` or the system's directory for temporary files."""
    return Path(tempfile.gettempdir()) / f"gradsight-{os.getuid()}"


def _make_spool(spool: Path) -> None:
    try:
        spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"spool {spool}: cannot be made: {error.strerror}; choose another with --spool"
        ) from error
    if spool.stat().st_uid != os.getuid() or not os.access(spool, os.W_OK | os.X_OK):
        raise ValueError(
            f"spool {spool}: belongs to another user or is read-only; choose another with --spool"
        )


def _remove_leftovers(spool: Path) -> None:
    for directory in spool.iterdir():
        try:
            lock = os.open(directory / _LOCK, os.O_RDWR)
        except OSError:
            continue  # not ours, or another worker is making or removing it right now
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
        except BlockingIOError:
            pass  # its worker lives
        finally:
            os.close(lock)
