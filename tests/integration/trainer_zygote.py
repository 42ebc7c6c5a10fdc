"""Forks trainers as a worker does: imports everything first, computes nothing, then forks on request.

Speaks JSON lines over the socket whose descriptor is its argument; a request to start comes with the trainer's end of
a channel. Started by `test_training_run.py`.
"""

import json
import os
import resource
import socket
import sys
from pathlib import Path
from typing import Any

from gradsight.v1 import event_pb2, spec_pb2
from gradsight_worker.training.channel import TrainerChannel
from gradsight_worker.training.plan import DataFile, TrainingPlan
from gradsight_worker.training.trainer import run_trainer, warm_up_imports


def main() -> None:
    warm_up_imports()
    control = socket.socket(fileno=int(sys.argv[1]))
    while True:
        line, descriptors, _, _ = socket.recv_fds(control, 1 << 20, 1)
        if not line:
            return
        request = json.loads(line)
        answer = _start(request, descriptors[0]) if "spec" in request else _wait(request["wait"])
        control.sendall(json.dumps(answer).encode())


def _start(request: dict[str, Any], descriptor: int) -> dict[str, int]:
    pid = os.fork()
    if pid == 0:
        os._exit(_train(request, socket.socket(fileno=descriptor)))
    os.close(descriptor)
    return {"pid": pid}


def _wait(pid: int) -> dict[str, int]:
    return {"status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}


def _train(request: dict[str, Any], connection: socket.socket) -> int:
    known = set(sys.modules)
    if request["spare_memory_bytes"] is not None:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + request["spare_memory_bytes"],) * 2)

    class Channel(TrainerChannel):
        def send_event(self, event: event_pb2.JobEvent, *, droppable: bool = False) -> None:
            if event.steps_recorded.HasField("first_step_time"):
                new = " ".join(sorted(set(sys.modules) - known))
                super().send_event(event_pb2.JobEvent(log_line=event_pb2.LogLine(message=f"imported: {new}")))
            super().send_event(event, droppable=droppable)

    files = {
        name: DataFile(path=Path(path), format=spec_pb2.DATA_FORMAT_UNSPECIFIED, filename=Path(path).name)
        for name, path in request["files"].items()
    }
    plan = TrainingPlan(
        job_id="job",
        attempt=request["attempt"],
        spec=spec_pb2.JobSpec.FromString(bytes.fromhex(request["spec"])),
        device="cpu",
        directory=Path(request["directory"]),
        train=files["train"],
        validation=files.get("validation"),
        test=files.get("test"),
        baseline=Path(request["baseline"]) if request["baseline"] else None,
        checkpoints=tuple(map(Path, request["checkpoints"])),
        threads=1,
    )
    return run_trainer(plan, Channel(connection))


if __name__ == "__main__":
    main()
