"""One step: the numbers of torch's own optimizers, and a step that is not finite changes nothing."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gradsight.v1 import spec_pb2
from gradsight_models import layers_of
from gradsight_worker.training.loop import TrainingStep
from gradsight_worker.training.optimizers import build_optimizer
from gradsight_worker.training.parameters import FlatParameters
from gradsight_worker.training.probes import ProbeCadence, Prober
from gradsight_worker.training.state import KeptWeights, TrainingState
from gradsight_worker.training.telemetry import StepSlot

CPU = torch.device("cpu")
OPTIMIZERS = {
    "adamw": spec_pb2.OptimizerSpec(
        weight_decay=0.1, adamw=spec_pb2.AdamW(beta1=0.9, beta2=0.999, epsilon=1e-8)
    ),
    "sgd": spec_pb2.OptimizerSpec(weight_decay=0.1, sgd=spec_pb2.Sgd(momentum=0.0)),
    "momentum": spec_pb2.OptimizerSpec(weight_decay=0.1, sgd=spec_pb2.Sgd(momentum=0.9)),
    "nesterov": spec_pb2.OptimizerSpec(weight_decay=0.1, sgd=spec_pb2.Sgd(momentum=0.9, nesterov=True)),
}
TORCHS_OWN: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": partial(torch.optim.AdamW, lr=0.01),
    "sgd": partial(torch.optim.SGD, lr=0.01),
    "momentum": partial(torch.optim.SGD, lr=0.01, momentum=0.9),
    "nesterov": partial(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True),
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small tensors gain nothing from threads, and lose much on a busy machine."""
    torch.set_num_threads(1)


def network(*, batch_norm: bool = False, dropout: bool = False) -> nn.Sequential:
    torch.manual_seed(5)
    middle: list[nn.Module] = [nn.BatchNorm1d(33)] if batch_norm else []
    return nn.Sequential(
        nn.Linear(7, 33), *middle, nn.Tanh(), nn.Dropout(0.3 if dropout else 0.0), nn.Linear(33, 3)
    )


def batch(seed: int = 0) -> tuple[tuple[Tensor, ...], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(16, 7, generator=generator),), torch.randint(0, 3, (16,), generator=generator)


def stepping(
    model: nn.Module, spec: spec_pb2.OptimizerSpec, limit: float | None = None
) -> tuple[TrainingState, TrainingStep]:
    parameters = FlatParameters(model, CPU)
    state = TrainingState(
        parameters=parameters,
        optimizer=build_optimizer(spec, parameters),
        kept=KeptWeights.like(parameters),
        cadence=ProbeCadence(fixed=None, total_steps=100),
    )
    prober = Prober(model, layers_of(model), parameters)
    return state, TrainingStep(
        model=model, objective=functional.cross_entropy, state=state, max_gradient_norm=limit, prober=prober
    )


def slot() -> StepSlot:
    return StepSlot(*torch.ones(4).unbind())


def snapshot(state: TrainingState) -> dict[str, Tensor]:
    return {
        name: tensor.clone() for name, tensor in state.tensors().items() if not name.startswith("random.")
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("limit", [None, 0.1])
def test_updates_are_those_of_torchs_own_optimizer(name: str, limit: float | None) -> None:
    ours, theirs = network(), network()
    _, take_step = stepping(ours, OPTIMIZERS[name], limit)
    decay = [p for p in theirs.parameters() if p.ndim > 1]
    rest = [p for p in theirs.parameters() if p.ndim <= 1]
    optimizer = TORCHS_OWN[name](
        [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    )
    for number in range(20):
        inputs, targets = batch(number)
        take_step(inputs, targets, 0.01, measured := slot())
        optimizer.zero_grad()
        loss = functional.cross_entropy(theirs(*inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), limit or float("inf"))
        optimizer.step()
        assert measured.loss.item() == pytest.approx(loss.item(), rel=1e-5)
        assert measured.gradient_norm.item() == pytest.approx(norm.item(), rel=1e-5)
        assert measured.divisor.item() == pytest.approx(
            max(1.0, norm.item() / limit) if limit else 1.0, rel=1e-5
        )
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    ("batch_norm", "dropout"), [(True, False), (False, True), (True, True), (False, False)]
)
def test_a_step_that_is_not_finite_changes_nothing(
    name: str, batch_norm: bool, dropout: bool, poison: float
) -> None:
    state, take_step = stepping(network(batch_norm=batch_norm, dropout=dropout), OPTIMIZERS[name], 1.0)
    for number in range(3):
        take_step(*batch(number), 0.01, good := slot())
        assert good.nonfinite.item() == 0.0
    before = snapshot(state)
    (values,), targets = batch(3)
    values[2, 4] = poison
    take_step((values,), targets, 0.01, bad := slot())
    assert bad.nonfinite.item() == 1.0
    after = snapshot(state)
    for tensor_name, tensor in before.items():
        assert torch.equal(tensor, after[tensor_name]), tensor_name
    take_step(*batch(4), 0.01, slot())
    assert not torch.equal(state.parameters.values, before["values"])


def overflow_backward(scores: Tensor) -> Tensor:
    """The same scores, with gradients that overflow on their way back."""
    return scores.detach() + (scores - scores.detach()) * 3e38 * 3e38


def test_a_finite_loss_with_a_gradient_that_is_not_finite_changes_nothing_either() -> None:
    model = network(batch_norm=True)
    state, take_step = stepping(model, OPTIMIZERS["adamw"])
    model.register_forward_hook(lambda _model, _inputs, scores: overflow_backward(scores))
    before = snapshot(state)
    take_step(*batch(), 0.01, measured := slot())
    assert measured.loss.isfinite()
    assert measured.nonfinite.item() == 1.0
    assert all(torch.equal(tensor, before[name]) for name, tensor in snapshot(state).items())


def test_biases_and_norms_are_not_decayed() -> None:
    spec = spec_pb2.OptimizerSpec(weight_decay=0.5, sgd=spec_pb2.Sgd(momentum=0.0))
    model = network(batch_norm=True)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    state, _ = stepping(model, spec)
    state.optimizer.step(0.1, divisor=None, nonfinite=torch.zeros(()))
    for name, parameter in model.named_parameters():
        factor = 0.95 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def test_tied_weights_stay_tied_and_count_once() -> None:
    model = network()
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    model.extend([first, second])
    parameters = FlatParameters(model, CPU)
    assert second.weight.data_ptr() == first.weight.data_ptr()
    assert len(parameters.names) == len(list(model.named_parameters()))


def test_gradients_match_finite_differences() -> None:
    model = network()
    state, take_step = stepping(model, OPTIMIZERS["sgd"])
    inputs, targets = batch()
    take_step.forward_backward(inputs, targets, slot())
    gradients, values = state.parameters.gradients.clone(), state.parameters.values
    direction = torch.randn(values.shape, generator=torch.Generator().manual_seed(1)) * (gradients != 0)
    small = 1e-3
    with torch.no_grad():
        values += small * direction
        above = take_step.loss(inputs, targets).item()
        values -= 2 * small * direction
        below = take_step.loss(inputs, targets).item()
    assert (above - below) / (2 * small) == pytest.approx(float(gradients @ direction), rel=2e-2)
