"""The trainer's process: forked with two ends of pipes, and with nothing else that reaches the outside."""

import base64
import json
import os
import resource
import select
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gradsight.v1 import spec_pb2
from gradsight_worker import processes
from gradsight_worker.logs import log_also
from gradsight_worker.training.channel import AttemptChannel, TrainerChannel
from gradsight_worker.training.plan import DataFile, TrainingPlan

_DATA_FILES = ("train", "validation", "test")
_PATHS = ("directory", "baseline", "graph", "weights", "extended", "start_weights", "replayed")
_PLAIN = ("job_id", "attempt", "device", "threads", "data_memory_bytes")

RunTrainer = Callable[[TrainingPlan, TrainerChannel], int]
"""The trainer's entry: reports everything over the channel and returns an `ExitStatus`."""

Rehearse = Callable[[Callable[[], bool]], None]
"""What a trainer does while it waits; asks now and then whether there is something better to do."""

# What libraries read to find themselves, their threads and their devices, and what recipes read. Everything else
# stays behind: above all the store's address and whatever credentials the operator put into the environment.
_KEPT_NAMES = frozenset({"HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "TZ", "USER"})
_KEPT_PREFIXES = (
    "CUDA_",
    "CUBLAS_",
    "GRADSIGHT_RECIPE_",
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


_SOON_S = 0.05  # a plan that comes sooner must not wait for a rehearsal


class WaitingTrainer:
    """A trainer's process, isolated and waiting for its plan.

    It is forked before there is a job, so that no job waits for the fork. Make it in the main thread of a process
    that has done no torch operation.

    Args:
        run_trainer: What it runs once it has a plan.
        rehearse: What it does meanwhile. None: nothing.
        memory_limit_bytes: Its address space. None: unlimited.
    """

    def __init__(
        self, run_trainer: RunTrainer, rehearse: Rehearse | None, memory_limit_bytes: int | None
    ) -> None:
        theirs, ours = socket.socketpair()
        reading, self._writing = os.pipe()

        def run() -> int:
            _isolate(keep={theirs.fileno(), reading}, memory_limit_bytes=memory_limit_bytes)
            if rehearse is not None and not _readable(reading, _SOON_S):
                rehearse(lambda: _readable(reading, 0.0))
            with os.fdopen(reading, "rb") as pipe:
                text = pipe.read()
            if not text:
                return 0  # there was no job for it
            plan = plan_from_json(text)
            log_also(job_id=plan.job_id, process="trainer")
            _settle_in(plan.directory)
            return run_trainer(plan, TrainerChannel(theirs))

        self.child = processes.fork_child(run)
        self._channel = AttemptChannel(ours)
        theirs.close()
        os.close(reading)

    def start(self, plan: TrainingPlan) -> AttemptChannel:
        """Let it run. A trainer that has died meanwhile is noticed as any that dies: by its end."""
        with suppress(BrokenPipeError), os.fdopen(self._writing, "wb") as pipe:
            pipe.write(plan_to_json(plan))
        return self._channel

    def dismiss(self) -> None:
        """End it: there is no job for it."""
        self.child.kill()
        self.child.wait()
        os.close(self._writing)
        self._channel.close()


def plan_to_json(plan: TrainingPlan) -> bytes:
    """A plan as it goes through the pipe."""
    files = {name: _file_to_json(getattr(plan, name)) for name in _DATA_FILES}
    paths = {name: path and str(path) for name in _PATHS for path in [getattr(plan, name)]}
    rest = {
        "spec": base64.b64encode(plan.spec.SerializeToString()).decode(),
        "checkpoints": [str(path) for path in plan.checkpoints],
    }
    return json.dumps(files | paths | rest | {name: getattr(plan, name) for name in _PLAIN}).encode()


def plan_from_json(text: bytes) -> TrainingPlan:
    """The plan that `plan_to_json` wrote."""
    fields = json.loads(text)
    files: dict[str, Any] = {name: _file_from_json(fields[name]) for name in _DATA_FILES}
    paths: dict[str, Any] = {name: path and Path(path) for name in _PATHS for path in [fields[name]]}
    return TrainingPlan(
        spec=spec_pb2.JobSpec.FromString(base64.b64decode(fields["spec"])),
        checkpoints=tuple(map(Path, fields["checkpoints"])),
        **files,
        **paths,
        **{name: fields[name] for name in _PLAIN},
    )


def _file_to_json(file: DataFile | None) -> dict[str, Any] | None:
    if file is None:
        return None
    return {"path": str(file.path), "format": file.format, "filename": file.filename}


def _file_from_json(fields: dict[str, Any] | None) -> DataFile | None:
    if fields is None:
        return None
    return DataFile(path=Path(fields["path"]), format=fields["format"], filename=fields["filename"])


def _isolate(*, keep: set[int], memory_limit_bytes: int | None) -> None:
    processes.ignore_stop_signals()  # the attempt asks over the channel, or kills
    _release_descriptors(keep)
    _clear_environment()
    if memory_limit_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory_limit_bytes, memory_limit_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # a hint; some containers forbid it
        Path("/proc/self/oom_score_adj").write_text(_MOST_LIKELY_VICTIM, encoding="ascii")


def _readable(descriptor: int, patience_s: float) -> bool:
    return bool(select.select([descriptor], [], [], patience_s)[0])


def _settle_in(directory: Path) -> None:
    """Whatever a library writes without being asked lands in the attempt's own directory."""
    os.chdir(directory)
    os.environ["TMPDIR"] = str(directory)
    tempfile.tempdir = None  # read anew from TMPDIR


def _release_descriptors(keep: set[int]) -> None:
    """Point every inherited descriptor but stdout, stderr and those of `keep` at nothing.

    They are replaced, not closed: Python objects of the parent still own the numbers, and would close whatever
    is opened under them later.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor in keep | {1, 2, nothing}:
            continue
        try:
            os.fstat(descriptor)
        except OSError:
            continue  # the one that listed the directory
        os.dup2(nothing, descriptor)


def _clear_environment() -> None:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT_NAMES or name.startswith(_KEPT_PREFIXES)
    }
    os.environ.clear()
    os.environ.update(kept)
