"""The monitor of a run: from measurements to events, without ever failing a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tests.unit import synthetic_signals
from torch import nn

from gradsight.v1 import event_pb2, insight_pb2, spec_pb2
from gradsight_insight.signals import Probes, RunFacts, Steps, Timing
from gradsight_worker.training.answers import Answers
from gradsight_worker.training.evaluation_signals import evaluation_signals
from gradsight_worker.training.first_look import first_look
from gradsight_worker.training.monitoring import RunMonitor
from gradsight_worker.training.objectives import ClassObjective

if TYPE_CHECKING:
    from tests.unit.training.conftest import Stepper


def monitor_of(
    events: list[event_pb2.JobEvent], *, facts: RunFacts | None = None, state: str = "", **spec: Any
) -> RunMonitor:
    return RunMonitor(
        facts or synthetic_signals.facts(class_names=("a", "b", "c")),
        spec=spec_pb2.MonitoringSpec(**spec),
        report=events.append,
        state=state,
    )


def kinds(events: list[event_pb2.JobEvent]) -> list[str]:
    return [event.WhichOneof("kind") or "" for event in events]


def steps(count: int, *, first: int = 1, poisoned: int = 0) -> Steps:
    healthy = synthetic_signals.steps(synthetic_signals.falling_loss(count), first=first)
    if not poisoned:
        return healthy
    nonfinite = np.arange(count) < poisoned
    return replace(healthy, loss=np.where(nonfinite, np.nan, healthy.loss), nonfinite=nonfinite)


def no_probes() -> Probes:
    made = synthetic_signals.probes([1.0])
    return Probes(**{name: column[:0] for name, column in vars(made).items()})


def answers(wrong: list[int]) -> Answers:
    expected = np.arange(len(wrong)) % 3
    return Answers(
        losses=np.array(wrong, dtype=np.float32) + 0.1,
        wrong=np.array(wrong),
        predicted=(expected + np.array(wrong)) % 3,
        expected=expected,
    )


def evaluation(step: int, wrong: list[int], *, kept: bool) -> event_pb2.EvaluationCompleted:
    ratio = sum(wrong) / len(wrong)
    return event_pb2.EvaluationCompleted(
        step=step, loss=ratio, error_ratio=ratio, selection_figure=ratio, examples=len(wrong), kept=kept
    )


def test_what_is_found_becomes_an_event_and_is_not_told_twice() -> None:
    events: list[event_pb2.JobEvent] = []
    monitor = monitor_of(events)
    monitor.measured(steps(100, poisoned=1), no_probes(), Timing())
    monitor.measured(steps(10, first=101), no_probes(), Timing())
    (opened,) = [event.finding_opened.finding for event in events]
    assert opened.kind == "nonfinite_values"
    assert opened.open
    assert opened.evidence
    assert opened.explanation
    assert opened.page_url.endswith("FM-01-nonfinite-values")


def test_a_detector_that_is_switched_off_is_silent() -> None:
    events: list[event_pb2.JobEvent] = []
    monitor = monitor_of(events, detectors={"nonfinite_values": spec_pb2.DetectorSpec(disabled=True)})
    monitor.measured(steps(100, poisoned=1), no_probes(), Timing())
    assert not events


def test_under_a_policy_that_acts_its_owner_says_when_to_look() -> None:
    events: list[event_pb2.JobEvent] = []
    monitor = monitor_of(events, policy=spec_pb2.MONITORING_POLICY_REPAIR)
    monitor.measured(steps(100, poisoned=1), no_probes(), Timing())
    assert not events
    assert [change.finding.kind for change in monitor.look(100)] == ["nonfinite_values"]
    assert kinds(events) == ["finding_opened"]


def test_a_restored_monitor_does_not_tell_again_what_was_told() -> None:
    events: list[event_pb2.JobEvent] = []
    monitor = monitor_of(events)
    monitor.measured(steps(100, poisoned=1), no_probes(), Timing())
    monitor.evaluated(evaluation(100, [0, 1, 1], kept=True), answers([0, 1, 1]), None)
    monitor.judge(100)
    told: list[event_pb2.JobEvent] = []
    restored = monitor_of(told, state=monitor.state())
    restored.measured(steps(10, first=101), no_probes(), Timing())
    restored.judge(110)
    assert kinds(events) == ["finding_opened", "verdict_reached"]
    assert not told
    assert json.loads(restored.state())["verdicts"] == json.loads(monitor.state())["verdicts"]


def test_a_state_that_cannot_be_read_is_said_and_forgotten() -> None:
    events: list[event_pb2.JobEvent] = []
    monitor = monitor_of(events, state=json.dumps({"monitor": {"version": "of tomorrow"}}))
    monitor.measured(steps(100), no_probes(), Timing())
    (line,) = [event.log_line.message for event in events]
    assert "begins anew" in line


def test_monitoring_that_fails_says_so_once_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[event_pb2.JobEvent] = []
    monitor = monitor_of(events)

    def fail() -> None:
        raise ZeroDivisionError("a detector of tomorrow")

    monkeypatch.setattr(monitor.monitor, "look", fail)
    for first in (1, 101, 201):
        monitor.measured(steps(100, first=first), no_probes(), Timing())
        monitor.evaluated(evaluation(first, [0, 1], kept=True), answers([0, 1]), None)
        monitor.judge(first)
    (line,) = events
    assert "a detector of tomorrow" in line.log_line.message


def test_the_end_of_a_run_is_judged_whatever_was_told_before() -> None:
    events: list[event_pb2.JobEvent] = []
    monitor = monitor_of(events)
    monitor.measured(steps(100), no_probes(), Timing())
    monitor.finish()
    monitor.finish()
    assert kinds(events) == ["verdict_reached", "verdict_reached"]
    assert all(event.verdict_reached.verdict.confirmed for event in events)
    assert all(event.verdict_reached.verdict.reasons for event in events)


def test_an_evaluation_is_compared_with_the_kept_one_row_by_row() -> None:
    monitor = monitor_of([])
    first, second = evaluation(10, [1] * 40, kept=True), evaluation(20, [0] * 30 + [1] * 10, kept=True)
    monitor.measured(steps(10), no_probes(), Timing())
    monitor.evaluated(first, answers([1] * 40), None)
    assert not first.HasField("loss_z")
    monitor.evaluated(second, answers([0] * 30 + [1] * 10), 0.25)
    assert second.loss_z < -2.58
    assert second.error_z == pytest.approx(-(30**0.5))
    newest = monitor.monitor.signals.evaluations[-1]
    assert newest.train_error_ratio == 0.25
    assert second.update_efficacy.verdict == insight_pb2.EFFICACY_VERDICT_UNRESOLVED


def test_training_losses_between_evaluations_are_averaged_in_the_objectives_unit() -> None:
    monitor = RunMonitor(
        synthetic_signals.facts(class_names=("a", "b", "c")),
        spec=spec_pb2.MonitoringSpec(),
        report=lambda event: None,
        loss_unit=4.0,
    )
    for first in (1, 11):
        measured = steps(10, first=first, poisoned=1)
        monitor.measured(measured, no_probes(), Timing())
        monitor.evaluated(evaluation(first + 9, [0, 1], kept=False), answers([0, 1]), None)
        newest = monitor.monitor.signals.evaluations[-1]
        assert newest.train_loss == pytest.approx(4 * np.nanmean(measured.loss))


def test_confusions_and_classes_are_counted() -> None:
    found = evaluation_signals(
        evaluation(1, [0, 1, 1, 0, 1, 0], kept=True),
        answers([0, 1, 1, 0, 1, 0]),
        class_names=("a", "b", "c"),
        train_loss=0.0,
        train_error_ratio=None,
    )
    assert found.confusions == (("b", "c", 2), ("c", "a", 1))
    assert [(each.category, each.examples, each.errors) for each in found.classes] == [
        ("a", 2, 0),
        ("b", 2, 2),
        ("c", 2, 1),
    ]


def looked_at(stepper: Callable[..., Stepper], model: nn.Module, objective: Any = None) -> Any:
    spec = spec_pb2.JobSpec()
    spec.data.batch_size = 16
    spec.optimizer.learning_rate = 0.01
    spec.optimizer.adamw.SetInParent()
    made = stepper(model, spec)
    randomness, buffers = torch.get_rng_state(), [buffer.clone() for buffer in made.parameters.buffers]
    look = first_look(made.prober, objective or ClassObjective(), made.batch(0), rows=16, classes=True)
    assert torch.equal(randomness, torch.get_rng_state())
    assert all(map(torch.equal, buffers, made.parameters.buffers))
    return look.first_batch()


def test_the_first_batch_of_a_sound_model_breaks_no_contract(stepper: Callable[..., Stepper]) -> None:
    torch.manual_seed(0)
    found = looked_at(
        stepper, nn.Sequential(nn.Linear(7, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 3))
    )
    assert found.loss == pytest.approx(np.log(3), rel=0.5)
    assert found.loss_without_inputs != found.loss
    assert not found.outputs_are_probabilities
    assert not found.loss_ignores_targets
    assert not found.stale_gradients
    assert found.activation_deviation.shape == (3,)
    assert (found.activation_deviation > 0).all()


def test_scores_that_are_probabilities_show(stepper: Callable[..., Stepper]) -> None:
    assert looked_at(stepper, nn.Sequential(nn.Linear(7, 3), nn.Softmax(1))).outputs_are_probabilities


def test_equal_scores_at_the_start_are_no_loss_that_ignores_targets(stepper: Callable[..., Stepper]) -> None:
    zero = nn.Linear(7, 3)
    nn.init.zeros_(zero.weight)
    nn.init.zeros_(zero.bias)
    assert not looked_at(stepper, zero).loss_ignores_targets


class Deaf(ClassObjective):
    def loss(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return scores.square().mean()


def test_a_loss_that_ignores_the_targets_shows(stepper: Callable[..., Stepper]) -> None:
    assert looked_at(stepper, nn.Linear(7, 3), Deaf()).loss_ignores_targets


@pytest.mark.parametrize(("fill", "symmetric"), [(None, False), (0.5, True), (0.0, True)])
def test_layers_whose_units_are_all_the_same_are_known_before_the_first_step(
    stepper: Callable[..., Stepper], fill: float | None, symmetric: bool
) -> None:
    torch.manual_seed(0)
    hidden = nn.Linear(7, 9)
    if fill is not None:
        nn.init.constant_(hidden.weight, fill)
    spec = spec_pb2.JobSpec()
    spec.optimizer.adamw.SetInParent()
    facts = (
        stepper(nn.Sequential(hidden, nn.Tanh(), nn.Linear(9, 3)), spec)
        .monitor(lambda event: None)
        .monitor.facts
    )
    assert [layer.symmetric_units for layer in facts.layers] == [symmetric, False]
