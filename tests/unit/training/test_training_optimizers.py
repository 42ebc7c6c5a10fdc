"""Updates: the numbers of torch's own optimizers, on flat parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.nn import functional

from gradsight.v1 import spec_pb2
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.optimizers import build_optimizer, shrinkage_per_rate
from gradsight_worker.training.parameters import FlatParameters
from gradsight_worker.training.run_facts import layer_facts

if TYPE_CHECKING:
    from tests.unit.training.conftest import Stepper

CPU = torch.device("cpu")
RATE = 0.01
OPTIMIZERS = {
    "adamw": spec_pb2.OptimizerSpec(adamw=spec_pb2.AdamW(beta1=0.9, beta2=0.999, epsilon=1e-8)),
    "adam": spec_pb2.OptimizerSpec(adam=spec_pb2.Adam(beta1=0.8, beta2=0.99, epsilon=1e-7)),
    "sgd": spec_pb2.OptimizerSpec(sgd=spec_pb2.Sgd(momentum=0.0)),
    "momentum": spec_pb2.OptimizerSpec(sgd=spec_pb2.Sgd(momentum=0.9)),
    "nesterov": spec_pb2.OptimizerSpec(sgd=spec_pb2.Sgd(momentum=0.9, nesterov=True)),
    "adafactor": spec_pb2.OptimizerSpec(
        adafactor=spec_pb2.Adafactor(beta2_decay=-0.8, clipping_threshold=1.0)
    ),
}
TORCHS_OWN: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": partial(torch.optim.Adam, betas=(0.8, 0.99), eps=1e-7),
    "sgd": torch.optim.SGD,
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "nesterov": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "adafactor": torch.optim.Adafactor,
}
MUON = spec_pb2.OptimizerSpec(muon=spec_pb2.Muon(momentum=0.95, iterations=5, adamw_learning_rate=1e-3))


def network() -> nn.Module:
    """With a matrix that is wider and one that is taller, a kernel of three dimensions, biases and a norm."""
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Linear(7, 32),
        nn.LayerNorm(32),
        nn.Unflatten(1, (4, 8)),
        nn.Conv1d(4, 3, 3, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


def spec_of(
    optimizer: spec_pb2.OptimizerSpec, *, limit: float | None = None, rate: float = RATE
) -> spec_pb2.JobSpec:
    spec = spec_pb2.JobSpec(optimizer=optimizer)
    spec.data.batch_size = 16
    spec.optimizer.learning_rate = rate
    spec.optimizer.weight_decay = 0.1
    if limit is None:
        spec.optimizer.clipping_disabled = True
    else:
        spec.optimizer.max_gradient_norm = limit
    spec.schedule.constant.SetInParent()
    return spec


def groups_of(model: nn.Module) -> list[dict[str, object]]:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("limit", [None, 0.1])
def test_updates_are_those_of_torchs_own_optimizer(
    stepper: Callable[..., Stepper], name: str, limit: float | None
) -> None:
    ours, theirs = stepper(network(), spec_of(OPTIMIZERS[name], limit=limit)), network()
    optimizer = TORCHS_OWN[name](groups_of(theirs), lr=RATE)
    for number in range(20):
        measured = ours.step()
        optimizer.zero_grad()
        inputs, targets = ours.batch(number)
        loss = functional.cross_entropy(theirs(*inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), limit or float("inf"))
        optimizer.step()
        assert measured.loss.item() == pytest.approx(loss.item(), rel=1e-5)
        assert measured.gradient_norm.item() == pytest.approx(norm.item(), rel=1e-5)
        assert measured.divisor.item() == pytest.approx(
            max(1.0, norm.item() / limit) if limit else 1.0, rel=1e-5
        )
    for mine, other in zip(ours.model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_muon_moves_matrices_as_torchs_own_and_everything_else_by_adamw(
    stepper: Callable[..., Stepper],
) -> None:
    ours, theirs = stepper(network(), spec_of(MUON, rate=0.02)), network()
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    kernels = [p for p in theirs.parameters() if p.ndim > 2]
    rest = [p for p in theirs.parameters() if p.ndim < 2]
    muon = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=True)
    adamw = torch.optim.AdamW(
        [{"params": kernels, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=1e-3
    )
    for number in range(10):
        ours.step()
        theirs.zero_grad()
        inputs, targets = ours.batch(number)
        functional.cross_entropy(theirs(*inputs), targets).backward()  # type: ignore[no-untyped-call]
        muon.step()  # type: ignore[no-untyped-call]
        adamw.step()
    for mine, other in zip(ours.model.parameters(), theirs.parameters(), strict=True):
        # Muon computes in bfloat16: a last digit of the gradient may become its first.
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3)


def built(optimizer: spec_pb2.OptimizerSpec, *, rate: float) -> tuple[FlatParameters, spec_pb2.OptimizerSpec]:
    return FlatParameters(network(), CPU), spec_of(optimizer, rate=rate).optimizer


@pytest.mark.parametrize("name", [name for name in (*OPTIMIZERS, "muon") if name != "adam"])
def test_decay_takes_what_it_is_said_to_take(name: str) -> None:
    rate = 2e-3
    parameters, spec = built(MUON if name == "muon" else OPTIMIZERS[name], rate=rate)
    optimizer, nothing = build_optimizer(spec, parameters), torch.zeros(())
    for _ in range(100):
        # Without a gradient decay is all there is; momentum needs a while to build up.
        before = parameters.values.double()
        parameters.gradients.zero_()
        optimizer.step(rate, divisor=None, nonfinite=nothing)
    taken = {
        name: ((old - new).norm() / old.norm().clamp(min=1e-9)).item()
        for name, old, new in zip(
            parameters.names,
            parameters.views(before),
            parameters.views(parameters.values.double()),
            strict=True,
        )
    }
    shrinkage = shrinkage_per_rate(spec, parameters)
    assert {name: rate * share for name, share in shrinkage.items()} == pytest.approx(taken, rel=0.05)
    assert {name for name, share in shrinkage.items() if share} == {"0.weight", "3.weight", "6.weight"}


def test_what_decay_takes_under_each_optimizer() -> None:
    def largest(optimizer: spec_pb2.OptimizerSpec) -> float:
        parameters, spec = built(optimizer, rate=0.02)
        return max(shrinkage_per_rate(spec, parameters).values())

    said = {name: largest(optimizer) for name, optimizer in OPTIMIZERS.items()}
    expected = {"adamw": 0.1, "adam": 0.0, "sgd": 0.1, "momentum": 1.0, "nesterov": 1.0, "adafactor": 0.1}
    assert said == pytest.approx(expected)


def test_layers_know_what_decay_takes_from_their_matrices(stepper: Callable[..., Stepper]) -> None:
    model = network()
    model.get_submodule("3").requires_grad_(False)
    made = stepper(model, spec_of(MUON, rate=0.02))
    shrinkage = shrinkage_per_rate(made.optimizer, made.parameters)
    facts = layer_facts(made.model, made.layers, made.prober.tap, shrinkage)
    # Weights of the norm do not decay, and what is frozen does not either.
    assert {layer.path: layer.shrinkage_per_rate for layer in facts} == {
        "0": 0.1,
        "1": 0.0,
        "3": 0.0,
        "6": 0.1,
    }
    unfrozen = stepper(network(), spec_of(MUON, rate=0.02))
    shrinkage = shrinkage_per_rate(unfrozen.optimizer, unfrozen.parameters)
    kernel = layer_facts(unfrozen.model, unfrozen.layers, unfrozen.prober.tap, shrinkage)[2]
    assert kernel.shrinkage_per_rate == pytest.approx(0.1 * 1e-3 / 0.02)


def test_muon_leaves_embeddings_to_adamw(stepper: Callable[..., Stepper]) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(50, 6)
            self.out = nn.Linear(6, 3)

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.out(self.table(values.abs().long()).mean(dim=1))
            return scores

    made = stepper(Words(), spec_of(MUON, rate=0.02))
    before = made.model.get_parameter("table.weight").detach().clone()
    made.step()
    moved = (made.model.get_parameter("table.weight") - before * (1 - 1e-3 * 0.1)).abs().max()
    # AdamW's first step is its learning rate, whatever the gradient.
    assert moved.item() == pytest.approx(1e-3, rel=1e-2)
    assert made.state.optimizer.state["momentum"].numel() == 18


def test_adafactor_remembers_a_row_and_a_column_of_a_matrix(stepper: Callable[..., Stepper]) -> None:
    made = stepper(nn.Linear(7, 3), spec_of(OPTIMIZERS["adafactor"]))
    assert made.state.optimizer.state["second_moments"].numel() == 7 + 3 + 3


@pytest.mark.parametrize("limit", [None, 0.5])
def test_gradients_are_cut_by_value_before_the_norm_is_limited(
    stepper: Callable[..., Stepper], limit: float | None
) -> None:
    spec = spec_of(OPTIMIZERS["sgd"], limit=limit)
    spec.optimizer.max_gradient_value = 0.02
    ours, theirs = stepper(network(), spec), network()
    optimizer = torch.optim.SGD(groups_of(theirs), lr=RATE)
    measured = ours.step()
    inputs, targets = ours.batch(0)
    functional.cross_entropy(theirs(*inputs), targets).backward()  # type: ignore[no-untyped-call]
    whole = nn.utils.get_total_norm([p.grad for p in theirs.parameters() if p.grad is not None])
    nn.utils.clip_grad_value_(theirs.parameters(), 0.02)
    cut = nn.utils.clip_grad_norm_(theirs.parameters(), limit or float("inf"))
    optimizer.step()
    assert measured.gradient_norm.item() == pytest.approx(whole.item(), rel=1e-5)
    left = cut.item() if limit is None else min(cut.item(), limit)
    assert 1 / measured.divisor.item() == pytest.approx(left / whole.item(), rel=1e-5)
    for mine, other in zip(ours.model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_an_infinite_gradient_is_not_finite_although_its_value_is_cut(
    stepper: Callable[..., Stepper],
) -> None:
    spec = spec_of(OPTIMIZERS["sgd"])
    spec.optimizer.max_gradient_value = 0.02
    made = stepper(network(), spec)
    before = made.tensors()
    made.model.register_forward_hook(lambda _model, _inputs, scores: overflow_backward(scores))
    assert made.step().nonfinite.item() == 1.0
    assert torch.equal(made.parameters.values, before["values"])


def overflow_backward(scores: torch.Tensor) -> torch.Tensor:
    return scores.detach() + (scores - scores.detach()) * 3e38 * 3e38


def test_biases_and_norms_are_not_decayed(stepper: Callable[..., Stepper]) -> None:
    model = nn.Sequential(nn.Linear(7, 8), nn.Unflatten(1, (2, 4)), nn.LayerNorm((2, 4)), nn.Flatten())
    spec = spec_of(OPTIMIZERS["sgd"], rate=0.1)
    spec.optimizer.weight_decay = 0.5
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    made = stepper(model, spec)
    made.state.optimizer.step(0.1, divisor=None, nonfinite=torch.zeros(()))
    for name, parameter in model.named_parameters():
        factor = 0.95 if name == "0.weight" else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def test_tied_weights_stay_tied_and_count_once() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    parameters = FlatParameters(model, CPU)
    assert second.weight.data_ptr() == first.weight.data_ptr()
    assert len(parameters.names) == 3


def test_parameters_that_do_not_train_stay_as_they_are(stepper: Callable[..., Stepper]) -> None:
    model = network()
    frozen = model.get_parameter("0.weight").requires_grad_(False)
    before = frozen.detach().clone()
    made = stepper(model, spec_of(OPTIMIZERS["adamw"]))
    assert "0.weight" not in made.parameters.names
    made.step()
    assert torch.equal(frozen, before)


def test_a_model_that_cannot_be_trained_is_refused_by_name() -> None:
    with pytest.raises(TrainingFailed, match="no parameter that trains"):
        FlatParameters(nn.Sequential(nn.ReLU()), CPU)
    with pytest.raises(TrainingFailed, match=r"parameter weight is torch.float64, allowed: torch.float32"):
        FlatParameters(nn.Linear(2, 2, dtype=torch.float64), CPU)


@pytest.mark.parametrize("iterations", [1, 5])
def test_muons_update_of_a_matrix_has_singular_values_near_one(
    stepper: Callable[..., Stepper], iterations: int
) -> None:
    optimizer = spec_pb2.OptimizerSpec(
        muon=spec_pb2.Muon(momentum=0.0, iterations=iterations, adamw_learning_rate=1e-3)
    )
    spec = spec_of(optimizer, rate=1.0)
    spec.optimizer.weight_decay = 0.0
    made = stepper(nn.Linear(7, 3), spec)
    before = made.model.get_parameter("weight").detach().clone()
    made.step()
    values = torch.linalg.svdvals(made.model.get_parameter("weight").detach() - before)
    spread = math.log(values.max().item() / values.min().item())
    assert (spread < 1.0) == (iterations == 5)
