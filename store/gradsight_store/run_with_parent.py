"""Become another program that gets a signal when the process that started this one ends, however it ends.

`python -I -S run_with_parent.py PARENT_PID SIGNAL PROGRAM ARGUMENT...`; run as a file, by the standard library
alone.
Doing this here and not between fork and exec of the parent keeps Python code out of a forked copy of a process
that may have threads. The signal follows the *thread* that started this process: it has to be one that lasts.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def launcher(end: int) -> list[str]:
    """What to put before a program's path, so that it gets the signal `end` when the calling process ends."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(end))]


def main() -> None:
    """Tie this process to its parent, then become the program. Exits with 1 when the parent has gone already."""
    parent, end, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, end, 0, 0, 0)  # kept across exec
    if os.getppid() != parent:
        sys.exit(1)  # it ended before the call took effect, so no signal will come
    os.execv(program[0], program)  # noqa: S606 -- the program is the point


if __name__ == "__main__":
    main()
