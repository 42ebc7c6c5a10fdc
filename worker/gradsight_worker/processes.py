"""Parents and children: nobody outlives whom it works for, and every death gets a name. Linux only."""

import ctypes
import functools
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

CRASHED = 70
"""Exit status of a child that ended by an exception."""


@dataclass(frozen=True, kw_only=True)
class Child:
    """A forked child of this process. `descriptor` becomes readable when it ends."""

    pid: int
    descriptor: int

    def kill(self) -> None:
        """Kill it. Harmless when it has ended, as long as it was not reaped by `wait`."""
        os.kill(self.pid, signal.SIGKILL)

    def ended(self) -> bool:
        """Whether it has ended, reaped or not."""
        return bool(select.select([self.descriptor], [], [], 0)[0])

    def wait(self) -> int:
        """Wait for its end and return its exit status, negative for a signal. Call it once."""
        return self.wait_measured()[0]

    def wait_measured(self) -> tuple[int, int]:
        """The same, and the most memory that it held, in bytes, pages that it shared with its parent included."""
        _, status, usage = os.wait4(self.pid, 0)
        os.close(self.descriptor)
        return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024


def fork_child(run: Callable[[], int]) -> Child:
    """Fork a child that returns `run`'s value as its exit status and is killed when this process ends.

    Call it in the main thread: the kernel ties the child's life to the *thread* that forked it. SIGINT and SIGTERM
    are blocked when `run` starts: it decides what they mean to it, then calls `unblock_signals`. An exception in
    `run` is logged and ends the child with status 70.
    """
    prepare_for_forks()
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    pid = os.fork()
    if pid == 0:
        _run_and_exit(parent, run)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    return Child(pid=pid, descriptor=os.pidfd_open(pid))


def _run_and_exit(parent: int, run: Callable[[], int]) -> NoReturn:
    exit_status = CRASHED
    try:
        die_with_parent(parent)
        signal.set_wakeup_fd(-1)  # the parent's
        exit_status = run()
    except BaseException:
        logging.getLogger(__name__).exception("a process ended by an exception")
    finally:
        sys.stderr.flush()
        os._exit(exit_status)


def ignore_stop_signals() -> None:
    """Leave stopping to the parent, which asks or kills."""
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    unblock_signals()


def unblock_signals() -> None:
    """Let signals in that `fork_child` held back."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


def die_with_parent(parent: int) -> None:
    """Have this process killed when `parent` ends; ends it at once when `parent` has ended already.

    To be called after any change of user, which clears the kernel's promise.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(CRASHED)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ended, so that their end can be waited for."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def prepare_for_forks() -> None:
    """Load what a forked child needs in its first instructions."""
    _libc()


def kill_group(group: int) -> None:
    """Kill a process group. Harmless when it is gone."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def reap_group(group: int, patience_s: float) -> bool:
    """Wait until every process of a group that is, or was adopted as, our child has ended. False: some have not."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            pid, _ = os.waitpid(-group, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid == 0:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)


def describe_exit(status: int) -> str:
    """How a process ended, for people. `status` is an exit status, negative for a signal."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def count_memory_kills() -> int:
    """Processes that the kernel killed for lack of memory so far, in this control group or, failing that, anywhere."""
    for path in (_control_group_events(), Path("/proc/vmstat")):
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0


def _control_group_events() -> Path:
    root = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return root / "memory.events"
    unified = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    return root / unified / "memory.events"


def _prctl(option: int, value: int) -> None:
    if _libc().prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
