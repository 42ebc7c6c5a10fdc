"""One step: true gradients, whole or in parts, and a step that is not finite changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from gradsight.v1 import spec_pb2
from gradsight_worker.training.objectives import TokenObjective
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
    "muon": spec_pb2.OptimizerSpec(muon=spec_pb2.Muon(momentum=0.95, iterations=5, adamw_learning_rate=1e-3)),
}
FEATURES: dict[str, set[str]] = {
    "plain": set(),
    "batch norm": {"batch norm"},
    "dropout": {"dropout"},
    "average": {"average"},
    "accumulation": {"accumulation"},
    "loss scale": {"loss scale"},
    "values cut": {"values cut"},
    "all": {"batch norm", "dropout", "average", "accumulation", "loss scale", "values cut"},
}


def network(*, batch_norm: bool = False, dropout: bool = False) -> nn.Sequential:
    torch.manual_seed(5)
    middle: list[nn.Module] = [nn.BatchNorm1d(33)] if batch_norm else []
    return nn.Sequential(
        nn.Linear(7, 33), *middle, nn.Tanh(), nn.Dropout(0.3 if dropout else 0.0), nn.Linear(33, 3)
    )


def spec_with(optimizer: spec_pb2.OptimizerSpec, features: set[str]) -> spec_pb2.JobSpec:
    spec = spec_pb2.JobSpec(optimizer=optimizer)
    spec.data.batch_size = 16
    spec.optimizer.learning_rate = 0.01
    spec.optimizer.weight_decay = 0.1
    spec.optimizer.max_gradient_norm = 1.0
    spec.schedule.constant.SetInParent()
    if "average" in features:
        spec.optimizer.average_decay = 0.9
    if "accumulation" in features:
        spec.optimizer.accumulation_steps = 3
    if "values cut" in features:
        spec.optimizer.max_gradient_value = 0.05
    return spec


def made_with(stepper: Callable[..., Stepper], name: str, features: set[str]) -> Stepper:
    model = network(batch_norm="batch norm" in features, dropout="dropout" in features)
    made = stepper(model, spec_with(OPTIMIZERS[name], features))
    if "loss scale" in features:
        # What float16 does on CUDA, in bfloat16 on the processor.
        made.state.precision = Precision(CPU, torch.bfloat16, LossScale(CPU))
        made.take_step = made.stepping()
    return made


def bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.int32) if tensor.dtype == torch.float32 else tensor


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_is_not_finite_changes_nothing(
    stepper: Callable[..., Stepper], name: str, features: str, poison: float
) -> None:
    made = made_with(stepper, name, FEATURES[features])
    for _ in range(3):
        assert made.step().nonfinite.item() == 0.0
    before = made.tensors()
    assert made.step(poison=poison).nonfinite.item() == 1.0
    after = made.tensors()
    assert after.keys() == before.keys()
    for tensor_name, tensor in before.items():
        # The search of the loss's scale goes on: that is what it learns from.
        if not tensor_name.startswith("precision."):
            assert torch.equal(bits(tensor), bits(after[tensor_name])), tensor_name
    assert made.step().nonfinite.item() == 0.0
    for tensor_name in ("values", "average.values"):
        if tensor_name in before:
            assert not torch.equal(made.state.tensors()[tensor_name], before[tensor_name])


def overflow_backward(scores: Tensor) -> Tensor:
    """The same scores, with gradients that overflow on their way back."""
    return scores.detach() + (scores - scores.detach()) * 3e38 * 3e38


def test_a_finite_loss_with_a_gradient_that_is_not_finite_changes_nothing_either(
    stepper: Callable[..., Stepper],
) -> None:
    made = made_with(stepper, "adamw", {"batch norm"})
    made.model.register_forward_hook(lambda _model, _inputs, scores: overflow_backward(scores))
    before = made.tensors()
    measured = made.step()
    assert measured.loss.isfinite()
    assert measured.nonfinite.item() == 1.0
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.tensors().items())


@pytest.mark.parametrize("parts", [2, 3, 5, 16, 50])
def test_a_step_in_parts_is_the_step_up_to_rounding(stepper: Callable[..., Stepper], parts: int) -> None:
    whole, cut = (stepper(network(), spec_with(OPTIMIZERS["adamw"], set())) for _ in range(2))
    cut.state.micro_batch_size = -(-16 // parts)
    inputs, targets = whole.batch(3)
    whole.take_step.forward_backward(inputs, targets, one := whole.slot())
    cut.take_step.forward_backward(inputs, targets, other := cut.slot())
    torch.testing.assert_close(cut.parameters.gradients, whole.parameters.gradients, rtol=1e-5, atol=1e-7)
    assert other.loss.item() == pytest.approx(one.loss.item(), rel=1e-6)
    assert cut.take_step.loss(inputs, targets).item() == pytest.approx(one.loss.item(), rel=1e-6)


class Tokens(nn.Module):
    """Scores [rows, 4, 5] of 7 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(7, 20)

    def forward(self, values: Tensor) -> Tensor:
        scores: Tensor = self.out(values).view(-1, 4, 5)
        return scores


def test_parts_weigh_what_counts_in_them(stepper: Callable[..., Stepper]) -> None:
    whole, cut = (
        stepper(Tokens(), spec_with(OPTIMIZERS["adamw"], set()), objective=TokenObjective()) for _ in range(2)
    )
    cut.parameters.values.copy_(whole.parameters.values)
    cut.state.micro_batch_size = 4
    (values,), _ = whole.batch(1)
    targets = torch.randint(0, 5, (16, 4), generator=torch.Generator().manual_seed(1))
    targets[:7] = -100
    targets[9, 1:] = -100
    for expected in (targets, torch.full_like(targets, -100)):
        whole.take_step.forward_backward((values,), expected, one := whole.slot())
        cut.take_step.forward_backward((values,), expected, other := cut.slot())
        torch.testing.assert_close(cut.parameters.gradients, whole.parameters.gradients)
        torch.testing.assert_close(other.loss, one.loss)


def test_batch_norm_sees_no_part_of_a_single_row(stepper: Callable[..., Stepper]) -> None:
    made = made_with(stepper, "adamw", {"batch norm"})
    made.state.micro_batch_size = 2
    assert made.step(rows=15).nonfinite.item() == 0.0


def test_a_scaled_loss_leaves_the_step_as_it_is(stepper: Callable[..., Stepper]) -> None:
    plain, scaled = (made_with(stepper, "adamw", {"values cut"}) for _ in range(2))
    scaled.state.precision = Precision(CPU, None, LossScale(CPU))
    scaled.take_step = scaled.stepping()
    for _ in range(5):
        one, other = plain.step(), scaled.step()
        assert other.loss_scale.item() == 2.0**16
        for measured in ("loss", "gradient_norm", "divisor"):
            torch.testing.assert_close(getattr(one, measured), getattr(other, measured))
    torch.testing.assert_close(plain.parameters.values, scaled.parameters.values)


def test_the_scale_of_a_loss_is_halved_by_an_overflow_and_doubled_by_2000_good_steps() -> None:
    scale = LossScale(CPU)
    bad, good = torch.ones(()), torch.zeros(())
    scale.update(bad)
    scale.update(bad)
    assert scale.value.item() == 2.0**14
    for _ in range(2000):
        scale.update(good)
    assert scale.value.item() == 2.0**15


def test_gradients_match_finite_differences(stepper: Callable[..., Stepper]) -> None:
    made = stepper(network(), spec_with(OPTIMIZERS["sgd"], set()))
    inputs, targets = made.batch(0)
    made.take_step.forward_backward(inputs, targets, made.slot())
    gradients, values = made.parameters.gradients.clone(), made.parameters.values
    direction = torch.randn(values.shape, generator=torch.Generator().manual_seed(1)) * (gradients != 0)
    small = 1e-3
    with torch.no_grad():
        values += small * direction
        above = made.take_step.loss(inputs, targets).item()
        values -= 2 * small * direction
        below = made.take_step.loss(inputs, targets).item()
    assert (above - below) / (2 * small) == pytest.approx(float(gradients @ direction), rel=2e-2)


def test_an_average_follows_the_weights_slowly_and_answers_in_their_place(
    stepper: Callable[..., Stepper],
) -> None:
    made = made_with(stepper, "adamw", {"average", "batch norm"})
    average = made.parameters.values.clone()
    statistics = made.model.get_buffer("1.running_mean").clone()
    for step in range(1, 101):
        made.step()
        decay = min(0.9, (1 + step) / (10 + step))
        average.lerp_(made.parameters.values, 1 - decay)
        statistics.lerp_(made.model.get_buffer("1.running_mean"), 1 - decay)
    newest = made.tensors()
    with made.state.answering():
        torch.testing.assert_close(made.parameters.values, average)
        torch.testing.assert_close(made.model.get_buffer("1.running_mean"), statistics)
        assert made.model.get_buffer("1.num_batches_tracked").item() == 100
    for name, tensor in made.state.tensors().items():
        assert name.startswith("random.") or torch.equal(tensor, newest[name]), name


def test_a_constant_that_is_infinite_stays_so_in_the_average(stepper: Callable[..., Stepper]) -> None:
    model = network()
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    made = stepper(model, spec_with(OPTIMIZERS["adamw"], {"average"}))
    made.step()
    with made.state.answering():
        assert model.get_buffer("mask").tolist() == [0.0, -torch.inf]
