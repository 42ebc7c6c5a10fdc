"""Probes: steps that are measured more richly, layer by layer, without changing what the run computes.

A probe adds norms, two snapshots and one forward pass to a step. The forward pass repeats the step's batch with the
same random numbers after the update, so that the decrease it finds is the update's doing; the generators and the
model's buffers are then put back.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradsight.v1 import event_pb2
from gradsight_models import Layer
from gradsight_worker.training.parameters import FlatParameters
from gradsight_worker.training.randomness import random_state, restore_random_state

BUDGET = 0.02
"""Share of the training time that probes may take, once their cost is known: of the 3 % that telemetry may take in
all, the rest is for what is measured at every step."""
_DENSE_INTERVAL = 10
_DENSE_UNTIL_STEP = 200
_LONGEST_INTERVAL = 1000
_COSTS_REMEMBERED = 32


class ProbeCadence:
    """When to probe: every `fixed` steps, or dense first and then as often as the budget allows.

    The cadence follows the clock and so differs between runs; no result depends on it.
    """

    def __init__(self, *, fixed: int | None, total_steps: int) -> None:
        self._fixed = fixed
        self.interval = fixed or _DENSE_INTERVAL
        self.next_step = min(self.interval, total_steps)
        self._costs: deque[tuple[float, float]] = deque(maxlen=_COSTS_REMEMBERED)

    def advance(self, step: int) -> None:
        """A probe was taken at `step`."""
        if self._fixed is None and step >= _DENSE_UNTIL_STEP and self._costs:
            plain = median(plain for plain, _ in self._costs)
            self.interval = math.ceil(self.extra_seconds / max(BUDGET * plain, 1e-9))
            self.interval = min(max(self.interval, 1), _LONGEST_INTERVAL)
        self.next_step = step + self.interval

    def learn(self, *, plain_seconds: float, probe_seconds: float) -> None:
        """A plain step and the probe after it took this long."""
        self._costs.append((plain_seconds, probe_seconds))

    @property
    def extra_seconds(self) -> float:
        """What a probe adds to a step; 0 while unknown."""
        return max(0.0, median(probe - plain for plain, probe in self._costs)) if self._costs else 0.0


class Prober:
    """Measures a step. The calls come in the order of the methods; results go to a vector on the device."""

    def __init__(self, model: nn.Module, layers: Sequence[Layer], parameters: FlatParameters) -> None:
        self._parameters = parameters
        self._device = parameters.values.device
        self._outputs = [_output_of(model, layer) for layer in layers]
        self._membership = _membership(layers, parameters.names).to(self._device)
        self._sizes = [layer.parameter_count for layer in layers]
        self._values_before = torch.empty_like(parameters.values)
        self._gradients = torch.empty_like(parameters.values)
        self._buffers_after = [torch.empty_like(buffer) for buffer in parameters.buffers]
        self._gradient_views = parameters.views(self._gradients)
        self._value_views = parameters.views(parameters.values)
        self._change_views = parameters.views(self._values_before)
        self._hooks: list[RemovableHandle] = []
        self._random_before: dict[str, Tensor] = {}
        # Sums over a layer's outputs in all parts of a batch: of the numbers, of their squares, and how many are not 0.
        self._sums = torch.zeros(3, len(layers), dtype=torch.float64, device=self._device)
        self._counts = [0] * len(layers)
        self.width = 5 * len(layers) + 3

    def before_forward(self) -> None:
        """Remember the generators and watch the layers' outputs."""
        self.forget_outputs()
        self._random_before = random_state(self._device)
        self._hooks = [
            module.register_forward_hook(self._output_hook(index))
            for index, module in enumerate(self._outputs)
        ]

    def forget_outputs(self) -> None:
        """The step begins anew."""
        self._sums.zero_()
        self._counts = [0] * len(self._sizes)

    def after_forward(self) -> None:
        """Stop watching the layers' outputs."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def after_backward(self, result: Tensor, scale: Tensor | None) -> None:
        """Measure outputs, gradients and weights, and keep both: the update overwrites them.

        `scale` is what the gradients are multiplied by, None where they are not.
        """
        layers = len(self._sizes)
        if scale is None:
            self._gradients.copy_(self._parameters.gradients)
        else:
            torch.div(self._parameters.gradients, scale, out=self._gradients)
        norms = torch.stack(torch._foreach_norm(self._gradient_views + self._value_views)).view(2, -1)
        result[: 2 * layers].view(2, layers).copy_(self._by_layer(norms))
        result[3 * layers : 5 * layers].view(2, layers).copy_(self._over_outputs())
        self._values_before.copy_(self._parameters.values)

    def after_update(self, result: Tensor, loss: Tensor, repeat: Callable[[], Tensor]) -> None:
        """Measure the update, and the loss that it leads to. `repeat` computes the loss of the step's batch anew."""
        layers = len(self._sizes)
        change = torch.sub(self._parameters.values, self._values_before, out=self._values_before)
        norms = torch.stack(torch._foreach_norm(self._change_views)).view(1, -1)
        result[2 * layers : 3 * layers].copy_(self._by_layer(norms)[0])
        torch.neg(torch.dot(self._gradients, change), out=result[-3])
        result[-2].copy_(loss)
        result[-1].copy_(self._repeat_undisturbed(repeat))

    def message(self, step: int, values: Sequence[float]) -> event_pb2.Probe:
        """The measurement for the event log, its gain ratio left open."""
        count = len(self._sizes)
        gradients, weights, changes, deviations, zeros = (
            values[at * count : (at + 1) * count] for at in range(5)
        )
        predicted, before, after = values[-3:]
        return event_pb2.Probe(
            step=step,
            layer_gradient_norm=gradients,
            layer_gradient_rms=[g / math.sqrt(size) for g, size in zip(gradients, self._sizes, strict=True)],
            layer_weight_norm=weights,
            layer_update_ratio=[
                change / weight if weight else math.nan
                for change, weight in zip(changes, weights, strict=True)
            ],
            layer_activation_deviation=deviations,
            layer_zero_ratio=zeros,
            predicted_decrease=predicted,
            actual_decrease=before - after,
        )

    def _by_layer(self, norms: Tensor) -> Tensor:
        """Norms per parameter [k, parameters] to norms per layer [k, layers]: root of the sum of squares."""
        return (norms.square() @ self._membership).sqrt()

    def _repeat_undisturbed(self, repeat: Callable[[], Tensor]) -> Tensor:
        buffers = self._parameters.buffers
        random_after = random_state(self._device)
        for kept, buffer in zip(self._buffers_after, buffers, strict=True):
            kept.copy_(buffer)
        try:
            restore_random_state(self._random_before, self._device)
            with torch.no_grad():
                return repeat()
        finally:
            restore_random_state(random_after, self._device)
            for kept, buffer in zip(self._buffers_after, buffers, strict=True):
                buffer.copy_(kept)

    def _output_hook(self, index: int) -> Callable[[nn.Module, Any, Any], None]:
        def measure(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor) or not output.is_floating_point() or not output.numel():
                return
            values, count = output.detach(), output.numel()
            variance, mean = (number.double() for number in torch.var_mean(values.float(), correction=0))
            sums = torch.stack([mean, variance + mean.square(), torch.count_nonzero(values) / count])
            self._sums[:, index].add_(sums, alpha=count)
            self._counts[index] += count

        return measure

    def _over_outputs(self) -> Tensor:
        """Deviation and share of zeros of each layer's output [2, layers]; NaN where nothing came out."""
        counts = torch.tensor(self._counts, dtype=torch.float64).to(self._device, non_blocking=True)
        mean, square, nonzero = self._sums / counts
        return torch.stack([(square - mean.square()).clamp_(min=0.0).sqrt(), 1.0 - nonzero])


def _output_of(model: nn.Module, layer: Layer) -> nn.Module:
    """The module whose output is the layer's: its own, or the activation that follows it in an `nn.Sequential`."""
    path = layer.parameter_names[-1].rpartition(".")[0]
    owner = model.get_submodule(path)
    parent = model.get_submodule(path.rpartition(".")[0]) if path else owner
    if not isinstance(parent, nn.Sequential):
        return owner
    siblings = list(parent)
    output = owner
    for sibling in siblings[siblings.index(owner) + 1 :]:
        if next(sibling.parameters(), None) is not None or isinstance(sibling, nn.modules.dropout._DropoutNd):
            break
        output = sibling
    return output


def _membership(layers: Sequence[Layer], names: Sequence[str]) -> Tensor:
    """Ones [parameters, layers] where a parameter belongs to a layer."""
    membership = torch.zeros(len(names), len(layers))
    for layer in layers:
        for name in layer.parameter_names:
            if name in names:
                membership[names.index(name), layer.index] = 1.0
    return membership
