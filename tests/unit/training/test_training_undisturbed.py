"""Measuring changes nothing: weights, optimizer and generators are bit for bit those of a run that nobody watches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor, nn

from gradsight.v1 import event_pb2, spec_pb2
from gradsight_models.builtins.gpt import Gpt, GptConfig
from gradsight_models.builtins.mlp import Mlp, MlpConfig
from gradsight_models.builtins.text_transformer import TextTransformer, TextTransformerConfig
from gradsight_models.program import build_program, export_program
from gradsight_worker.training.objectives import ClassObjective, Objective, TokenObjective
from gradsight_worker.training.probes import Prober
from gradsight_worker.training.tapping import LayerTap
from gradsight_worker.training.unit_watch import UnitWatch

if TYPE_CHECKING:
    from tests.unit.training.conftest import Stepper

STEPS = 9
Inputs = Callable[[torch.Generator], Tensor]


def numbers(generator: torch.Generator) -> Tensor:
    return torch.randn(16, 7, generator=generator)


def images(generator: torch.Generator) -> Tensor:
    return torch.randn(16, 2, 8, 8, generator=generator)


def tokens(generator: torch.Generator) -> Tensor:
    return torch.randint(1, 40, (16, 12), generator=generator, dtype=torch.int32)


class Functional(nn.Module):
    """Activations as functions, dropout, normalization over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 20)
        self.norm = nn.BatchNorm1d(20)
        self.second = nn.Linear(20, 12)
        self.output = nn.Linear(12, 3)
        self.dropout = nn.Dropout(0.3)

    def forward(self, values: Tensor) -> Tensor:
        values = self.dropout(torch.relu(self.norm(self.first(values))))
        scores: Tensor = self.output(torch.tanh(self.second(values)))
        return scores


def program() -> nn.Module:
    exported = export_program(Functional(), (torch.randn(4, 7),))
    return build_program(exported.graph, load(exported.weights)).train()


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(6 * 36, 3),
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], Inputs, Objective]] = {
    "mlp": (lambda: Mlp(MlpConfig(hidden_sizes=(9, 9), dropout=0.3), 7, 3), numbers, ClassObjective()),
    "cnn": (convolutions, images, ClassObjective()),
    "functional": (Functional, numbers, ClassObjective()),
    "program": (program, numbers, ClassObjective()),
    "gpt": (
        lambda: Gpt(GptConfig(layers=2, width=16, heads=2, dropout=0.1), 40, 12),
        tokens,
        TokenObjective(),
    ),
    "text_transformer": (
        lambda: TextTransformer(TextTransformerConfig(layers=1, width=16, heads=2), 40, 12, 3),
        tokens,
        ClassObjective(),
    ),
}


class Watched:
    """A model that trains, and is measured at every step, or never."""

    def __init__(
        self,
        stepper: Callable[..., Stepper],
        name: str,
        *,
        interval: int,
        parts: int = 1,
        compiled: bool = False,
    ) -> None:
        make, self._inputs, objective = MODELS[name]
        spec = spec_pb2.JobSpec()
        spec.data.batch_size = 16
        spec.optimizer.learning_rate, spec.optimizer.max_gradient_norm = 0.01, 1.0
        spec.optimizer.accumulation_steps = parts
        spec.optimizer.adamw.beta1, spec.optimizer.adamw.beta2, spec.optimizer.adamw.epsilon = (
            0.9,
            0.999,
            1e-8,
        )
        spec.schedule.constant.SetInParent()
        spec.monitoring.probe_interval_steps = interval
        torch.manual_seed(3)
        self.made = stepper(make(), spec, objective=objective)
        if compiled:
            layers = self.made.layers
            self.made.prober = Prober(self.made.model, layers, self.made.parameters, compiled=True)
            self.made.take_step = self.made.stepping(
                torch.compile(self.made.model, backend="eager", dynamic=False)  # type: ignore[arg-type]
            )
        self.units = UnitWatch(LayerTap(self.made.model, self.made.layers))

    def run(self) -> list[event_pb2.Probe]:
        made, telemetry = self.made, self.made.telemetry()
        torch.manual_seed(5)
        for step in range(1, STEPS + 1):
            inputs, targets = self.batch(step)
            probing, slot = telemetry.probe_due(step), telemetry.begin_step(step)
            if probing:
                made.take_step.probed(inputs, targets, 0.01, slot, telemetry)
            else:
                made.take_step(inputs, targets, 0.01, slot)
            made.state.step = step
            telemetry.end_step(step, 0.01, step * 16, probed=probing)
        telemetry.drain()
        assert not [event for event in made.events if event.HasField("log_line")]
        return [probe for event in made.events for probe in event.steps_recorded.probes]

    def batch(self, step: int) -> tuple[tuple[Tensor, ...], Tensor]:
        generator = torch.Generator().manual_seed(step)
        values = self._inputs(generator)
        if isinstance(self.made.objective, TokenObjective):
            return (values,), values.roll(-1, 1).long()
        return (values,), torch.randint(0, 3, (16,), generator=generator)


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("name", MODELS)
def test_a_run_that_is_measured_at_every_step_is_the_one_that_never_is(
    stepper: Callable[..., Stepper], name: str, parts: int
) -> None:
    often = Watched(stepper, name, interval=1, parts=parts)
    never = Watched(stepper, name, interval=1000, parts=parts)
    probes = often.run()
    assert not never.run()
    assert len(probes) == STEPS
    # Two sizes of batches were compared on the way: the parts, or half of the batch.
    assert often.made.state.noise.state()["weight"] > 0
    expected, found = never.made.state.tensors(), often.made.state.tensors()
    for tensor_name, tensor in expected.items():
        assert torch.equal(tensor, found[tensor_name]), tensor_name


def test_a_compiled_run_has_the_figures_of_its_outputs_and_is_undisturbed(
    stepper: Callable[..., Stepper],
) -> None:
    often = Watched(stepper, "functional", interval=1, compiled=True)
    never = Watched(stepper, "functional", interval=1000, compiled=True)
    plain = Watched(stepper, "functional", interval=1)
    probes, eager = often.run(), plain.run()
    never.run()
    for name, tensor in never.made.state.tensors().items():
        assert torch.equal(tensor, often.made.state.tensors()[name]), name
    for figure in ("layer_zero_ratio", "layer_activation_mean", "layer_activation_deviation"):
        assert list(getattr(probes[0], figure)) == pytest.approx(
            list(getattr(eager[0], figure)), rel=1e-5, abs=1e-6
        )


@pytest.mark.parametrize("name", ["functional", "program"])
def test_outputs_are_measured_after_the_activation_that_follows(
    stepper: Callable[..., Stepper], name: str
) -> None:
    watched = Watched(stepper, name, interval=1)
    probe = watched.run()[0]
    # The hidden layer, the norm that a relu follows, the layer that a tanh follows, the output.
    assert watched.made.prober.tap.activations == [None, "relu", "tanh", None]
    zeros, saturated = list(probe.layer_zero_ratio), list(probe.layer_saturated_ratio)
    assert zeros[0] == zeros[2] == zeros[3] == 0.0
    assert 0.2 < zeros[1] < 0.8
    assert saturated[2] == 0.0
    assert all(ratio != ratio for place, ratio in enumerate(saturated) if place != 2)


def test_a_program_is_measured_as_the_module_that_it_came_from(stepper: Callable[..., Stepper]) -> None:
    module, sent = Watched(stepper, "functional", interval=1), Watched(stepper, "program", interval=1)
    state = {name: value.clone() for name, value in module.made.model.state_dict().items()}
    sent.made.model.load_state_dict(state)
    for one, other in zip(module.run(), sent.run(), strict=True):
        for figure in ("layer_activation_mean", "layer_activation_deviation", "layer_zero_ratio"):
            assert list(getattr(one, figure)) == pytest.approx(
                list(getattr(other, figure)), rel=1e-4, abs=1e-6
            )


def test_saturated_units_show(stepper: Callable[..., Stepper]) -> None:
    watched = Watched(stepper, "functional", interval=1)
    with torch.no_grad():
        watched.made.model.second.bias.fill_(50.0)  # type: ignore[union-attr, operator]
    assert watched.run()[0].layer_saturated_ratio[2] == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["gpt", "text_transformer"])
def test_attention_logits_are_those_of_queries_and_keys(stepper: Callable[..., Stepper], name: str) -> None:
    watched = Watched(stepper, name, interval=1)
    largest: list[float] = []
    made = watched.made

    def see(_module: Any, _inputs: Any, output: Tensor) -> None:
        parts = output.view(16, 12, 3, 2, 8).permute(2, 0, 3, 1, 4)
        logits = (parts[0] @ parts[1].transpose(-1, -2)) / 8**0.5
        largest.append((logits.tril() if name == "gpt" else logits).abs().max().item())

    blocks = [block.query_key_value for block in made.model.blocks]  # type: ignore[union-attr]
    hooks = [block.register_forward_hook(see) for block in blocks]
    inputs, targets = watched.batch(1)
    torch.manual_seed(5)
    made.take_step.forward_backward(inputs, targets, made.slot())
    for hook in hooks:
        hook.remove()
    assert watched.run()[0].attention_logit_max == pytest.approx(max(largest), rel=1e-5)


def test_layers_share_what_the_update_promised(stepper: Callable[..., Stepper]) -> None:
    for probe in Watched(stepper, "functional", interval=1).run():
        assert sum(probe.layer_predicted_decrease) == pytest.approx(probe.predicted_decrease, rel=1e-4)


@pytest.mark.parametrize("name", ["functional", "program", "cnn"])
def test_units_that_no_row_wakes_are_dead(stepper: Callable[..., Stepper], name: str) -> None:
    watched = Watched(stepper, name, interval=1)
    watched.run()
    made, place = watched.made, 1
    norm: Any = dict(made.model.named_modules())["1" if name == "cnn" else "norm"]
    with torch.no_grad():
        norm.bias[:3], norm.weight[:3] = -1.0, 0.0
    units = UnitWatch(made.prober.tap)
    made.model.eval()
    units.attach()
    with torch.no_grad():
        for step in range(20):
            inputs, _ = watched.batch(step)
            made.model(*inputs)
            units.answered(16)
    ratios = units.dead_ratios()
    assert ratios[place] == pytest.approx(3 / len(norm.bias))
    assert sum(ratio == ratio for ratio in ratios) == 1


class Exhausted(nn.Module):
    """Runs out of memory in its first forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.output, self.failed = nn.Linear(7, 9), nn.Linear(9, 3), False

    def forward(self, values: Tensor) -> Tensor:
        hidden = torch.relu(self.hidden(values))
        if not self.failed:
            self.failed = True
            raise MemoryError("no more")
        scores: Tensor = self.output(hidden)
        return scores


def test_a_forward_pass_that_fails_is_watched_no_longer(
    stepper: Callable[..., Stepper], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "exhausted", (Exhausted, numbers, ClassObjective()))
    probes = Watched(stepper, "exhausted", interval=1).run()
    assert torch._C._len_torch_function_stack() == 0
    # The first step was computed anew in halves, and measured whole.
    assert len(probes) == STEPS
    assert all(0 < probe.layer_zero_ratio[0] < 1 for probe in probes)
    assert all(probe.layer_activation_deviation[1] > 0 for probe in probes)
