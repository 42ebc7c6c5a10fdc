"""Telemetry: complete, true, and without influence on what the run computes."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from gradsight.v1 import event_pb2, spec_pb2, state_pb2
from gradsight_insight.gain import GainWindow
from gradsight_models import layers_of
from gradsight_worker.training.cadence import ProbeCadence
from gradsight_worker.training.clipping import Clipping
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.loop import TrainingStep
from gradsight_worker.training.nonfinite import NonfiniteWatch
from gradsight_worker.training.objectives import ClassObjective
from gradsight_worker.training.parameters import FlatParameters
from gradsight_worker.training.precision import LossScale, Precision
from gradsight_worker.training.probes import Prober
from gradsight_worker.training.state import initial_state
from gradsight_worker.training.telemetry import Telemetry

CPU = torch.device("cpu")
LIMIT = 0.5
ADAMW = spec_pb2.OptimizerSpec(
    learning_rate=0.01,
    weight_decay=0.1,
    max_gradient_norm=LIMIT,
    adamw=spec_pb2.AdamW(beta1=0.9, beta2=0.999, epsilon=1e-8),
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small tensors gain nothing from threads, and lose much on a busy machine."""
    torch.set_num_threads(1)


class Rig:
    """A small model that trains with full telemetry."""

    def __init__(
        self, *, interval: int | None, dropout: float = 0.3, parts: int = 1, loss_unit: float = 1.0
    ) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(7, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(dropout), nn.Linear(20, 3)
        )
        self.layers = layers_of(self.model)
        self.parameters = FlatParameters(self.model, CPU)
        spec = spec_pb2.JobSpec(optimizer=ADAMW)
        spec.data.batch_size = 16
        spec.optimizer.accumulation_steps = parts
        spec.schedule.constant.SetInParent()
        if interval is not None:
            spec.monitoring.probe_interval_steps = interval
        self.state = initial_state(spec, self.parameters, total_steps=10_000)
        prober = Prober(self.model, self.layers, self.parameters)
        self.events: list[event_pb2.JobEvent] = []
        self.take_step = TrainingStep(
            model=self.model,
            objective=ClassObjective(),
            state=self.state,
            clipping=Clipping.of(spec.optimizer),
            prober=prober,
            report=self.events.append,
        )
        self.telemetry = Telemetry(
            report=lambda event, droppable: self.events.append(event),
            device=CPU,
            prober=prober,
            cadence=self.state.cadence,
            gains=self.state.gains,
            noise=self.state.noise,
            watch=self.state.watch,
            training_seconds=0.0,
            loss_unit=loss_unit,
        )

    def run(self, steps: int, *, before: Callable[[int, Tensor], None] = lambda step, values: None) -> None:
        generator = torch.Generator().manual_seed(9)
        torch.manual_seed(17)
        for _ in range(steps):
            step = self.state.step + 1
            values = torch.randn(16, 7, generator=generator)
            targets = torch.randint(0, 3, (16,), generator=generator)
            before(step, values)
            probing = self.telemetry.probe_due(step)
            slot = self.telemetry.begin_step(step)
            if probing:
                self.take_step.probed((values,), targets, 0.01, slot, self.telemetry)
            else:
                self.take_step((values,), targets, 0.01, slot)
            self.state.step = step
            self.telemetry.end_step(step, 0.01, step * 16, probed=probing)

    @property
    def batches(self) -> list[event_pb2.StepsRecorded]:
        return [event.steps_recorded for event in self.events if event.HasField("steps_recorded")]

    @property
    def probes(self) -> list[event_pb2.Probe]:
        return [probe for batch in self.batches for probe in batch.probes]


def test_every_step_is_reported_once_in_order_whatever_the_batches() -> None:
    rig = Rig(interval=None)
    rig.run(1300)
    rig.telemetry.drain()
    steps = [batch.first_step + n for batch in rig.batches for n in range(len(batch.loss))]
    assert steps == list(range(1, 1301))
    for batch in rig.batches:
        count = len(batch.loss)
        assert len(batch.gradient_norm) == len(batch.learning_rate) == len(batch.clip_factor) == count
        for norm, factor in zip(batch.gradient_norm, batch.clip_factor, strict=True):
            assert factor == pytest.approx(min(1.0, LIMIT / norm), rel=1e-5)
    assert rig.batches[-1].samples_total == 1300 * 16
    assert 0 < rig.batches[-1].training_seconds < 60
    assert 0 < rig.batches[-1].telemetry_ratio < 1


def test_the_first_step_is_reported_at_once_and_carries_the_first_steps_time() -> None:
    rig = Rig(interval=None)
    rig.run(1)
    assert len(rig.batches) == 1
    assert rig.batches[0].HasField("first_step_time")
    rig.run(600)
    rig.telemetry.drain()
    assert not any(batch.HasField("first_step_time") for batch in rig.batches[1:])


def test_probes_do_not_change_the_run() -> None:
    often, never = Rig(interval=1), Rig(interval=10_000)
    often.run(50)
    never.run(50)
    often.telemetry.drain()
    assert [probe.step for probe in often.probes] == list(range(1, 51))
    for name, tensor in never.state.tensors().items():
        assert torch.equal(tensor, often.state.tensors()[name]), name


def test_a_probe_says_what_happened_to_each_layer() -> None:
    rig = Rig(interval=5, dropout=0.0)
    rig.run(4)
    before = {name: parameter.detach().clone() for name, parameter in rig.model.named_parameters()}
    rig.run(1)
    rig.telemetry.drain()
    (probe,) = rig.probes
    for index, layer in enumerate(rig.layers):
        weights = torch.cat([before[name].flatten() for name in layer.parameter_names])
        now = dict(rig.model.named_parameters())
        change = torch.cat([(now[name] - before[name]).flatten() for name in layer.parameter_names])
        assert probe.layer_weight_norm[index] == pytest.approx(weights.norm().item(), rel=1e-4)
        assert probe.layer_update_ratio[index] == pytest.approx(
            (change.norm() / weights.norm()).item(), rel=1e-3
        )
        assert probe.layer_gradient_rms[index] == pytest.approx(
            probe.layer_gradient_norm[index] / math.sqrt(layer.parameter_count), rel=1e-5
        )
    total = math.sqrt(sum(norm**2 for norm in probe.layer_gradient_norm))
    (norm,) = [batch.gradient_norm[5 - batch.first_step] for batch in rig.batches if batch.probes]
    assert total == pytest.approx(norm, rel=1e-5)
    # The output of the norm is taken after its activation: half of it is zero.
    assert 0.2 < probe.layer_zero_ratio[1] < 0.8
    assert probe.layer_zero_ratio[2] == 0.0
    assert all(deviation > 0 for deviation in probe.layer_activation_deviation)


def test_a_probe_of_a_step_in_parts_measures_the_whole_batch() -> None:
    whole, parts = Rig(interval=1, dropout=0.0), Rig(interval=1, dropout=0.0, parts=4)
    for rig in (whole, parts):
        # Normalization over a batch sees its part only: without it, the two are the same step.
        rig.model[1].eval()
        rig.run(3)
        rig.telemetry.drain()
    for one, other in zip(whole.probes, parts.probes, strict=True):
        for name in ("layer_gradient_norm", "layer_activation_deviation", "layer_zero_ratio"):
            assert list(getattr(other, name)) == pytest.approx(list(getattr(one, name)), rel=1e-4, abs=1e-6)
        assert other.predicted_decrease == pytest.approx(one.predicted_decrease, rel=1e-4)
        assert other.actual_decrease == pytest.approx(one.actual_decrease, rel=1e-2, abs=1e-6)


def test_losses_and_decreases_are_reported_in_the_objectives_unit() -> None:
    plain, scaled = Rig(interval=1), Rig(interval=1, loss_unit=8.0)
    for rig in (plain, scaled):
        rig.run(10)
        rig.telemetry.drain()
    for one, other in zip(plain.batches, scaled.batches, strict=True):
        assert list(other.loss) == pytest.approx([8 * loss for loss in one.loss])
        assert list(other.gradient_norm) == list(one.gradient_norm)
    for probe, scaled_probe in zip(plain.probes, scaled.probes, strict=True):
        assert scaled_probe.predicted_decrease == pytest.approx(8 * probe.predicted_decrease)
        assert scaled_probe.actual_decrease == pytest.approx(8 * probe.actual_decrease)
    assert scaled.probes[-1].gain_ratio == plain.probes[-1].gain_ratio


def test_a_small_plain_step_brings_what_its_gradient_promised() -> None:
    rig = Rig(interval=1)
    rig.run(20)
    rig.telemetry.drain()
    assert not rig.probes[6].HasField("gain_ratio")
    assert all(probe.HasField("gain_ratio") for probe in rig.probes[8:])
    window = GainWindow()
    losses = [loss for batch in rig.batches for loss in batch.loss]
    for probe, loss in zip(rig.probes, losses, strict=True):
        reading = window.add(
            probe.step,
            predicted_decrease=probe.predicted_decrease,
            actual_decrease=probe.actual_decrease,
            loss=loss,
        )
    assert reading.ratio == pytest.approx(rig.probes[-1].gain_ratio, rel=1e-4)
    # At a tenth of a percent of the learning rate the loss is a straight line.
    assert 0.3 < rig.probes[-1].gain_ratio < 1.2


def test_probes_are_dense_first_and_then_as_rare_as_their_cost_demands() -> None:
    cadence = ProbeCadence(fixed=None, total_steps=10_000)
    probes = []
    for step in range(1, 1001):
        if step == cadence.next_step:
            probes.append(step)
            cadence.learn(plain_seconds=0.010, probe_seconds=0.01748)
            cadence.advance(step)
    assert probes[:20] == list(range(10, 201, 10))
    # 7.48 ms more per probe are 1 % of 75 steps of 10 ms.
    assert {later - earlier for earlier, later in pairwise(probes[20:])} == {75}
    assert ProbeCadence(fixed=7, total_steps=100).next_step == 7
    assert ProbeCadence(fixed=None, total_steps=3).next_step == 3


def test_probes_that_measure_more_count_and_hiccups_do_not() -> None:
    cadence = ProbeCadence(fixed=None, total_steps=10_000)
    for extra in (0.004, 0.004, 0.004, 0.012):
        cadence.learn(plain_seconds=0.010, probe_seconds=0.010 + extra)
    assert cadence.extra_seconds == pytest.approx(0.006)
    cadence.learn(plain_seconds=0.010, probe_seconds=3.0)
    assert cadence.extra_seconds == pytest.approx((0.024 + 0.020) / 5)


def test_steps_that_are_not_finite_are_named_and_ten_in_a_row_end_the_run() -> None:
    rig = Rig(interval=3)

    def poison(step: int, values: Tensor) -> None:
        if step in (3, 5) or step >= 8:
            values[0, 0] = math.nan

    with pytest.raises(TrainingFailed, match="10 steps in a row, up to step 17") as caught:
        rig.run(2000, before=poison)
    error = caught.value.error
    assert error.reason == state_pb2.JOB_ERROR_REASON_NONFINITE_LOSS
    assert error.fault == state_pb2.FAULT_MODEL
    assert "learning rate" in error.message
    named = [step for batch in rig.batches for step in batch.nonfinite_steps]
    assert named[:12] == [3, 5, *range(8, 18)]
    assert rig.parameters.values.isfinite().all()


def test_three_percent_of_steps_that_are_not_finite_end_the_run() -> None:
    watch = NonfiniteWatch()
    for first in range(1, 571, 30):
        watch.add(first, 30, [29])
    with pytest.raises(TrainingFailed, match="20 of 600 steps"):
        watch.add(571, 30, [29])
    patient = NonfiniteWatch()
    for first in range(1, 10_000, 50):
        patient.add(first, 50, [49])
    assert patient.total == 200


def test_a_run_of_bad_steps_is_counted_across_batches() -> None:
    watch = NonfiniteWatch()
    watch.add(1, 6, [1, 2, 3, 4, 5])
    with pytest.raises(TrainingFailed, match="10 steps in a row, up to step 11"):
        watch.add(7, 6, [0, 1, 2, 3, 4])


def overflow_backward(scores: Tensor) -> Tensor:
    """The same scores, with gradients that overflow on their way back."""
    return scores.detach() + (scores - scores.detach()) * 3e38 * 3e38


def test_the_search_of_a_scale_is_reported_and_ends_the_run_when_there_is_none_to_find() -> None:
    rig = Rig(interval=None)
    rig.state.precision = Precision(CPU, None, LossScale(CPU))
    rig.take_step = TrainingStep(
        model=rig.model,
        objective=ClassObjective(),
        state=rig.state,
        clipping=Clipping(max_norm=LIMIT, max_value=None),
        prober=Prober(rig.model, rig.layers, rig.parameters),
        report=rig.events.append,
    )
    hook = rig.model.register_forward_hook(lambda _model, _inputs, scores: overflow_backward(scores))
    rig.run(12)
    rig.telemetry.drain()
    assert [step for batch in rig.batches for step in batch.nonfinite_steps] == list(range(1, 13))
    assert rig.state.watch.total == 0
    hook.remove()
    rig.run(1)
    rig.model.register_forward_hook(lambda _model, _inputs, scores: overflow_backward(scores))
    rig.run(10)
    with pytest.raises(TrainingFailed, match="overflows float16 at any scale") as caught:
        rig.telemetry.drain()
    assert caught.value.error.reason == state_pb2.JOB_ERROR_REASON_NONFINITE_LOSS
    assert "bfloat16" in caught.value.error.message


def test_failing_measurements_are_said_once_and_do_not_stop_training(monkeypatch: pytest.MonkeyPatch) -> None:
    rig, untouched = Rig(interval=2), Rig(interval=10_000)

    def fail(*_arguments: object) -> None:
        raise RuntimeError("no room for the extra forward pass")

    monkeypatch.setattr(Prober, "after_update", fail)
    rig.run(20)
    untouched.run(20)
    rig.telemetry.drain()
    lines = [event.log_line.message for event in rig.events if event.HasField("log_line")]
    assert len(lines) == 1
    assert "no room" in lines[0]
    assert sum(len(batch.loss) for batch in rig.batches) == 20
    assert torch.equal(rig.parameters.values, untouched.parameters.values)
