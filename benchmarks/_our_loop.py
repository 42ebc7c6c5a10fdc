"""Our loop as a job runs it: every part of it real, the channel drained by another process as the attempt does."""

import multiprocessing
import select
import socket
import time
from functools import partial
from pathlib import Path

import torch
from _step_cases import Case
from _step_loops import MAX_NORM, WEIGHT_DECAY, Turn
from google.protobuf.duration_pb2 import Duration
from torch import nn
from torch.nn import functional

from gradsight.v1 import spec_pb2
from gradsight_models import layers_of
from gradsight_worker.training.channel import AttemptChannel, TrainerChannel
from gradsight_worker.training.data.batches import TrainingBatches
from gradsight_worker.training.loop import TrainingLoop, TrainingStep
from gradsight_worker.training.optimizers import build_optimizer
from gradsight_worker.training.parameters import FlatParameters
from gradsight_worker.training.probes import ProbeCadence, Prober
from gradsight_worker.training.saving import CheckpointSaver
from gradsight_worker.training.state import KeptWeights, TrainingState
from gradsight_worker.training.telemetry import Telemetry


def our_loop(case: Case, model: nn.Module, directory: Path) -> Turn:
    """A job's loop over the case's rows: full telemetry at the default cadence, checkpoints by the clock."""
    torch.manual_seed(0)
    parameters = FlatParameters(model, torch.device("cpu"))
    state = TrainingState(
        parameters=parameters,
        optimizer=build_optimizer(_spec(case).optimizer, parameters),
        kept=KeptWeights.like(parameters),
        cadence=ProbeCadence(fixed=None, total_steps=case.first_step + case.warm_up),
        step=case.first_step,
    )
    state.cadence.next_step += state.step
    inputs, targets = case.rows()
    prober = Prober(model, layers_of(model), parameters)
    channel = _drained_channel()
    telemetry = Telemetry(
        report=lambda event, droppable: channel.send_event(event, droppable=droppable),
        device=state.device,
        prober=prober,
        cadence=state.cadence,
        gains=state.gains,
        watch=state.watch,
        training_seconds=0.0,
    )
    loop = TrainingLoop(
        state=state,
        total_steps=state.step,
        batches=TrainingBatches((inputs,), targets, batch_size=case.batch_size, seed=0),
        schedule=lambda _step: case.learning_rate,
        take_step=TrainingStep(
            model=model,
            objective=partial(functional.cross_entropy, label_smoothing=0.0),
            state=state,
            max_gradient_norm=MAX_NORM,
            prober=prober,
        ),
        telemetry=telemetry,
        validation=_NeverDue(),  # type: ignore[arg-type]
        saver=CheckpointSaver(spec=_spec(case), directory=directory, attempt=1, channel=channel),
        channel=channel,
    )

    def turn(steps: int) -> float:
        loop.total_steps += steps
        began = time.perf_counter()
        assert loop.run()
        return time.perf_counter() - began

    return turn


class _NeverDue:
    """In place of the validation: the others evaluate nothing either."""

    def due(self, _step: int) -> bool:
        """Whether to evaluate after this step: no."""
        return False


def _spec(case: Case) -> spec_pb2.JobSpec:
    return spec_pb2.JobSpec(
        optimizer=spec_pb2.OptimizerSpec(
            learning_rate=case.learning_rate,
            weight_decay=WEIGHT_DECAY,
            max_gradient_norm=MAX_NORM,
            adamw=spec_pb2.AdamW(beta1=0.9, beta2=0.999, epsilon=1e-8),
        ),
        checkpoint=spec_pb2.CheckpointSpec(interval=Duration(seconds=60)),
    )


def _drained_channel() -> TrainerChannel:
    """The trainer's end of a channel whose other end a process reads and decodes, as an attempt does."""
    ours, theirs = socket.socketpair()
    context = multiprocessing.get_context("spawn")
    context.Process(target=_drain, args=(theirs,), daemon=True).start()
    theirs.close()
    return TrainerChannel(ours)


def _drain(connection: socket.socket) -> None:
    channel = AttemptChannel(connection)
    while not channel.closed:
        select.select([channel], [], [])
        channel.receive()
