"""A worker whose trainer is tiny: what it does follows from the job's labels, its result from the seed alone.

Started as a script with the worker's options as JSON. The trainer hashes a chain: link n is the digest of link n - 1,
so a resumed run ends with the digest of an unbroken one exactly when it resumed where it was.
"""

import ctypes
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from gradsight.v1 import artifact_pb2, event_pb2, state_pb2
from gradsight_worker.start import WorkerOptions, run_worker
from gradsight_worker.training.channel import Command, ResultFile, TrainerChannel
from gradsight_worker.training.plan import ExitStatus, TrainingPlan


def run_trainer(plan: TrainingPlan, channel: TrainerChannel) -> int:
    """Take `budget.steps` steps of `pace_ms` milliseconds; save the state every `checkpoint.interval_steps`."""
    labels = plan.spec.labels
    step, link = _resume(plan, channel)
    channel.send_event(_log(_brought(plan)))
    channel.send_event(_log(f"trainer {os.getpid()} at step {step} {_surroundings()}"))
    if labels.get("misbehave") and plan.attempt == int(labels.get("misbehave_in", "1")):
        _misbehave(labels["misbehave"])
    while step < plan.spec.budget.steps:
        time.sleep(int(labels.get("pace_ms", "2")) / 1000)
        step, link = step + 1, hashlib.sha256(link).digest()
        channel.send_event(_step(step))
        asked = channel.poll_command() is Command.STOP_AFTER_CHECKPOINT and labels.get("deaf") != "yes"
        last = step == plan.spec.budget.steps
        if asked or last or step % plan.spec.checkpoint.interval_steps == 0:
            _save(plan, channel, step, link)
        if asked:
            channel.flush()
            return ExitStatus.STOPPED
    weights = plan.directory / "weights.safetensors"
    weights.write_bytes(link)
    result = ResultFile(path=weights, filename=weights.name, kind=artifact_pb2.ARTIFACT_KIND_RESULT)
    channel.send_result([result])
    return ExitStatus.SUCCEEDED


def _resume(plan: TrainingPlan, channel: TrainerChannel) -> tuple[int, bytes]:
    start = 0, hashlib.sha256(b"%d" % plan.spec.seed).digest()
    if plan.extended is not None:
        start = _read(plan.extended)
    # "damaged" says how many of the newest checkpoints the second attempt takes for damaged.
    damaged = int(plan.spec.labels.get("damaged", "0")) if plan.attempt == 2 else 0
    sound = plan.checkpoints[damaged:]
    if sound:
        start = _read(sound[0])
    if damaged:
        channel.send_rewound(step=start[0], reason="as asked", unusable=plan.checkpoints[:damaged])
    return start


def _read(path: Path) -> tuple[int, bytes]:
    step, link = path.read_text().split()
    return int(step), bytes.fromhex(link)


def _brought(plan: TrainingPlan) -> str:
    """What the attempt brought beside the rows."""
    files = {"graph": plan.graph, "weights": plan.weights, "extended": plan.extended}
    texts = [f"{name}={path.read_text()}" for name, path in files.items() if path is not None]
    if plan.start_weights is not None:
        texts.append(f"start={sorted(path.name for path in plan.start_weights.iterdir())}")
    return " ".join(["brought", *texts, f"data_memory={plan.data_memory_bytes}"])


def _save(plan: TrainingPlan, channel: TrainerChannel, step: int, link: bytes) -> None:
    path = plan.directory / f"step-{step}.checkpoint"
    path.write_text(f"{step} {link.hex()}")
    channel.send_checkpoint(path, step=step, seconds=0.001)


def _misbehave(how: str) -> None:
    match how:
        case "hang":
            time.sleep(3600)
        case "crash":
            raise RuntimeError("as asked")
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            os._exit(0)
        case "hold":
            ctypes.PyDLL(None).sleep(3600)  # with the interpreter held


def _surroundings() -> str:
    targets = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _exists(name)]
    sockets = sum(target.startswith("socket:") for target in targets)
    return f"sockets={sockets} environment={sorted(os.environ)} directory={Path.cwd().name}"


def _exists(name: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{name}")


def _step(step: int) -> event_pb2.JobEvent:
    recorded = event_pb2.StepsRecorded(
        first_step=step, loss=[1.0 / step], gradient_norm=[1.0], learning_rate=[0.1], clip_factor=[1.0]
    )
    return event_pb2.JobEvent(steps_recorded=recorded)


def _log(text: str) -> event_pb2.JobEvent:
    return event_pb2.JobEvent(log_line=event_pb2.LogLine(severity=state_pb2.SEVERITY_INFO, message=text))


def main() -> None:
    """Run the worker; the second argument is the file that says when it is ready."""
    options = json.loads(sys.argv[1])
    options["spool"] = Path(options["spool"])

    def ready(addresses: dict[str, str]) -> None:
        partial = Path(sys.argv[2] + ".partial")
        partial.write_text(json.dumps(addresses))
        partial.replace(sys.argv[2])

    run_worker(WorkerOptions(**options, trainer=run_trainer), ready)


if __name__ == "__main__":
    main()
