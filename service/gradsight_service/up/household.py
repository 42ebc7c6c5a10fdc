"""The data directory of `gradsight up`: what lies where, who holds it, and where its processes can be reached."""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path


class HouseholdTaken(Exception):
    """Another `gradsight up` holds the data directory."""


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where the processes of a household can be reached; written once they answer."""

    process_id: int
    service: str
    store: str
    exporter: str
    service_metrics: str
    worker_metrics: tuple[str, ...]


class Household:
    """A data directory. `lock` makes it this process's own; the lock goes with the process, however it ends."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = directory / "store"
        self.artifacts = directory / "artifacts"
        self.spool = directory / "spool"
        self.logs = directory / "logs"
        self.run = directory / "run"
        self._state = self.run / "up.json"
        self._lock_file = self.run / "lock"
        self._lock: int | None = None

    def lock(self) -> None:
        """Take the directory, making it where it is missing; raises HouseholdTaken naming the holder."""
        for folder in (self.store, self.artifacts, self.spool, self.logs, self.run):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            holder = self.read()
            who = f"process {holder.process_id}, service at {holder.service}" if holder else "another process"
            raise HouseholdTaken(
                f"{self.directory} is in use by {who}: end it with `gradsight down --data {self.directory}` "
                "or choose another directory with --data"
            ) from None
        self._lock = handle
        self._state.unlink(missing_ok=True)

    def is_locked(self) -> bool:
        """True while some process holds the directory."""
        if not self._lock_file.exists():
            return False
        handle = os.open(self._lock_file, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def write(self, addresses: Addresses) -> None:
        """Say where the processes can be reached; readers see all of it or nothing."""
        scratch = self._state.with_suffix(".tmp")
        scratch.write_text(json.dumps(asdict(addresses), indent=1))
        scratch.rename(self._state)

    def read(self) -> Addresses | None:
        """Where the processes can be reached, or None while they do not answer yet."""
        try:
            fields = json.loads(self._state.read_text())
        except FileNotFoundError:
            return None
        return Addresses(**{**fields, "worker_metrics": tuple(fields["worker_metrics"])})

    def wait_released(self, timeout_s: float) -> bool:
        """Wait until nobody holds the directory; False when that took longer than `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        while self.is_locked():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True
