"""The trainer's process: forked with a plan and a socket, and with nothing else that reaches the outside."""

import os
import resource
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gradsight_worker import processes
from gradsight_worker.training.channel import AttemptChannel, TrainerChannel
from gradsight_worker.training.plan import TrainingPlan

RunTrainer = Callable[[TrainingPlan, TrainerChannel], int]
"""The trainer's entry: reports everything over the channel and returns an `ExitStatus`."""

# What libraries read to find themselves, their threads and their devices. Everything else stays behind: above
# all the store's address and whatever credentials the operator put into the environment.
_KEPT_NAMES = frozenset({"HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "TZ", "USER"})
_KEPT_PREFIXES = (
    "CUDA_",
    "CUBLAS_",
    "KMP_",
    "LC_",
    "MKL_",
    "NVIDIA_",
    "OMP_",
    "OPENBLAS_",
    "PYTHON",
    "PYTORCH_",
    "TORCH",
    "TRITON_",
)
_MOST_LIKELY_VICTIM = "500"  # of the kernel, when memory runs out: before the attempt and the supervisor


def start_trainer(
    plan: TrainingPlan, run_trainer: RunTrainer, memory_limit_bytes: int | None
) -> tuple[processes.Child, AttemptChannel]:
    """Fork the trainer. Call it in the main thread, before the process has done any torch operation."""
    theirs, ours = socket.socketpair()

    def run() -> int:
        _isolate(plan.directory, keep=theirs.fileno(), memory_limit_bytes=memory_limit_bytes)
        return run_trainer(plan, TrainerChannel(theirs))

    child = processes.fork_child(run)
    theirs.close()
    return child, AttemptChannel(ours)


def _isolate(directory: Path, *, keep: int, memory_limit_bytes: int | None) -> None:
    processes.ignore_stop_signals()  # the attempt asks over the channel, or kills
    _release_descriptors(keep)
    _clear_environment(directory)
    os.chdir(directory)
    if memory_limit_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory_limit_bytes, memory_limit_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # a hint; some containers forbid it
        Path("/proc/self/oom_score_adj").write_text(_MOST_LIKELY_VICTIM, encoding="ascii")


def _release_descriptors(keep: int) -> None:
    """Point every inherited descriptor but stdout, stderr and `keep` at nothing.

    They are replaced, not closed: Python objects of the parent still own the numbers, and would close whatever
    is opened under them later.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor in (1, 2, keep, nothing):
            continue
        try:
            os.fstat(descriptor)
        except OSError:
            continue  # the one that listed the directory
        os.dup2(nothing, descriptor)


def _clear_environment(directory: Path) -> None:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT_NAMES or name.startswith(_KEPT_PREFIXES)
    }
    os.environ.clear()
    os.environ.update(kept, TMPDIR=str(directory))
    tempfile.tempdir = None  # read anew from TMPDIR
