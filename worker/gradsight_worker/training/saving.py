"""When to save the training state, and what becomes of the file."""

import time
from pathlib import Path

from gradsight.v1 import event_pb2, spec_pb2, state_pb2
from gradsight_worker.training.channel import TrainerChannel
from gradsight_worker.training.checkpoints import save_checkpoint
from gradsight_worker.training.state import TrainingState

MOST_SHARE = 0.05
"""Of the time, that saving by the clock may take."""


class CheckpointSaver:
    """Saves by the clock and, where the spec says so, by the step. A file that was announced is the attempt's.

    Where saving is slow, the clock's interval grows until saving takes no more than 5 % of the time.
    """

    def __init__(
        self, *, spec: spec_pb2.JobSpec, directory: Path, attempt: int, channel: TrainerChannel
    ) -> None:
        interval = spec.checkpoint.interval
        self._interval_seconds = interval.seconds + interval.nanos / 1e9
        self._interval_steps = (
            spec.checkpoint.interval_steps if spec.checkpoint.HasField("interval_steps") else None
        )
        self._spec = spec
        self._directory = directory
        self._attempt = attempt
        self._channel = channel
        self._last_save = time.perf_counter()
        self._last_cost = 0.0

    def due(self, step: int, now: float) -> bool:
        """Whether to save after this step; `now` on the clock of `time.perf_counter`."""
        if self._interval_steps is not None and step % self._interval_steps == 0:
            return True
        affordable = self._last_cost * (1 - MOST_SHARE) / MOST_SHARE
        return now - self._last_save >= max(self._interval_seconds, affordable)

    def save(self, state: TrainingState) -> None:
        """Write the state and announce it. A disk that refuses costs this checkpoint, not the run."""
        start = time.perf_counter()
        # The attempt stands in the name: one that was given up cannot overwrite its successor's files.
        path = self._directory / f"step-{state.step}.attempt-{self._attempt}.safetensors"
        try:
            save_checkpoint(path, state, self._spec)
        except OSError as error:
            line = event_pb2.LogLine(
                severity=state_pb2.SEVERITY_WARNING,
                message=f"Saving the state after step {state.step} failed, training goes on: {error.strerror or error}",
            )
            self._channel.send_event(event_pb2.JobEvent(log_line=line))
        else:
            self._channel.send_checkpoint(path, step=state.step, seconds=time.perf_counter() - start)
        self._last_save = time.perf_counter()
        self._last_cost = self._last_save - start
