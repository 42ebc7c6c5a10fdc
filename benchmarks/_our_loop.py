"""Our loop as a job runs it: every part of it real, the channel drained by another process as the attempt does."""

import math
import multiprocessing
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from _step_cases import Case
from _step_loops import MAX_NORM, WEIGHT_DECAY
from _turns import Turn, clock
from google.protobuf import text_format
from safetensors.torch import load
from torch import nn

from gradsight.v1 import spec_pb2
from gradsight_insight.signals import LayerFacts, RunFacts
from gradsight_models import layers_of
from gradsight_models.program import build_program, export_program
from gradsight_worker.training.channel import AttemptChannel, TrainerChannel
from gradsight_worker.training.clipping import Clipping
from gradsight_worker.training.data.batches import TrainingBatches
from gradsight_worker.training.data.encoding import ResidentRows
from gradsight_worker.training.loop import TrainingLoop, TrainingStep
from gradsight_worker.training.monitoring import RunMonitor
from gradsight_worker.training.objectives import ClassObjective
from gradsight_worker.training.optimizers import shrinkage_per_rate
from gradsight_worker.training.parameters import FlatParameters
from gradsight_worker.training.probes import Prober
from gradsight_worker.training.run_facts import layer_facts
from gradsight_worker.training.saving import CheckpointSaver
from gradsight_worker.training.state import TrainingState, initial_state
from gradsight_worker.training.telemetry import StepSlot, Telemetry

INTERVAL_S = 60
"""Between two saved states where the spec says nothing."""
_SLICES = 10
"""Parts of `Case.steps`, after each of which the turns of one loop change."""


def our_loop(case: Case, model: nn.Module, directory: Path) -> Turn:
    """A job's loop over the case's rows, with full telemetry at its default cadence."""
    return _turn_of(job_loop(case, model, directory, saver=_ByTheClock))


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Seconds that as many steps took with everything measured, and with nothing."""

    measured: float
    silent: float
    steps: int
    """Of either kind."""


def loop_by_turns(
    case: Case, directory: Path, probe_interval_steps: int | None
) -> Callable[[int], list[Spent]]:
    """A job's loop that can leave its telemetry out, after its warm-up; the answer takes so many pairs of turns.

    Both turns share the model, the rows, the memory and whatever luck the process has with it. A pair is a whole number
    of intervals between probes, for `case.steps` steps or more, so that it holds as many probes as its steps cost; it
    is taken in slices, in changing order, because a machine's speed wanders within a second.

    `probe_interval_steps` is the cadence; None: the default one.
    """
    loop = job_loop(
        case,
        case.model(),
        directory,
        saver=_ByTheClock,
        telemetry=_InTurns,
        probe_interval_steps=probe_interval_steps,
    )
    measured, silent = partial(_take, loop), partial(_take_silently, loop, _Silent(loop.state))
    measured(case.warm_up)
    slice_steps = max(1, case.steps // _SLICES)

    def pair() -> Spent:
        steps = _steps_to_a_probe(loop, case.steps)
        seconds = {measured: 0.0, silent: 0.0}
        order = [measured, silent]
        for begin in range(0, steps, slice_steps):
            for turn in order:
                seconds[turn] += turn(min(slice_steps, steps - begin))
            order.reverse()
        return Spent(measured=seconds[measured], silent=seconds[silent], steps=steps)

    return lambda pairs: [pair() for _ in range(pairs)]


def _steps_to_a_probe(loop: TrainingLoop, at_least: int) -> int:
    """How many steps end with one that is probed, if the cadence stays as it is."""
    cadence, step = loop.state.cadence, loop.state.step
    if cadence.next_step <= step:
        raise RuntimeError(f"no probe since step {cadence.next_step}, now {step}: measuring must have failed")
    steps = cadence.next_step - step
    return steps + max(0, -(-(at_least - steps) // cadence.interval)) * cadence.interval


def _take(loop: TrainingLoop, steps: int) -> float:
    """Nothing but steps, without what a loop does at its end: slices end often, and the run does not."""
    began = clock()
    for _ in range(steps):
        loop._take(loop.state.step + 1)
    return clock() - began


def _take_silently(loop: TrainingLoop, silent: "_Silent", steps: int) -> float:
    """The same, of which nothing is measured, reported or judged; the step numbers are used again."""
    step, telemetry = loop.state.step, loop.telemetry
    loop.telemetry = silent  # type: ignore[assignment]
    with telemetry.paused():
        seconds = _take(loop, steps)
    loop.telemetry, loop.state.step = telemetry, step
    return seconds


def _turn_of(loop: TrainingLoop) -> Turn:
    def turn(steps: int) -> float:
        loop.total_steps += steps
        began = clock()
        assert loop.run()
        return clock() - began

    return turn


def job_loop(
    case: Case,
    model: nn.Module,
    directory: Path,
    *,
    saver: type[CheckpointSaver],
    telemetry: type[Telemetry] = Telemetry,
    interval_s: int = INTERVAL_S,
    probe_interval_steps: int | None = None,
) -> TrainingLoop:
    """The parts of a job's loop, put together as the trainer does it. It has no steps to take yet."""
    torch.manual_seed(0)
    spec = _spec(case, interval_s)
    if probe_interval_steps is not None:
        spec.monitoring.probe_interval_steps = probe_interval_steps
    parameters = FlatParameters(model, torch.device("cpu"))
    state = initial_state(spec, parameters, total_steps=1_000_000)
    state.step = case.first_step
    state.cadence.next_step += case.first_step
    layers = layers_of(model)
    prober = Prober(model, layers, parameters)
    channel = _drained_channel()
    shrinkage = shrinkage_per_rate(spec.optimizer, parameters)
    monitor = _monitor(case, layer_facts(model, layers, prober.tap, shrinkage), channel)
    reporting = telemetry(
        report=lambda event, droppable: channel.send_event(event, droppable=droppable),
        device=state.device,
        prober=prober,
        cadence=state.cadence,
        gains=state.gains,
        noise=state.noise,
        watch=state.watch,
        training_seconds=0.0,
        watcher=monitor.measured,
    )
    return TrainingLoop(
        state=state,
        total_steps=state.step,
        batches=TrainingBatches(ResidentRows(case.rows()), batch_size=case.batch_size, seed=0),
        take_step=TrainingStep(
            model=model,
            objective=ClassObjective(),
            state=state,
            clipping=Clipping.of(spec.optimizer),
            prober=prober,
            report=channel.send_event,
        ),
        telemetry=reporting,
        validation=_NeverDue(),  # type: ignore[arg-type]
        saver=saver(spec=spec, directory=directory, attempt=1, channel=channel),
        channel=channel,
        monitor=monitor,
    )


def rebuilt_from_its_graph(case: Case) -> nn.Module:
    """The case's model as a worker gets it when a user sends their own module."""
    inputs, _ = case.rows()
    exported = export_program(case.model(), inputs[:2])
    weights = load(exported.weights)
    return build_program(exported.graph, weights).train()


class _NeverDue:
    """In place of the validation: the others evaluate nothing either."""

    def due(self, _step: int) -> bool:
        """Whether to evaluate after this step: no."""
        return False


class _Silent:
    """In place of telemetry: steps leave nothing behind."""

    def __init__(self, state: TrainingState) -> None:
        self._slot = StepSlot.apart(state.device)
        self.training_seconds = 0.0

    def probe_due(self, _step: int) -> bool:
        """Whether to measure this step more richly: no."""
        return False

    def begin_step(self, _step: int) -> StepSlot:
        """Where the step writes its numbers: always the same place."""
        return self._slot

    def end_step(self, *_: object, probed: bool) -> None:
        """Leave it."""

    def drain(self) -> None:
        """Nothing to report."""

    def paused(self) -> AbstractContextManager[None]:
        """Nobody counts the time."""
        return nullcontext()


class _InTurns(Telemetry):
    """As always, but that reports go out as often as in a loop that takes no turns."""

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The time of the other's turn brings the next report no nearer."""
        began = time.perf_counter()
        with super().paused():
            yield
        self._last_flush += time.perf_counter() - began


class _ByTheClock(CheckpointSaver):
    """Looks at the clock, as always, and saves nothing: a turn is no end of a run."""

    def save(self, state: TrainingState) -> None:
        """Leave it."""


def _monitor(case: Case, layers: Sequence[LayerFacts], channel: TrainerChannel) -> RunMonitor:
    facts = RunFacts(
        total_steps=1_000_000,
        steps_per_epoch=100,
        batch_size=case.batch_size,
        answers="classes",
        prior_loss=math.log(10),
        layers=tuple(layers),
    )
    return RunMonitor(facts, spec=spec_pb2.MonitoringSpec(), report=channel.send_event)


def _spec(case: Case, interval_s: int) -> spec_pb2.JobSpec:
    return text_format.Parse(
        f"""
        data {{ batch_size: {case.batch_size} }}
        optimizer {{
          learning_rate: {case.learning_rate}
          weight_decay: {WEIGHT_DECAY}
          max_gradient_norm: {MAX_NORM}
          adamw {{ beta1: 0.9 beta2: 0.999 epsilon: 1e-8 }}
        }}
        schedule {{ constant {{}} warmup_fraction: 0 }}
        checkpoint {{ interval {{ seconds: {interval_s} }} }}
        """,
        spec_pb2.JobSpec(),
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
