"""What every step leaves behind, on the device, and how it gets out without anyone waiting.

A step writes a few numbers into vectors that were allocated before (`StepSlot`); a few times per second the filled part
is copied to the host and becomes a `StepsRecorded` event. On a CUDA device the copy goes to pinned memory behind an
event that is asked, never waited for; two halves take turns, so that steps go on meanwhile.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gradsight.v1 import event_pb2, state_pb2
from gradsight_insight.gain import GainWindow
from gradsight_insight.noise_scale import NoiseScaleAverage
from gradsight_insight.signals import Probes, Steps, Timing
from gradsight_worker.training.cadence import ProbeCadence
from gradsight_worker.training.channel import ChannelClosed
from gradsight_worker.training.nonfinite import NonfiniteWatch
from gradsight_worker.training.pace import Pace
from gradsight_worker.training.probes import Prober
from gradsight_worker.training.readings import probe_message, probes_of
from gradsight_worker.training.stopwatches import stopwatch_for

Report = Callable[[event_pb2.JobEvent, bool], None]
"""Sends an event; the flag says whether it may be dropped when nobody reads."""
Watcher = Callable[[Steps, Probes, Timing], None]
"""Takes what was measured, once it is on the host."""

_FLUSH_SECONDS = 0.25
_STEPS = 512
_CHUNK = 64
_PROBES = 64


@dataclass(frozen=True, slots=True)
class StepSlot:
    """Scalars on the device, written to by one step; float32."""

    loss: Tensor
    gradient_norm: Tensor
    nonfinite: Tensor
    """1.0 when loss or gradient was not finite, else 0.0."""
    divisor: Tensor
    """What clipping divides the gradient by, at least 1."""
    loss_scale: Tensor
    """What the loss was multiplied by before it was sent backward; 0 where the run has no such scale."""
    skipped: Tensor
    """1.0 when a repair let the step change nothing, else 0.0."""

    @classmethod
    def apart(cls, device: torch.device) -> "StepSlot":
        """For a step that is not reported."""
        return cls(*torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 0.0], device=device).unbind())


class Telemetry:
    """Collects the steps of one attempt and reports them in batches."""

    def __init__(
        self,
        *,
        report: Report,
        device: torch.device,
        prober: Prober,
        cadence: ProbeCadence,
        gains: GainWindow,
        noise: NoiseScaleAverage,
        watch: NonfiniteWatch,
        training_seconds: float,
        loss_unit: float = 1.0,
        watcher: Watcher | None = None,
        waited: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """A collector of the attempt's steps.

        Args:
            report: Takes the events.
            device: Where the steps are computed.
            prober: Measures some steps layer by layer.
            cadence: Which ones.
            gains: Reads the probes.
            noise: Smooths what they measure of the gradient's noise.
            watch: Ends a run of steps that are not finite.
            training_seconds: Of earlier attempts.
            loss_unit: What a training loss of 1 is in the unit that is reported.
            watcher: Looks at what was measured, after it was reported; its time counts as telemetry's.
            waited: Seconds that the attempt has waited for rows so far.
        """
        self.cadence = cadence
        self.gains = gains
        self.noise = noise
        self.watch = watch
        self._report = report
        self._prober = prober
        self._loss_unit = loss_unit
        self._watcher = watcher
        self._pace = Pace(waited)
        self._halves = [_Half(device, prober.layout.width) for _ in range(2)]
        self._filling, self._leaving = self._halves
        self._seconds_before = training_seconds
        self._paused_seconds = 0.0
        self._reporting_seconds = 0.0
        self._probes_taken = 0
        self._start = self._last_flush = time.perf_counter()
        self._first_reported = False
        self._failed = False
        self._stopwatch = stopwatch_for(device)

    def probe_due(self, step: int) -> bool:
        """Whether this step is to be measured more richly."""
        return step == self.cadence.next_step and not self._failed

    def probe_result(self) -> Tensor:
        """Where the probe of this step writes its results."""
        return self._filling.probes[len(self._filling.probe_steps)]

    def begin_step(self, step: int) -> StepSlot:
        """Where the step writes its numbers."""
        half = self._filling
        if not half.learning_rates:
            half.first_step = step
        if step >= self.cadence.next_step - 1:
            self._stopwatch.begin()
        return half.slot(len(half.learning_rates))

    def end_step(self, step: int, learning_rate: float, samples_total: int, *, probed: bool) -> None:
        """The step was issued. Raises TrainingFailed when too many steps were not finite, ChannelClosed."""
        half = self._filling
        half.learning_rates.append(learning_rate)
        half.samples_total = samples_total
        if step >= self.cadence.next_step - 1:
            self._stopwatch.end(probed=probed)
        if probed and not self._failed:
            half.probe_steps.append(step)
            self._probes_taken += 1
            self.cadence.advance(step)
        now = time.perf_counter()
        self._pace.step_ended(now)
        if (
            self._last_flush == self._start
            or now - self._last_flush >= _FLUSH_SECONDS
            or len(half.learning_rates) == _STEPS
            or len(half.probe_steps) == _PROBES
        ):
            self._flush(now)
        elif self._leaving.pending:
            self._collect(wait=False)

    def drain(self) -> None:
        """Report everything, waiting for the device. Raises as `end_step`."""
        self._flush(time.perf_counter())
        self._collect(wait=True)

    def measure(self, action: Callable[..., None], *arguments: object) -> None:
        """Call a part of a probe. When it fails, say so once and go on without probes."""
        if self._failed:
            return
        try:
            action(*arguments)
        except Exception as error:
            self._record_failure(error)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside is not training time."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._paused_seconds += time.perf_counter() - start
            self._pace.resume(time.perf_counter())

    @property
    def training_seconds(self) -> float:
        """Seconds of training of the run so far, over all attempts."""
        return self._seconds_before + self._attempt_seconds

    @property
    def _attempt_seconds(self) -> float:
        return time.perf_counter() - self._start - self._paused_seconds

    def _flush(self, now: float) -> None:
        """Start the way out of what was collected; the other half takes over."""
        self._collect(wait=True)
        self._last_flush = now
        if not self._filling.learning_rates:
            return
        self._filling.send_off(self.training_seconds)
        self._filling, self._leaving = self._leaving, self._filling
        self._collect(wait=False)
        self._reporting_seconds += time.perf_counter() - now

    def _collect(self, *, wait: bool) -> None:
        """Report the half that is on its way out, when it has arrived."""
        half = self._leaving
        if not half.pending or not half.arrived(wait=wait):
            return
        half.arrival_time = time.time()
        steps = half.steps()
        try:
            probes = self._probes_of(half, steps)
            self._report(event_pb2.JobEvent(steps_recorded=self._message(half, steps, probes)), True)
            if self._watcher is not None:
                self._watcher(steps, probes, self._pace.timing(len(steps), self._attempt_seconds))
        except ChannelClosed:
            raise
        except Exception as error:
            self._record_failure(error)
        half.clear()
        self._judge(steps)

    def _judge(self, steps: Steps) -> None:
        """Too many steps that are not finite end the run. Raises TrainingFailed."""
        nonfinite = steps.nonfinite.nonzero()[0].tolist()
        # A finite loss whose gradient overflowed because of its scale: a search, no failure.
        searching = [i for i in nonfinite if steps.loss_scale[i] > 0 and math.isfinite(steps.loss[i])]
        self.watch.add(int(steps.step[0]), len(steps), [i for i in nonfinite if i not in searching])
        for index in searching:
            self.watch.judge_scale(int(steps.step[index]), float(steps.loss_scale[index]))

    def _probes_of(self, half: "_Half", steps: Steps) -> Probes:
        count = len(half.probe_steps)
        places = [step - half.first_step for step in half.probe_steps]
        return probes_of(
            self._prober.layout,
            half.host_probes[:count],
            half.probe_steps,
            steps.learning_rate[places],
            self.noise,
        )

    def _message(self, half: "_Half", steps: Steps, probes: Probes) -> event_pb2.StepsRecorded:
        for plain, probe in self._stopwatch.pairs():
            self.cadence.learn(plain_seconds=plain, probe_seconds=probe)
        message = event_pb2.StepsRecorded(
            first_step=half.first_step,
            loss=(steps.loss * self._loss_unit).tolist(),
            gradient_norm=steps.gradient_norm.tolist(),
            learning_rate=half.learning_rates,
            clip_factor=steps.clip_factor.tolist(),
            nonfinite_steps=steps.step[steps.nonfinite].tolist(),
            probes=[self._probe_message(probes, index) for index in range(len(probes))],
            samples_total=half.samples_total,
            training_seconds=half.training_seconds,
            telemetry_ratio=self._telemetry_ratio(),
        )
        message.last_step_time.FromNanoseconds(int(half.arrival_time * 1e9))
        if not self._first_reported:
            self._first_reported = True
            message.first_step_time.CopyFrom(message.last_step_time)
        return message

    def _probe_message(self, probes: Probes, index: int) -> event_pb2.Probe:
        reading = self.gains.add(
            int(probes.step[index]),
            predicted_decrease=float(probes.predicted_decrease[index]),
            actual_decrease=float(probes.actual_decrease[index]),
            loss=float(probes.loss[index]),
        )
        return probe_message(probes, index, gain_ratio=reading.ratio, loss_unit=self._loss_unit)

    def _record_failure(self, error: Exception) -> None:
        if self._failed:
            return
        self._failed = True
        line = event_pb2.LogLine(
            severity=state_pb2.SEVERITY_WARNING,
            message=f"Measuring failed, training goes on without probes: {error}",
        )
        self._report(event_pb2.JobEvent(log_line=line), False)

    def _telemetry_ratio(self) -> float:
        spent = self._reporting_seconds + self._probes_taken * self.cadence.extra_seconds
        return min(1.0, spent / max(self._attempt_seconds, 1e-9))


class _Half:
    """Numbers of consecutive steps on the device, their copy on the host, and what the host knows by itself."""

    def __init__(self, device: torch.device, probe_width: int) -> None:
        self._steps = torch.ones(6, _STEPS, device=device)
        self._steps[4:] = 0.0
        self._slots: list[StepSlot] = []
        self.probes = torch.zeros(_PROBES, probe_width, device=device)
        on_device = device.type == "cuda"
        self.host_steps = torch.zeros(6, _STEPS, pin_memory=True) if on_device else self._steps
        self.host_probes = torch.zeros(_PROBES, probe_width, pin_memory=True) if on_device else self.probes
        self._copied = torch.cuda.Event() if on_device else None  # type: ignore[no-untyped-call]
        self.pending = False
        self.clear()

    def slot(self, index: int) -> StepSlot:
        """Where the step at this place writes. Views are made in chunks: all at once would delay the first step."""
        if index == len(self._slots):
            chunk = self._steps[:, index : index + _CHUNK]
            self._slots += [
                StepSlot(*column) for column in zip(*(row.unbind() for row in chunk), strict=True)
            ]
        return self._slots[index]

    def steps(self) -> Steps:
        """What arrived, in columns."""
        count = len(self.learning_rates)
        columns = self.host_steps[:, :count].numpy().astype(np.float64)
        loss, gradient_norm, nonfinite, divisor, scale, skipped = columns
        return Steps(
            step=np.arange(self.first_step, self.first_step + count),
            loss=loss,
            gradient_norm=gradient_norm,
            learning_rate=np.array(self.learning_rates),
            clip_factor=np.where(np.isfinite(divisor), 1.0 / divisor, 0.0),
            nonfinite=nonfinite != 0,
            skipped=skipped != 0,
            loss_scale=scale,
        )

    def clear(self) -> None:
        """Empty, to be filled again."""
        self.first_step = 0
        self.samples_total = 0
        self.learning_rates: list[float] = []
        self.probe_steps: list[int] = []
        self.arrival_time = 0.0
        self.training_seconds = 0.0
        self.pending = False

    def send_off(self, training_seconds: float) -> None:
        """Copy to the host, without waiting."""
        self.pending = True
        self.training_seconds = training_seconds
        if self._copied is not None:
            self.host_steps.copy_(self._steps, non_blocking=True)
            self.host_probes.copy_(self.probes, non_blocking=True)
            self._copied.record()

    def arrived(self, *, wait: bool) -> bool:
        """Whether the copy is complete."""
        if self._copied is None:
            return True
        if wait:
            self._copied.synchronize()
        return bool(self._copied.query())  # type: ignore[no-untyped-call]
