"""Probes: steps that are measured more richly, layer by layer, without changing what the run computes.

A probe adds norms, two snapshots and one forward pass to a step. The forward pass repeats the step's batch with the
same random numbers after the update, so that the decrease it finds is the update's doing; the generators and the
model's buffers are then put back. Outputs of the layers are watched in the step's own forward pass; of a compiled
model, which nobody can look into, in one more pass of the same model uncompiled, over the same parameters.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from gradsight_models import Layer
from gradsight_worker.training.activations import ActivationFigures
from gradsight_worker.training.answers import Autocast
from gradsight_worker.training.backward import send_backward
from gradsight_worker.training.parameters import FlatParameters
from gradsight_worker.training.randomness import random_state, restore_random_state
from gradsight_worker.training.readings import ProbeLayout, unmeasured
from gradsight_worker.training.tapping import LayerTap

_FEWEST_ROWS = 2
"""In half a batch: normalization over a batch needs as many."""


class Prober:
    """Measures a step. The calls come in the order of the methods; results go to a vector on the device.

    Args:
        model: Computed by torch itself, also where the steps compute a compiled copy of it.
        layers: The model's.
        parameters: The model's.
        compiled: Whether the steps compute a compiled copy.
        autocast: As the steps compute, for passes of its own.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        parameters: FlatParameters,
        *,
        compiled: bool = False,
        autocast: Autocast = nullcontext,
    ) -> None:
        self.layout = ProbeLayout(tuple(layer.parameter_count for layer in layers))
        self.tap = LayerTap(model, layers)
        self._model = model
        self._compiled = compiled
        self._autocast = autocast
        self._parameters = parameters
        self._device = parameters.values.device
        self._membership = _membership(layers, parameters.names).to(self._device)
        self._values_before = torch.empty_like(parameters.values)
        self._gradients = torch.empty_like(parameters.values)
        self._buffers_kept = [torch.empty_like(buffer) for buffer in parameters.buffers]
        self._gradient_views = parameters.views(self._gradients)
        self._value_views = parameters.views(parameters.values)
        self._change_views = parameters.views(self._values_before)
        self._random_before: dict[str, Tensor] = {}
        self._outputs = ActivationFigures(len(layers), self._device)
        self._rows = 0
        """Of the batch that is being probed; 0 between probes."""
        self._part: tuple[int, Tensor] | None = None
        """Rows of the first part of the batch, and the square of its gradient's norm."""

    def first_look(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of some rows, deviation of each layer's output [layers], how many gradients are not 0.

        Nothing is changed. What follows the layers is known afterwards.
        """
        self._outputs.forget()
        self.tap.attach(self._outputs)
        try:
            scores = self._compute(inputs)
            figures = torch.empty(4, len(self.layout.sizes), device=self._device)
            self._outputs.write(figures)
        finally:
            self.tap.detach()
        return scores, figures[1].sqrt(), torch.count_nonzero(self._parameters.gradients)

    def measure_noise(
        self, inputs: tuple[Tensor, ...], targets: Tensor, scale: Tensor | None, loss: Callable[..., Tensor]
    ) -> None:
        """Send half of the batch backward: with all of it, two sizes, and so a measure of the gradient's noise.

        Leaves gradients behind that the step has to set to zero, as it does anyway. `loss` computes that of a model,
        inputs and targets; `scale` is what it is multiplied by, None where it is not.
        """
        half = len(targets) // 2
        if half < _FEWEST_ROWS:
            return
        one = torch.ones((), device=self._device)
        self._rows = len(targets)
        self._parameters.gradients.zero_()
        with self._undisturbed():
            part = tuple(column[:half] for column in inputs)
            send_backward(loss(self._model, part, targets[:half]), one if scale is None else scale)
        self.after_part(half, one)

    def before_forward(self, inputs: tuple[Tensor, ...], result: Tensor) -> None:
        """Remember the generators and watch the layers' outputs."""
        unmeasured(result)
        self._rows = len(inputs[0])
        self._outputs.forget()
        self._random_before = random_state(self._device)
        self.tap.attach(self._outputs)
        if self._compiled:
            self._compute(inputs)
            self.tap.detach()

    def forget_outputs(self) -> None:
        """The step begins anew."""
        self._part = None
        if not self._compiled:
            self._outputs.forget()

    def after_part(self, rows: int, share: Tensor) -> None:
        """Part of the batch was sent backward; its loss, and so its gradient, was multiplied by `share`."""
        if self._part is None and rows < self._rows:
            square = torch.linalg.vector_norm(self._parameters.gradients).div_(share).square_()
            self._part = rows, square

    def after_forward(self) -> None:
        """Stop watching the layers' outputs."""
        self.tap.detach()

    def after_backward(self, result: Tensor, scale: Tensor | None) -> None:
        """Measure outputs, gradients and weights, and keep both: the update overwrites them.

        `scale` is what the gradients are multiplied by, None where they are not.
        """
        if scale is None:
            self._gradients.copy_(self._parameters.gradients)
        else:
            torch.div(self._parameters.gradients, scale, out=self._gradients)
        norms = torch.stack(torch._foreach_norm(self._gradient_views + self._value_views)).view(2, -1)
        self.layout.of_layers(result, "gradient_norm", 2).copy_(self._by_layer(norms))
        if self._part is not None:
            rows, square = self._part
            self.layout.single(result, "small_rows").fill_(rows)
            self.layout.single(result, "small_square").copy_(square if scale is None else square / scale**2)
            self.layout.single(result, "rows").fill_(self._rows)
            self.layout.single(result, "square").copy_(norms[0].square().sum())
        self._rows, self._part = 0, None
        self._values_before.copy_(self._parameters.values)
        if self.tap.failure is not None:
            raise self.tap.failure
        self._outputs.write(self.layout.of_layers(result, "activation_mean", 4))
        self.layout.single(result, "attention_logit_max").copy_(self._outputs.largest_logit())

    def after_update(self, result: Tensor, loss: Tensor, repeat: Callable[[], Tensor]) -> None:
        """Measure the update, and the loss that it leads to. `repeat` computes the loss of the step's batch anew."""
        torch.sub(self._parameters.values, self._values_before, out=self._values_before)
        norms = torch.stack(torch._foreach_norm(self._change_views)).view(1, -1)
        self.layout.of_layers(result, "change_norm").copy_(self._by_layer(norms))
        products = torch.stack(
            [
                torch.dot(gradient, change)
                for gradient, change in zip(self._gradient_views, self._change_views, strict=True)
            ]
        )
        self.layout.of_layers(result, "predicted_decrease").copy_((products @ self._membership).neg_())
        self.layout.single(result, "loss").copy_(loss)
        with self._undisturbed(), torch.no_grad():
            restore_random_state(self._random_before, self._device)
            self.layout.single(result, "loss_after").copy_(repeat())

    def _by_layer(self, norms: Tensor) -> Tensor:
        """Norms per parameter [k, parameters] to norms per layer [k, layers]: root of the sum of squares."""
        return (norms.square() @ self._membership).sqrt()

    def _compute(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Scores, in training mode, of the model itself."""
        with self._undisturbed(), torch.no_grad(), self._autocast():
            scores: Tensor = self._model(*inputs)
        return scores

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """What is computed inside leaves generators and buffers as they were."""
        buffers = self._parameters.buffers
        randomness = random_state(self._device)
        for kept, buffer in zip(self._buffers_kept, buffers, strict=True):
            kept.copy_(buffer)
        try:
            yield
        finally:
            restore_random_state(randomness, self._device)
            for kept, buffer in zip(self._buffers_kept, buffers, strict=True):
                buffer.copy_(kept)


def _membership(layers: Sequence[Layer], names: Sequence[str]) -> Tensor:
    """Ones [parameters, layers] where a parameter belongs to a layer."""
    membership = torch.zeros(len(names), len(layers))
    for layer in layers:
        for name in layer.parameter_names:
            if name in names:
                membership[names.index(name), layer.index] = 1.0
    return membership
