"""The training loop: compute the loss, send gradients backward, measure, update the weights, repeat.

Nothing here asks the device for a number, so the processor is always free to prepare the next step. A step whose loss
or gradient is not finite changes nothing: the decision is a tensor, taken where the numbers are.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradsight.v1 import event_pb2
from gradsight_worker.training.channel import Command, TrainerChannel
from gradsight_worker.training.data.batches import TrainingBatches
from gradsight_worker.training.evaluation import Validation
from gradsight_worker.training.probes import Prober
from gradsight_worker.training.saving import CheckpointSaver
from gradsight_worker.training.schedules import Schedule
from gradsight_worker.training.state import TrainingState
from gradsight_worker.training.telemetry import StepSlot, Telemetry

Objective = Callable[[Tensor, Tensor], Tensor]
"""From scores [batch, classes] and targets [batch] to the mean loss of the batch."""

_LOOK_SECONDS = 0.05
"""How often the loop looks at the channel and the clock of checkpoints."""


@dataclass(kw_only=True)
class TrainingLoop:
    """Takes the steps of a run, from the state as it is to the end of the budget."""

    state: TrainingState
    total_steps: int
    batches: TrainingBatches
    schedule: Schedule
    take_step: "TrainingStep"
    telemetry: Telemetry
    validation: Validation
    saver: CheckpointSaver
    channel: TrainerChannel
    stop_requested: bool = False

    def run(self) -> bool:
        """Train; False when asked to stop before the end. Raises TrainingFailed and ChannelClosed."""
        next_look = 0.0
        while self.state.step < self.total_steps and not self.stop_requested:
            step = self.state.step + 1
            self._take(step)
            if self.validation.due(step):
                self._evaluate()
            now = time.perf_counter()
            if now >= next_look:
                self._look_around()
                next_look = now + _LOOK_SECONDS
            if self.saver.due(step, now) or self.stop_requested:
                self._save()
        self.telemetry.drain()
        return self.state.step == self.total_steps

    def _take(self, step: int) -> None:
        inputs, targets = self.batches.fetch(step)
        learning_rate = self.schedule(step)
        probing = self.telemetry.probe_due(step)
        slot = self.telemetry.begin_step(step)
        if probing:
            self.take_step.probed(inputs, targets, learning_rate, slot, self.telemetry)
        else:
            self.take_step(inputs, targets, learning_rate, slot)
        self.state.step = step
        self.telemetry.end_step(step, learning_rate, self.batches.samples_until(step), probed=probing)

    def _evaluate(self) -> None:
        with self.telemetry.paused():
            event = self.validation.evaluate(self.state)
        self.channel.send_event(event_pb2.JobEvent(evaluation_completed=event))

    def _look_around(self) -> None:
        self.channel.tick(self.state.step)
        if self.channel.poll_command() is Command.STOP_AFTER_CHECKPOINT:
            self.stop_requested = True

    def _save(self) -> None:
        # Steps that are not reported by now would be missing after a resume from this state.
        self.telemetry.drain()
        self.state.training_seconds = self.telemetry.training_seconds
        with self.telemetry.paused():
            self.saver.save(self.state)


class TrainingStep:
    """One optimizer step on one batch."""

    def __init__(
        self,
        *,
        model: nn.Module,
        objective: Objective,
        state: TrainingState,
        max_gradient_norm: float | None,
        prober: Prober,
    ) -> None:
        self._model = model
        self._objective = objective
        self._parameters = state.parameters
        self._optimizer = state.optimizer
        self._max_gradient_norm = max_gradient_norm
        self._prober = prober
        self._buffers_before = [torch.empty_like(buffer) for buffer in state.parameters.buffers]

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
        telemetry.measure(prober.before_forward, result)
        self.forward_backward(inputs, targets, slot)
        prober.after_forward()
        telemetry.measure(prober.after_backward, result)
        self.update(learning_rate, slot)
        telemetry.measure(prober.after_update, result, slot.loss, lambda: self.loss(inputs, targets))

    def forward_backward(self, inputs: tuple[Tensor, ...], targets: Tensor, slot: StepSlot) -> None:
        """Compute the loss against the expected output and send its gradients backward through the layers."""
        self._parameters.gradients.zero_()
        for before, buffer in zip(self._buffers_before, self._parameters.buffers, strict=True):
            before.copy_(buffer)
        loss = self.loss(inputs, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        slot.loss.copy_(loss.detach())

    def update(self, learning_rate: float, slot: StepSlot) -> None:
        """Measure the gradient, then change the weights by one controlled step, unless a number is not finite."""
        norm = torch.linalg.vector_norm(self._parameters.gradients, out=slot.gradient_norm)
        total = slot.loss + norm
        # A finite number less itself is 0, any other is NaN.
        torch.ne(total - total, 0.0, out=slot.nonfinite)
        divisor = None
        if self._max_gradient_norm is not None:
            divisor = torch.div(norm, self._max_gradient_norm, out=slot.divisor).clamp_(min=1.0)
        self._optimizer.step(learning_rate, divisor=divisor, nonfinite=slot.nonfinite)
        # BatchNorm has learnt from the batch already; put its statistics back when the step must change nothing.
        for before, buffer in zip(self._buffers_before, self._parameters.buffers, strict=True):
            buffer.copy_(torch.where(slot.nonfinite.bool(), before, buffer))

    def loss(self, inputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        """Mean loss of a batch, with dropout as the generator stands."""
        return self._objective(self._model(*inputs), targets)
