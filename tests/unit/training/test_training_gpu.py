"""On a CUDA device: the same promises, with half precision, and a step that never waits for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from gradsight.v1 import spec_pb2
from gradsight_worker.training.checkpoints import load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from tests.unit.training.conftest import Stepper

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda:0")
OPTIMIZERS = {
    "adamw": spec_pb2.OptimizerSpec(adamw=spec_pb2.AdamW(beta1=0.9, beta2=0.999, epsilon=1e-8)),
    "adam": spec_pb2.OptimizerSpec(adam=spec_pb2.Adam(beta1=0.9, beta2=0.999, epsilon=1e-8)),
    "nesterov": spec_pb2.OptimizerSpec(sgd=spec_pb2.Sgd(momentum=0.9, nesterov=True)),
    "adafactor": spec_pb2.OptimizerSpec(
        adafactor=spec_pb2.Adafactor(beta2_decay=-0.8, clipping_threshold=1.0)
    ),
    "muon": spec_pb2.OptimizerSpec(
        muon=spec_pb2.Muon(momentum=0.95, iterations=5, adamw_learning_rate=0.001)
    ),
}
PRECISIONS = {
    "float32": spec_pb2.PRECISION_FLOAT32,
    "bfloat16": spec_pb2.PRECISION_BFLOAT16,
    "float16": spec_pb2.PRECISION_FLOAT16,
}


def made_with(
    stepper: Callable[..., Stepper], optimizer: str, precision: str, seed: int = 5
) -> tuple[Stepper, spec_pb2.JobSpec]:
    spec = spec_pb2.JobSpec(optimizer=OPTIMIZERS[optimizer])
    spec.compute.precision = PRECISIONS[precision]
    spec.data.batch_size = 16
    spec.optimizer.learning_rate = 0.01
    spec.optimizer.weight_decay = 0.1
    spec.optimizer.max_gradient_norm = 1.0
    spec.optimizer.max_gradient_value = 0.5
    spec.optimizer.accumulation_steps = 2
    spec.optimizer.average_decay = 0.9
    spec.schedule.constant.SetInParent()
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(7, 33), nn.BatchNorm1d(33), nn.Tanh(), nn.Dropout(0.3), nn.Linear(33, 3))
    return stepper(model, spec, device=CUDA), spec


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_that_is_not_finite_changes_nothing(
    stepper: Callable[..., Stepper], optimizer: str, precision: str
) -> None:
    made, _ = made_with(stepper, optimizer, precision)
    for _ in range(3):
        assert made.step().nonfinite.item() == 0.0
    before = made.tensors()
    assert made.step(poison=float("nan")).nonfinite.item() == 1.0
    for name, tensor in made.tensors().items():
        assert name.startswith("precision.") or torch.equal(tensor, before[name]), name
    assert made.step().nonfinite.item() == 0.0


@contextmanager
def waiting_raises() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_step_waits_for_the_device(
    stepper: Callable[..., Stepper], optimizer: str, precision: str
) -> None:
    made, _ = made_with(stepper, optimizer, precision)
    batches = [made.batch(number) for number in range(4)]
    slots = [made.slot() for _ in batches]
    telemetry = made.telemetry()
    made.take_step(*batches[0], 0.01, slots[0])
    with waiting_raises():
        for (inputs, targets), slot in zip(batches, slots, strict=True):
            made.take_step(inputs, targets, 0.01, slot)
        made.take_step.probed(*batches[0], 0.01, slots[0], telemetry)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(
    stepper: Callable[..., Stepper], optimizer: str, precision: str, tmp_path: Path
) -> None:
    unbroken, spec = made_with(stepper, optimizer, precision)
    for _ in range(10):
        unbroken.step()
    save_checkpoint(tmp_path / "c", unbroken.state, spec)
    for _ in range(10):
        unbroken.step()
    resumed, _ = made_with(stepper, optimizer, precision, seed=2)
    load_checkpoint(tmp_path / "c", resumed.state, spec)
    for _ in range(10):
        resumed.step()
    for name, tensor in unbroken.state.tensors().items():
        assert torch.equal(tensor, resumed.state.tensors()[name]), name


class Wide(nn.Module):
    """Needs some gigabytes for every row."""

    def __init__(self, bytes_per_row: int) -> None:
        super().__init__()
        self.out = nn.Linear(7, 3)
        self.repeats = bytes_per_row // 28

    def forward(self, values: Tensor) -> Tensor:
        wide = values.repeat(1, self.repeats)
        scores: Tensor = self.out(values) + (wide * self.out.bias[0]).square().mean(dim=1, keepdim=True)
        return scores


def test_a_device_that_has_no_more_memory_is_survived(stepper: Callable[..., Stepper]) -> None:
    spec = spec_pb2.JobSpec(optimizer=OPTIMIZERS["adamw"])
    spec.data.batch_size = 16
    spec.optimizer.learning_rate = 0.01
    spec.optimizer.max_gradient_norm = 1.0
    spec.schedule.constant.SetInParent()
    free, _ = torch.cuda.mem_get_info(CUDA)
    made = stepper(Wide(free // 32), spec, device=CUDA)
    assert made.step().nonfinite.item() == 0.0
    (last,) = [event.micro_batch_reduced for event in made.events][-1:]
    assert last.micro_batch_size < 16
    assert last.peak_bytes > 0
    assert made.step().nonfinite.item() == 0.0
    assert len(made.events) == last.accumulation_steps.bit_length() - 1
