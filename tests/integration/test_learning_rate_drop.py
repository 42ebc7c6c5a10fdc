"""At the end of a run that has come to rest, a lower learning rate is tried on the side, and leaves no trace."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from tests.integration.test_training_kinds import PROGRAM, Outcome, plan_of, program_plan, train
from torch import nn

from gradsight.v1 import insight_pb2
from gradsight_insight.verdict import LearningRateDrop
from gradsight_worker.training import trainer
from gradsight_worker.training.learning_rate_drop import FEWEST_STEPS, try_lower_rate
from gradsight_worker.training.loop import TrainingLoop

PLAIN = {"sgd": {}, "learning_rate": 0.05}
LARGE = {"sgd": {"momentum": 0.9}, "learning_rate": 0.3, "average_decay": 0.5}


@pytest.fixture(autouse=True)
def _processor_left_as_it_was() -> Iterator[None]:
    yield
    torch.set_flush_denormal(False)


class Noisy(nn.Module):
    """With dropout and BatchNorm: what a step changes beside the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 2)
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        scores: torch.Tensor = self.layers(values)
        return scores


def run(directory: Path, **sections: Any) -> Outcome:
    dice = np.random.default_rng(3)
    values = dice.normal(size=(2000, 8)).astype(np.float32)
    answers = (values[:, 0] + 0.2 * dice.normal(size=2000) > 0).astype(np.int64)
    directory.mkdir(parents=True)
    rows = directory / "rows.safetensors"
    safetensors.numpy.save_file({"values": values, "answer": answers}, rows)
    spec = {
        "model": PROGRAM,
        "data": {"target": "answer", "batch_size": 32},
        "optimizer": PLAIN,
        "schedule": "constant",
        "budget": {"steps": 900},
        "evaluation": {"interval_steps": 30},
        **sections,
    }
    torch.manual_seed(1)
    return train(program_plan(plan_of(directory / "run", spec, rows), Noisy(), torch.zeros(4, 8)))


@pytest.mark.parametrize(("optimizer", "policy"), [(PLAIN, "repair"), (LARGE, "advise")])
def test_a_lower_rate_is_tried_at_rest_and_leaves_no_trace(
    optimizer: dict[str, Any], policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[LearningRateDrop | None] = []

    def watched(loop: TrainingLoop) -> LearningRateDrop | None:
        before = {name: tensor.clone() for name, tensor in loop.state.tensors().items()}
        facts = loop.state.facts()
        tried.append(try_lower_rate(loop))
        assert loop.state.facts() == facts
        for name, tensor in loop.state.tensors().items():
            assert tensor.equal(before[name]), name
        return tried[-1]

    monkeypatch.setattr(trainer, "try_lower_rate", watched)
    outcome = run(tmp_path / "run", optimizer=optimizer, monitoring={"policy": policy})
    (drop,) = tried
    assert drop is not None
    assert drop.steps >= FEWEST_STEPS
    assert drop.step == 900
    verdict = outcome.events("verdict_reached")[-1].verdict
    assert (verdict.verdict == insight_pb2.VERDICT_PLATEAUED) == drop.improved
    assert "learning_rate_drop_z" in {number.name for number in verdict.evidence}


def test_no_lower_rate_is_tried_where_the_schedule_lowers_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[LearningRateDrop | None] = []

    def watched(loop: TrainingLoop) -> LearningRateDrop | None:
        tried.append(try_lower_rate(loop))
        return tried[-1]

    monkeypatch.setattr(trainer, "try_lower_rate", watched)
    run(tmp_path / "cosine", schedule={"cosine": {"final_fraction": 0.0}})
    assert tried == [None]
