"""Repairs of real runs: a fault goes in, the run must end nearly as well as without it, again and again the same."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from google.protobuf import json_format
from tests.integration.test_training_kinds import PROGRAM, Outcome, plan_of, program_plan, train
from torch import nn

from gradsight.v1 import insight_pb2, state_pb2
from gradsight_worker.training.channel import CheckpointMessage, EventMessage
from gradsight_worker.training.plan import ExitStatus, TrainingPlan

FEATURES, CLASSES = 16, 5
GOOD = 0.12
"""Error that a sound run stays well below; no model has 0.8."""


@pytest.fixture(autouse=True)
def _processor_left_as_it_was() -> Iterator[None]:
    yield
    torch.set_flush_denormal(False)


def rows_at(path: Path, *, scale: float = 1.0, outlier: float | None = None) -> Path:
    """1,500 rows of five clouds; `outlier` is put into one of them."""
    dice = np.random.default_rng(7)
    centres = dice.normal(size=(CLASSES, FEATURES)) * 0.9
    classes = dice.integers(0, CLASSES, size=1500)
    values = (centres[classes] + dice.normal(size=(1500, FEATURES))) * scale
    if outlier is not None:
        # In a row of train, whichever side others are on: the same content is nowhere else.
        values[700:720] *= outlier
    safetensors.numpy.save_file(
        {"values": values.astype(np.float32), "class": classes.astype(np.int64)}, path
    )
    return path


class Network(nn.Module):
    """Two hidden layers, as whoever made the fault has built them."""

    def __init__(self, *, constant: float | None = None, bias: float | None = None) -> None:
        super().__init__()
        first = nn.Linear(FEATURES, 48)
        self.hidden = nn.Sequential(first, nn.ReLU(), nn.Linear(48, 48), nn.ReLU())
        self.output = nn.Linear(48, CLASSES)
        with torch.no_grad():
            if constant is not None:
                for parameter in self.parameters():
                    parameter.fill_(constant)
            if bias is not None:
                first.bias.fill_(bias)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        scores: torch.Tensor = self.output(self.hidden(values))
        return scores


def planned(
    directory: Path, rows: Path, network: nn.Module, *, policy: str = "repair", **sections: Any
) -> TrainingPlan:
    monitoring: dict[str, Any] = {"policy": policy}
    if policy == "repair":
        monitoring["allow_recipe_changes"] = True
    spec = {
        "model": PROGRAM,
        "data": {"target": "class", "batch_size": 32},
        "optimizer": {"adamw": {}, "learning_rate": 0.003},
        "schedule": "constant",
        "budget": {"steps": 400},
        "evaluation": {"interval_steps": 50},
        "monitoring": monitoring,
        **sections,
    }
    return program_plan(plan_of(directory, spec, rows), network, torch.zeros(4, FEATURES))


def network(**fault: float) -> Network:
    torch.manual_seed(5)
    return Network(**fault)


def actions(outcome: Outcome) -> list[str]:
    names = insight_pb2.MitigationAction.Name
    return [
        names(applied.action).removeprefix("MITIGATION_ACTION_").lower()
        for applied in outcome.events("mitigation_applied")
    ]


FAULTS: dict[str, tuple[dict[str, float], dict[str, Any], dict[str, float], str]] = {
    "zero weights": ({"constant": 0.0}, {}, {}, "reinitialize"),
    "equal weights": ({"constant": 0.01}, {}, {}, "reinitialize"),
    "dead units": ({"bias": -40.0}, {}, {}, "reinitialize"),
    "adam too fast": ({}, {"optimizer": {"adamw": {}, "learning_rate": 1.5}}, {}, "roll_back"),
    "adam too slow": ({}, {"optimizer": {"adamw": {}, "learning_rate": 1e-6}}, {}, "scale_learning_rate"),
    "sgd too slow": ({}, {"optimizer": {"sgd": {}, "learning_rate": 1e-5}}, {}, "scale_learning_rate"),
    "raw inputs": ({}, {}, {"scale": 300.0}, "standardize_inputs"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_repaired_on_trial(name: str, tmp_path: Path) -> None:
    weights, sections, data, action = FAULTS[name]
    rows = rows_at(tmp_path / "rows.safetensors", **data)
    outcome = train(planned(tmp_path / "run", rows, network(**weights), **sections))
    assert outcome.status == ExitStatus.SUCCEEDED, outcome.messages[-1]
    assert action in actions(outcome)
    kept = outcome.events("mitigation_kept")
    assert kept, [event.message for event in outcome.events("mitigation_reverted")]
    evidence = {number.name: number.observed for number in kept[0].evidence}
    assert min(evidence["held_out_loss_z"], evidence["held_out_error_z"]) <= -2.58
    assert outcome.test.error_ratio < GOOD


def test_a_healthy_run_is_left_alone(tmp_path: Path) -> None:
    rows = rows_at(tmp_path / "rows.safetensors")
    treated = train(planned(tmp_path / "treated", rows, network()))
    watched = train(planned(tmp_path / "watched", rows, network(), policy="advise"))
    assert "roll_back" not in actions(treated)
    assert abs(treated.test.error_ratio - watched.test.error_ratio) < 0.015


@pytest.mark.parametrize("outlier", [400.0, 1e36])
def test_an_outlying_batch_changes_nothing(outlier: float, tmp_path: Path) -> None:
    """Large, it is a spike and is skipped; so large that its loss is not finite, it is skipped under any policy."""
    rows = rows_at(tmp_path / "rows.safetensors", outlier=outlier)
    data = {"target": "class", "batch_size": 32, "split": {"validation_fraction": 0.2, "test_fraction": 0.2}}
    outcome = train(planned(tmp_path / "run", rows, network(), data=data))
    assert outcome.status == ExitStatus.SUCCEEDED, outcome.messages[-1]
    changed_nothing = {applied.step for applied in outcome.events("mitigation_applied")}
    changed_nothing |= {step for batch in outcome.events("steps_recorded") for step in batch.nonfinite_steps}
    assert changed_nothing
    assert outcome.test.error_ratio < GOOD + 0.02


def weights_of(outcome: Outcome) -> bytes:
    assert outcome.status == ExitStatus.SUCCEEDED, outcome.messages[-1]
    return outcome.files["weights.safetensors"].read_bytes()


def decided(outcome: Outcome) -> list[str]:
    """What was done and found, in order."""
    kinds = ("mitigation_applied", "mitigation_kept", "mitigation_reverted", "finding_opened")
    events = [message.event for message in outcome.messages if isinstance(message, EventMessage)]
    return [
        str(getattr(event, kind))
        for event in events
        for kind in kinds
        if event.HasField(kind)  # type: ignore[arg-type]
    ]


TOO_FAST: dict[str, Any] = {"optimizer": {"adamw": {}, "learning_rate": 1.5}}


def test_the_same_spec_and_seed_give_the_same_repairs_and_weights(tmp_path: Path) -> None:
    rows = rows_at(tmp_path / "rows.safetensors")
    first, second = (
        train(planned(tmp_path / name, rows, network(), **TOO_FAST)) for name in ("first", "second")
    )
    assert decided(first)
    assert decided(first) == decided(second)
    assert weights_of(first) == weights_of(second)


@pytest.mark.parametrize("fault", ["adam too fast", "adam too slow", "zero weights"])
def test_a_run_that_is_resumed_amid_a_trial_ends_as_the_unbroken_one(fault: str, tmp_path: Path) -> None:
    weights, sections, _, _ = FAULTS[fault]
    rows = rows_at(tmp_path / "rows.safetensors")
    sections = {**sections, "checkpoint": {"interval_steps": 33}}
    plan = planned(tmp_path / "whole", rows, network(**weights), **sections)
    whole = train(plan)
    (applied,), (kept,) = whole.events("mitigation_applied")[:1], whole.events("mitigation_kept")[:1]
    saved = [message for message in whole.messages if isinstance(message, CheckpointMessage)]
    amid = [message for message in saved if applied.step < message.step < kept.step]
    assert amid
    resumed = train(
        replace(
            planned(tmp_path / "resumed", rows, network(**weights), **sections),
            checkpoints=(amid[0].path,),
            attempt=2,
        )
    )
    assert weights_of(resumed) == weights_of(whole)
    assert [event.step for event in resumed.events("mitigation_kept")] == [
        event.step for event in whole.events("mitigation_kept")
    ]


def test_a_run_is_repeated_from_its_log(tmp_path: Path) -> None:
    rows = rows_at(tmp_path / "rows.safetensors")
    slow = FAULTS["adam too slow"][1]
    for name, sections in (("fast", TOO_FAST), ("slow", slow)):
        run = train(planned(tmp_path / name, rows, network(), **sections))
        log = tmp_path / f"{name}.jsonl"
        with log.open("w") as file:
            for message in run.messages:
                if isinstance(message, EventMessage):
                    file.write(json.dumps(json_format.MessageToDict(message.event)) + "\n")
        plan = planned(tmp_path / f"{name} again", rows, network(), **sections)
        # Blind detectors: what is done can only come from the log.
        for kind in ("dead_units", "learning_rate_too_high", "learning_rate_too_low"):
            plan.spec.monitoring.detectors[kind].disabled = True
        again = train(replace(plan, replayed=log))
        assert weights_of(again) == weights_of(run)
        assert actions(again) == actions(run)
        assert not [e for e in again.events("finding_opened") if e.finding.kind == "learning_rate_too_low"]


def test_standardized_inputs_are_part_of_the_result(tmp_path: Path) -> None:
    rows = rows_at(tmp_path / "rows.safetensors", scale=300.0)
    outcome = train(planned(tmp_path / "run", rows, network()))
    columns = safetensors.numpy.load_file(rows)
    answers = outcome.result.predict([{"values": values} for values in columns["values"]])
    wrong = np.mean(
        [int(answer.label) != target for answer, target in zip(answers, columns["class"], strict=True)]
    )
    assert wrong < GOOD


def test_a_critical_finding_stops_a_run_that_has_nothing_worth_keeping(tmp_path: Path) -> None:
    rows = rows_at(tmp_path / "rows.safetensors")
    outcome = train(planned(tmp_path / "run", rows, network(constant=0.0), policy="stop"))
    assert outcome.status == ExitStatus.FAILED
    (stopped,) = outcome.events("training_stopped")
    assert stopped.step < 50
    assert outcome.error.reason == state_pb2.JOB_ERROR_REASON_CRITICAL_FINDING
    assert outcome.error.fault == state_pb2.FAULT_MODEL
    assert "bad_initialization" in outcome.error.message
    assert actions(outcome) == ["stop"]


def test_a_critical_finding_stops_a_run_and_the_best_weights_are_kept(tmp_path: Path) -> None:
    rows = rows_at(tmp_path / "rows.safetensors")
    # Halfway, the learning rate jumps.
    schedule = {"step": {"milestones": [0.5], "factor": 3000.0}}
    outcome = train(planned(tmp_path / "run", rows, network(), policy="stop", schedule=schedule))
    (stopped,) = outcome.events("training_stopped")
    assert 200 < stopped.step < 400
    assert actions(outcome) == ["stop"]
    assert outcome.result.outputs.kind == "classes"
    assert outcome.test.step <= 200
    assert outcome.test.error_ratio < GOOD
