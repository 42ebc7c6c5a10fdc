"""The training loop: compute the loss, send gradients backward, measure, update the weights, repeat.

Nothing here asks the device for a number, so the processor is always free to prepare the next step. A step whose loss
or gradient is not finite changes nothing: the decision is a tensor, taken where the numbers are.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gradsight.v1 import event_pb2, spec_pb2
from gradsight_worker.training.backward import send_backward
from gradsight_worker.training.channel import Command, TrainerChannel
from gradsight_worker.training.clipping import Clipper, Clipping
from gradsight_worker.training.computing import refusal_of
from gradsight_worker.training.data.batches import TrainingBatches
from gradsight_worker.training.evaluation import Validation
from gradsight_worker.training.memory import MicroBatches, shortage_of_memory
from gradsight_worker.training.mitigation.supervision import Supervision
from gradsight_worker.training.monitoring import RunMonitor
from gradsight_worker.training.nonfinite import BufferGuard
from gradsight_worker.training.objectives import Objective
from gradsight_worker.training.probes import Prober
from gradsight_worker.training.randomness import random_state, restore_random_state
from gradsight_worker.training.saving import CheckpointSaver
from gradsight_worker.training.state import TrainingState
from gradsight_worker.training.telemetry import StepSlot, Telemetry
from gradsight_worker.training.ticking import ticking

_LOOK_SECONDS = 0.05
"""How often the loop looks at the channel and the clock of checkpoints."""
_NOISE_INTERVAL = 4
"""Probes between two that send half of the batch backward first, unless its parts tell the gradient's noise anyway."""


@dataclass(kw_only=True)
class TrainingLoop:
    """Takes the steps of a run, from the state as it is to the end of the budget."""

    state: TrainingState
    total_steps: int
    batches: TrainingBatches
    take_step: "TrainingStep"
    telemetry: Telemetry
    validation: Validation
    saver: CheckpointSaver
    channel: TrainerChannel
    monitor: RunMonitor
    supervision: Supervision | None = None
    """Acts on findings, under a policy that does."""
    compute: spec_pb2.ComputeSpec = field(default_factory=spec_pb2.ComputeSpec)
    stop_requested: bool = False

    def run(self) -> bool:
        """Train; False when asked to stop before the end. Raises TrainingFailed and ChannelClosed."""
        if (self.compute.compiled or self.compute.deterministic) and not self.finished:
            self._try_out()
        next_look = 0.0
        while not self.finished and not self.stop_requested:
            step = self.state.step + 1
            self._take(step)
            if self.validation.due(step):
                self._evaluate()
            if self.supervision is not None and (self.supervision.due(step) or self.finished):
                self._supervise()
            now = time.perf_counter()
            if now >= next_look:
                self.look_around()
                next_look = now + _LOOK_SECONDS
            if self.saver.due(step, now) or self.stop_requested or self.finished:
                self._save()
        self.telemetry.drain()
        return self.finished

    @property
    def finished(self) -> bool:
        """Whether the last step is done."""
        return self.state.step >= self.total_steps or self.state.stopped_early

    def _try_out(self) -> None:
        try:
            with self.telemetry.paused(), ticking(self.channel, self.state.step):
                self.take_step.try_out(*self.batches.fetch(self.state.step + 1))
        except Exception as error:
            if refusal := refusal_of(error, self.compute):
                raise refusal from error
            raise

    def _take(self, step: int) -> None:
        inputs, targets = self.batches.fetch(step)
        learning_rate = self.state.learning_rate(step)
        probing = self.telemetry.probe_due(step)
        slot = self.telemetry.begin_step(step)
        if probing:
            self.take_step.probed(inputs, targets, learning_rate, slot, self.telemetry)
        else:
            self.take_step(inputs, targets, learning_rate, slot)
        self.state.step = step
        self.telemetry.end_step(step, learning_rate, self.batches.samples_until(step), probed=probing)

    def _evaluate(self) -> None:
        # Readers of the log find an evaluation after the steps that led to it.
        self.telemetry.drain()
        with self.telemetry.paused(), ticking(self.channel, self.state.step):
            event = self.validation.evaluate(self.state)
            self.channel.send_event(event_pb2.JobEvent(evaluation_completed=event))
            self.monitor.judge(self.state.step)
        self.state.schedule.observe(event.selection_figure)
        if self.state.patience.observe(event.selection_figure) and self.state.step < self.total_steps:
            self._stop_early(self.state.patience.message)

    def _supervise(self) -> None:
        assert self.supervision is not None
        self.telemetry.drain()
        remedy = self.supervision.consult(self.state.step, last=self.finished)
        if remedy is not None:
            if self.state.kept.evaluation is None:
                self._evaluate()
            self.state.stopped_by = remedy.kind
            self._stop_early(f"a critical finding, {remedy.finding_id}")

    def _stop_early(self, reason: str) -> None:
        self.state.stopped_early = True
        stopped = event_pb2.TrainingStopped(step=self.state.step, message=reason)
        self.channel.send_event(event_pb2.JobEvent(training_stopped=stopped))

    def look_around(self) -> None:
        """Say that the run is alive, and hear whether it is to stop."""
        self.channel.tick(self.state.step)
        if self.channel.poll_command() is Command.STOP_AFTER_CHECKPOINT:
            self.stop_requested = True

    def _save(self) -> None:
        # Steps that are not reported by now would be missing after a resume from this state.
        self.telemetry.drain()
        self.state.training_seconds = self.telemetry.training_seconds
        self.state.monitor = self.monitor.state()
        with self.telemetry.paused():
            self.saver.save(self.state)


class TrainingStep:
    """One optimizer step on one batch.

    Args:
        model: From inputs to scores.
        objective: From scores and expected output to a loss.
        state: What the step changes, and with what.
        clipping: Limits of the gradient.
        prober: Measures some steps layer by layer.
        report: Takes an event of a step that had to be computed in smaller parts.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        objective: Objective,
        state: TrainingState,
        clipping: Clipping,
        prober: Prober,
        report: Callable[[event_pb2.JobEvent], None],
    ) -> None:
        self._model = model
        self._objective = objective
        self._state = state
        self._parameters = state.parameters
        self._loss_scale = state.precision.loss_scale
        repairs = state.repairs
        self._spikes = None if repairs is None else repairs.spikes
        self._clipper = Clipper(
            clipping, state.device, norm_limit=None if repairs is None else repairs.norm_limit
        )
        self._prober = prober
        self._report = report
        self._micro_batches = MicroBatches(state=state, model=model, objective=objective)
        self._guard = BufferGuard(state.parameters.buffers)

    def __call__(
        self, inputs: tuple[Tensor, ...], targets: Tensor, learning_rate: float, slot: StepSlot
    ) -> None:
        """Loss, gradients, update; the slot takes what was measured on the way."""
        self.forward_backward(inputs, targets, slot)
        self.update(learning_rate, slot)

    def probed(
        self,
        inputs: tuple[Tensor, ...],
        targets: Tensor,
        learning_rate: float,
        slot: StepSlot,
        telemetry: Telemetry,
    ) -> None:
        """The same step, measured layer by layer around it. Failing measurements do not fail the step."""
        prober, result = self._prober, telemetry.probe_result()
        scale = self._loss_scale and self._loss_scale.value
        if len(targets) <= self._state.micro_batch_size and self._state.noise.due(every=_NOISE_INTERVAL):
            telemetry.measure(prober.measure_noise, inputs, targets, scale, self._loss_of)
        telemetry.measure(prober.before_forward, inputs, result)
        self.forward_backward(inputs, targets, slot)
        prober.after_forward()
        telemetry.measure(prober.after_backward, result, scale)
        self.update(learning_rate, slot)
        telemetry.measure(prober.after_update, result, slot.loss, lambda: self.loss(inputs, targets))

    def try_out(self, inputs: tuple[Tensor, ...], targets: Tensor) -> None:
        """Compute a step and forget it: what the model cannot do shows now, and compiled code is ready afterwards."""
        randomness = random_state(self._state.device)
        self.forward_backward(inputs, targets, StepSlot.apart(self._state.device))
        with torch.no_grad():
            self.loss(inputs, targets)
        self._guard.put_back()
        restore_random_state(randomness, self._state.device)

    def forward_backward(self, inputs: tuple[Tensor, ...], targets: Tensor, slot: StepSlot) -> None:
        """Gradients of the whole batch's loss, in as many parts as memory asks for."""
        randomness = random_state(self._state.device)
        self._guard.remember()
        while (short := shortage_of_memory(lambda: self._send_backward(inputs, targets, slot))) is not None:
            reduced = self._micro_batches.reduce(len(targets), short)
            self._report(event_pb2.JobEvent(micro_batch_reduced=reduced))
            # The step begins anew, and draws the same random numbers.
            self._guard.put_back()
            restore_random_state(randomness, self._state.device)
            self._prober.forget_outputs()

    def update(self, learning_rate: float, slot: StepSlot) -> None:
        """Measure the gradient, then change the weights by one controlled step, or by nothing if it is no good."""
        gradients, scale = self._parameters.gradients, None
        norm = torch.linalg.vector_norm(gradients, out=slot.gradient_norm)
        if self._loss_scale is not None:
            scale = slot.loss_scale.copy_(self._loss_scale.value)
            norm.div_(scale)
        total = slot.loss + norm
        # A finite number less itself is 0, any other is NaN; and NaN alone differs from itself.
        zero = total - total
        torch.ne(zero, zero, out=slot.nonfinite)
        changes_nothing = slot.nonfinite
        if self._spikes is not None:
            self._spikes.judge(slot.loss, norm, slot.nonfinite, slot.skipped)
            changes_nothing = torch.maximum(slot.nonfinite, slot.skipped)
        divisor = self._clipper.divisor(gradients, norm, scale, slot.divisor)
        self._state.optimizer.step(learning_rate, divisor=divisor, nonfinite=changes_nothing)
        # BatchNorm has learnt from the batch already; its statistics go back when the step must change nothing.
        self._guard.put_back_where(changes_nothing)
        if self._state.average is not None:
            self._state.average.update(self._state.step + 1, changes_nothing)
        if self._loss_scale is not None:
            self._loss_scale.update(slot.nonfinite)

    def loss(self, inputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        """Loss of the whole batch, in the same parts as its gradients, with dropout as the generator stands."""
        return torch.stack(
            [
                self._loss(part, expected) * share
                for part, expected, share in self._micro_batches.split(inputs, targets)
            ]
        ).sum()

    def _send_backward(self, inputs: tuple[Tensor, ...], targets: Tensor, slot: StepSlot) -> None:
        """Compute the loss against the expected output and send its gradients backward through the layers."""
        self._parameters.gradients.zero_()
        slot.loss.zero_()
        for part, expected, share in self._micro_batches.split(inputs, targets):
            loss = self._loss(part, expected)
            slot.loss.addcmul_(loss.detach(), share)
            # The chain rule begins here: how much the batch's loss, times its scale, changes with this part's.
            send_backward(loss, share if self._loss_scale is None else share * self._loss_scale.value)
            self._prober.after_part(len(expected), share)

    def _loss(self, inputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        return self._loss_of(self._model, inputs, targets)

    def _loss_of(self, model: nn.Module, inputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        with self._state.precision.autocast():
            scores = model(*inputs)
        return self._objective.loss(scores, targets)
