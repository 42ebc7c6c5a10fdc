"""A real worker whose trainers kill themselves, or the attempt above them, where the job's labels say.

`kill_<n>` is of attempt n: `<step>-<place>`, place being `before` or `after` the step, `saving` (the next state, half
written) or `attempt`. SIGKILL asks nobody, so it is all the same who sends it; and so it comes at exactly that step.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from gradsight_worker.start import WorkerOptions, run_worker
from gradsight_worker.training import checkpoints, trainer
from gradsight_worker.training.channel import TrainerChannel
from gradsight_worker.training.loop import TrainingLoop
from gradsight_worker.training.plan import TrainingPlan

_take, _flush, _run_trainer = TrainingLoop._take, checkpoints._flush, trainer.run_trainer


def run_trainer(plan: TrainingPlan, channel: TrainerChannel) -> int:
    """Train as planned, up to where this attempt dies."""
    when = plan.spec.labels.get(f"kill_{plan.attempt}")
    if when is not None:
        step, place = when.split("-")
        _die(int(step), place)
    return _run_trainer(plan, channel)


def _die(wanted: int, place: str) -> None:
    reached = 0

    def take(loop: TrainingLoop, step: int) -> None:
        nonlocal reached
        reached = step
        if step == wanted and place == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        _take(loop, step)
        if step == wanted and place == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        if step == wanted and place == "attempt":
            time.sleep(
                0.2
            )  # states that were sent get stored: losses that bring no state back off, longer and longer
            os.kill(os.getppid(), signal.SIGKILL)
            signal.pause()  # until the kernel takes this process along

    def flush(path: Path) -> None:
        if reached >= wanted and place == "saving":
            os.kill(os.getpid(), signal.SIGKILL)
        _flush(path)

    TrainingLoop._take = take  # type: ignore[assignment, method-assign]
    checkpoints._flush = flush


def main() -> None:
    """Run the worker; the second argument is the file that says when it is ready."""
    trainer.run_trainer = run_trainer
    options = json.loads(sys.argv[1])
    options["spool"] = Path(options["spool"])

    def ready(addresses: dict[str, str]) -> None:
        Path(sys.argv[2]).write_text(json.dumps(addresses))

    run_worker(WorkerOptions(**options), ready)


if __name__ == "__main__":
    main()
