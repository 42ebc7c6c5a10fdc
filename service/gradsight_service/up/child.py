"""A child process that is kept alive: started, watched, restarted with back-off, and never left behind."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_FIRST_BACK_OFF_S = 0.2
_LONGEST_BACK_OFF_S = 10.0
# A child that ran this long is well again: its next restart is prompt.
_WELL_AFTER_S = 30.0

# Loaded before any fork: between fork and exec there is no time for imports.
_libc = ctypes.CDLL(None, use_errno=True)


class Child:
    """One child process of `gradsight up`.

    `command` must accept `--ready-file`, to which it writes its addresses as JSON once it answers; standard output and
    error go to `log`.
    """

    def __init__(self, name: str, command: list[str], *, log: Path, ready_file: Path) -> None:
        self.name = name
        self.log = log
        self.restarts = 0
        self._ready_file = ready_file
        self.start_again_with(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._start_at = 0.0
        self._back_off = _FIRST_BACK_OFF_S

    def start_again_with(self, command: list[str]) -> None:
        """The command from the next start on."""
        self._command = [*command, "--ready-file", str(self._ready_file)]

    def start(self) -> None:
        """Start the process; it is killed when this one ends, however it ends."""
        self._ready_file.unlink(missing_ok=True)
        parent = os.getpid()

        def die_with_parent() -> None:
            # Kept across exec. The parent may have gone before the call took effect: then nobody would send the signal.
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A group of its own, so that Ctrl-C reaches `up` alone and the order of stopping is kept.
                process_group=0,
                # The parent runs one thread, so the usual hazard of code between fork and exec does not arise.
                preexec_fn=die_with_parent,
            )
        self._started = time.monotonic()

    def revive(self) -> bool:
        """Restart the process if it ended and its back-off is over; True when it was restarted."""
        if self.alive():
            return False
        now = time.monotonic()
        if self._start_at == 0.0:
            if now - self._started > _WELL_AFTER_S:
                self._back_off = _FIRST_BACK_OFF_S
            self._start_at = now + self._back_off
            self._back_off = min(self._back_off * 2, _LONGEST_BACK_OFF_S)
        if now < self._start_at:
            return False
        self._start_at = 0.0
        self.restarts += 1
        self.start()
        return True

    def alive(self) -> bool:
        """True while the process runs."""
        return self._process is not None and self._process.poll() is None

    def exit_status(self) -> int | None:
        """How the process ended, or None while it runs."""
        return None if self._process is None else self._process.poll()

    def addresses(self) -> dict[str, str] | None:
        """What the process wrote to its ready file, or None while it does not answer yet."""
        try:
            written: dict[str, str] = json.loads(self._ready_file.read_text())
        except FileNotFoundError:
            return None
        return written

    def stop(self, timeout_s: float) -> None:
        """Ask the process to end, and kill it when it has not after `timeout_s` seconds."""
        if self._process is None:
            return
        if self.alive():
            self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def last_words(self) -> str:
        """The last line that the process wrote, for an error message."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return lines[-1] if lines else "it wrote nothing"
