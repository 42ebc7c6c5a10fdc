"""Exact resume: a state that was saved and loaded goes on bit for bit as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from gradsight.v1 import spec_pb2
from gradsight_worker.training.checkpoints import load_checkpoint, save_checkpoint
from gradsight_worker.training.precision import LossScale, Precision

if TYPE_CHECKING:
    from tests.unit.training.conftest import Stepper

CPU = torch.device("cpu")
OPTIMIZERS = {
    "adamw": spec_pb2.OptimizerSpec(adamw=spec_pb2.AdamW(beta1=0.9, beta2=0.999, epsilon=1e-8)),
    "adam": spec_pb2.OptimizerSpec(adam=spec_pb2.Adam(beta1=0.9, beta2=0.999, epsilon=1e-8)),
    "sgd": spec_pb2.OptimizerSpec(sgd=spec_pb2.Sgd(momentum=0.0)),
    "nesterov": spec_pb2.OptimizerSpec(sgd=spec_pb2.Sgd(momentum=0.9, nesterov=True)),
    "adafactor": spec_pb2.OptimizerSpec(
        adafactor=spec_pb2.Adafactor(beta2_decay=-0.8, clipping_threshold=1.0)
    ),
    "muon": spec_pb2.OptimizerSpec(
        muon=spec_pb2.Muon(momentum=0.95, iterations=5, adamw_learning_rate=0.001)
    ),
}


def spec_of(optimizer: spec_pb2.OptimizerSpec) -> spec_pb2.JobSpec:
    spec = spec_pb2.JobSpec(optimizer=optimizer)
    spec.data.batch_size = 16
    spec.optimizer.learning_rate = 0.01
    spec.optimizer.weight_decay = 0.1
    spec.optimizer.max_gradient_norm = 1.0
    spec.optimizer.accumulation_steps = 2
    spec.optimizer.average_decay = 0.9
    spec.schedule.plateau.factor, spec.schedule.plateau.patience = 0.5, 1
    spec.evaluation.patience = 50
    return spec


def made_with(stepper: Callable[..., Stepper], optimizer: str, seed: int) -> Stepper:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(7, 33), nn.BatchNorm1d(33), nn.Tanh(), nn.Dropout(0.3), nn.Linear(33, 3))
    made = stepper(model, spec_of(OPTIMIZERS[optimizer]))
    made.state.precision = Precision(CPU, torch.bfloat16, LossScale(CPU))
    made.take_step = made.stepping()
    return made


def go_on(made: Stepper, steps: int) -> None:
    """Steps with evaluations that never improve, and one step that is not finite."""
    for _ in range(steps):
        made.step(poison=float("nan") if made.state.step == 12 else None)
        if made.state.step % 4 == 0:
            made.state.schedule.observe(1.0)
            made.state.patience.observe(1.0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(
    stepper: Callable[..., Stepper], optimizer: str, tmp_path: Path
) -> None:
    spec = spec_of(OPTIMIZERS[optimizer])
    unbroken = made_with(stepper, optimizer, seed=1)
    go_on(unbroken, 7)
    unbroken.state.micro_batch_size = 4
    go_on(unbroken, 3)
    save_checkpoint(tmp_path / "c", unbroken.state, spec)
    go_on(unbroken, 10)
    resumed = made_with(stepper, optimizer, seed=2)
    load_checkpoint(tmp_path / "c", resumed.state, spec)
    assert resumed.state.step == 10
    go_on(resumed, 10)
    assert resumed.state.facts() == unbroken.state.facts()
    for name, tensor in unbroken.state.tensors().items():
        assert torch.equal(tensor, resumed.state.tensors()[name]), name
