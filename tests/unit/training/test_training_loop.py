"""The loop around the steps: what it says in which order, when it ends, and what it saves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from gradsight.v1 import event_pb2, spec_pb2
from gradsight_worker.training.channel import (
    AttemptChannel,
    CheckpointMessage,
    Command,
    EventMessage,
    TrainerChannel,
    open_channel,
)
from gradsight_worker.training.loop import TrainingLoop
from gradsight_worker.training.saving import CheckpointSaver
from gradsight_worker.training.state import TrainingState

if TYPE_CHECKING:
    from tests.unit.training.conftest import Stepper


class Batches:
    """The same 16 rows every time."""

    def __init__(self, made: Stepper) -> None:
        self._made = made

    def fetch(self, step: int) -> tuple[tuple[Tensor, ...], Tensor]:
        return self._made.batch(0)

    def samples_until(self, step: int) -> int:
        return 16 * step


class Judge:
    """In place of the validation: every second step, with figures that somebody else thought of."""

    def __init__(self, figures: list[float]) -> None:
        self._figures = iter(figures)

    def due(self, step: int) -> bool:
        return step % 2 == 0

    def evaluate(self, state: TrainingState) -> event_pb2.EvaluationCompleted:
        return event_pb2.EvaluationCompleted(step=state.step, selection_figure=next(self._figures))


@pytest.fixture
def channel() -> Iterator[tuple[TrainerChannel, AttemptChannel]]:
    ours, theirs = open_channel()
    yield ours, theirs
    ours.close()
    theirs.close()


def loop_of(
    stepper: Callable[..., Stepper],
    figures: list[float],
    channel: TrainerChannel,
    directory: Path,
    *,
    total_steps: int = 10,
) -> TrainingLoop:
    spec = spec_pb2.JobSpec()
    spec.data.batch_size = 16
    spec.optimizer.learning_rate = 0.01
    spec.optimizer.max_gradient_norm = 1.0
    spec.optimizer.adamw.beta1, spec.optimizer.adamw.beta2, spec.optimizer.adamw.epsilon = 0.9, 0.999, 1e-8
    spec.schedule.constant.SetInParent()
    spec.evaluation.patience = 2
    spec.checkpoint.interval.seconds = 1000
    torch.manual_seed(0)
    made = stepper(nn.Linear(7, 3), spec, total_steps=total_steps)
    monitor = made.monitor(channel.send_event)
    return TrainingLoop(
        state=made.state,
        total_steps=total_steps,
        batches=Batches(made),  # type: ignore[arg-type]
        take_step=made.take_step,
        telemetry=made.telemetry(
            report=lambda event, droppable: channel.send_event(event, droppable=droppable),
            watcher=monitor.measured,
        ),
        validation=Judge(figures),  # type: ignore[arg-type]
        saver=CheckpointSaver(spec=spec, directory=directory, attempt=1, channel=channel),
        channel=channel,
        monitor=monitor,
    )


def events(channel: AttemptChannel) -> list[str]:
    """Kinds of what came, in order; of steps with the last one's number."""
    found = []
    for message in channel.receive():
        if isinstance(message, CheckpointMessage):
            found.append(f"checkpoint {message.step}")
        if isinstance(message, EventMessage):
            kind = message.event.WhichOneof("kind")
            if kind == "steps_recorded":
                recorded = message.event.steps_recorded
                found.append(f"steps to {recorded.first_step + len(recorded.loss) - 1}")
            elif kind == "evaluation_completed":
                found.append(f"evaluation {message.event.evaluation_completed.step}")
            elif kind == "training_stopped":
                found.append(f"stopped {message.event.training_stopped.step}")
    return found


def test_an_evaluation_comes_after_the_steps_that_led_to_it_and_the_last_state_is_saved(
    stepper: Callable[..., Stepper], channel: tuple[TrainerChannel, AttemptChannel], tmp_path: Path
) -> None:
    loop = loop_of(stepper, [0.5, 0.4, 0.3, 0.2, 0.1], channel[0], tmp_path)
    assert loop.run()
    found = events(channel[1])
    for step in (2, 4, 6, 8, 10):
        assert found.index(f"steps to {step}") < found.index(f"evaluation {step}")
    assert found[-1] == "checkpoint 10"


def test_a_run_whose_patience_ran_out_says_so_and_is_over_for_good(
    stepper: Callable[..., Stepper], channel: tuple[TrainerChannel, AttemptChannel], tmp_path: Path
) -> None:
    loop = loop_of(stepper, [0.5, 0.6, 0.5, 0.4], channel[0], tmp_path)
    assert loop.run()
    assert events(channel[1])[-3:] == ["evaluation 6", "stopped 6", "checkpoint 6"]
    assert loop.state.stopped_early
    assert loop.run()
    assert loop.state.step == 6
    assert events(channel[1]) == []


def test_a_run_that_is_asked_to_stop_saves_and_is_not_over(
    stepper: Callable[..., Stepper], channel: tuple[TrainerChannel, AttemptChannel], tmp_path: Path
) -> None:
    loop = loop_of(stepper, [0.5] * 3, channel[0], tmp_path)
    channel[1].send_command(Command.STOP_AFTER_CHECKPOINT)
    assert not loop.run()
    assert loop.state.step == 1
    assert events(channel[1])[-1] == "checkpoint 1"
