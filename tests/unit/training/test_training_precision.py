"""Number formats, compilation and repeatable computing: what the spec asks for, or a refusal that says why not."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from gradsight.v1 import spec_pb2, state_pb2
from gradsight_worker.training.computing import (
    computed_as,
    refusal_of,
    repeatable,
    set_up_processor,
)
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.precision import build_precision

if TYPE_CHECKING:
    from tests.unit.training.conftest import Stepper

CPU = torch.device("cpu")
BFLOAT16 = spec_pb2.ComputeSpec(precision=spec_pb2.PRECISION_BFLOAT16)
FLOAT16 = spec_pb2.ComputeSpec(precision=spec_pb2.PRECISION_FLOAT16)
COMPILED = spec_pb2.ComputeSpec(compiled=True)
DETERMINISTIC = spec_pb2.ComputeSpec(deterministic=True)


class Network(nn.Module):
    """Remembers the format of what it computed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.hidden, self.out = nn.Linear(7, 33), nn.Linear(33, 3)
        self.seen: torch.dtype | None = None

    def forward(self, values: Tensor) -> Tensor:
        scores: Tensor = self.out(self.hidden(values).relu())
        self.seen = scores.dtype
        return scores


def spec_of(compute: spec_pb2.ComputeSpec | None = None) -> spec_pb2.JobSpec:
    spec = spec_pb2.JobSpec(compute=compute)
    spec.data.batch_size = 16
    spec.optimizer.learning_rate = 0.01
    spec.optimizer.max_gradient_norm = 1.0
    spec.optimizer.adamw.beta1, spec.optimizer.adamw.beta2, spec.optimizer.adamw.epsilon = 0.9, 0.999, 1e-8
    spec.schedule.constant.SetInParent()
    return spec


def test_in_bfloat16_the_model_computes_short_and_everything_else_in_float32(
    stepper: Callable[..., Stepper],
) -> None:
    short, plain = stepper(Network(), spec_of(BFLOAT16)), stepper(Network(), spec_of())
    for _ in range(30):
        one, other = short.step(), plain.step()
        assert one.loss.item() == pytest.approx(other.loss.item(), rel=3e-2)
    assert [seen for made in (short, plain) for seen in {made.model.seen}] == [torch.bfloat16, torch.float32]
    assert {t.dtype for t in short.tensors().values()} == {torch.float32}
    torch.testing.assert_close(short.parameters.values, plain.parameters.values, rtol=0.1, atol=0.02)


def test_probes_of_a_short_format_measure_only_what_it_can_show() -> None:
    assert build_precision(BFLOAT16, CPU).gain_settings.resolution == 1e-2
    assert build_precision(spec_pb2.ComputeSpec(), CPU).gain_settings.resolution == 1e-6


def test_float16_is_for_cuda_only() -> None:
    with pytest.raises(
        TrainingFailed, match="got float16 on cpu, allowed there: float32 and bfloat16"
    ) as caught:
        build_precision(FLOAT16, CPU)
    assert caught.value.error.field == "compute.precision"
    assert caught.value.error.reason == state_pb2.JOB_ERROR_REASON_INVALID_SPEC
    assert (
        build_precision(FLOAT16, torch.device("cuda")).dtype is torch.float16
        if torch.cuda.is_available()
        else True
    )


def test_a_step_that_is_tried_out_leaves_no_trace(stepper: Callable[..., Stepper]) -> None:
    model = nn.Sequential(nn.Linear(7, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    made = stepper(model, spec_of())
    made.step()
    before, randomness = made.tensors(), torch.get_rng_state()
    made.take_step.try_out(*made.batch(1))
    assert torch.equal(torch.get_rng_state(), randomness)
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.tensors().items())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_compiled_step_is_the_step_on_the_same_flat_parameters(stepper: Callable[..., Stepper]) -> None:
    plain, compiled = stepper(Network(), spec_of()), stepper(Network(), spec_of())
    compiled.take_step = compiled.stepping(computed_as(COMPILED, compiled.model))
    compiled.take_step.try_out(*compiled.batch(0))
    for _ in range(5):
        one, other = plain.step(), compiled.step()
        assert other.loss.item() == pytest.approx(one.loss.item(), rel=1e-5)
    torch.testing.assert_close(plain.parameters.values, compiled.parameters.values)
    assert torch.equal(
        compiled.model.get_parameter("out.bias"), compiled.parameters.shaped(compiled.parameters.values)[-1]
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_machine_without_a_compiler_is_named(
    stepper: Callable[..., Stepper], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    import torch._inductor.config

    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "/nowhere/c++"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    made = stepper(nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3)), spec_of())
    made.take_step = made.stepping(computed_as(COMPILED, made.model))
    with pytest.raises(RuntimeError) as caught:
        made.take_step.try_out(*made.batch(0))
    refusal = refusal_of(caught.value, COMPILED)
    assert refusal is not None
    assert refusal.error.field == "compute.compiled"
    assert "C++ compiler" in refusal.error.message
    assert refusal_of(caught.value, spec_pb2.ComputeSpec()) is None


def test_repeatable_computing_ends_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with suppress(ZeroDivisionError), repeatable(DETERMINISTIC):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        raise ZeroDivisionError
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with repeatable(spec_pb2.ComputeSpec()):
        assert not torch.are_deterministic_algorithms_enabled()


class Unrepeatable(nn.Module):
    """Uses what torch cannot repeat, as torch itself says it."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(7, 3)

    def forward(self, values: Tensor) -> Tensor:
        scores: Tensor = self.out(values)
        return torch.empty(3).put_(torch.tensor([0, 1, 2]), torch.ones(3)) + scores


def test_an_operation_that_does_not_repeat_is_named(stepper: Callable[..., Stepper]) -> None:
    made = stepper(Unrepeatable(), spec_of())
    with repeatable(DETERMINISTIC), pytest.raises(RuntimeError) as caught:
        made.take_step.try_out(*made.batch(0))
    refusal = refusal_of(caught.value, DETERMINISTIC)
    assert refusal is not None
    assert refusal.error.field == "compute.deterministic"
    assert "put_" in refusal.error.message
    assert refusal_of(ValueError("not deterministic"), DETERMINISTIC) is None


def test_numbers_too_small_to_matter_count_as_nothing() -> None:
    tiny = torch.full((64,), 1e-39)
    assert (tiny * 0.5).any()
    set_up_processor(threads=None)
    try:
        assert not (tiny * 0.5).any()
    finally:
        torch.set_flush_denormal(False)
