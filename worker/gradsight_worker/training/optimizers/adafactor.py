"""Adafactor: the second moment of a matrix is remembered as one number per row and one per column.

After Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost" (2018), as
`torch.optim.Adafactor` reads it. torch's own code asks the device for three numbers per parameter and step; this one
asks for none.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gradsight.v1 import spec_pb2
from gradsight_worker.training.parameters import FlatParameters

_SMALLEST_MOMENT = torch.finfo(torch.float32).eps
_SMALLEST_SIZE = 1e-3
"""Root mean square below which a parameter's own size no longer makes its steps smaller."""


class Adafactor:
    """Steps as large as a share of each parameter's own size. Does not look at `nonfinite`: for `Guarded`."""

    def __init__(self, spec: spec_pb2.Adafactor, parameters: FlatParameters, *, weight_decay: float) -> None:
        self._spec = spec
        self._gradients = parameters.gradients
        self._steps = torch.zeros((), device=parameters.values.device)
        lengths = [_moments_of(shape) for shape in parameters.shapes]
        self._moments = torch.zeros(sum(map(sum, lengths)), device=parameters.values.device)
        self._parts = [
            _Part.of(value, gradient, moments.split_with_sizes(length), weight_decay if decays else 0.0)
            for value, gradient, moments, length, decays in zip(
                parameters.shaped(parameters.values),
                parameters.shaped(parameters.gradients),
                self._moments.split_with_sizes([sum(length) for length in lengths]),
                lengths,
                parameters.decays,
                strict=True,
            )
        ]

    @property
    def state(self) -> Mapping[str, Tensor]:
        """Second moments of one parameter after the other, and the number of steps that counted."""
        return {"second_moments": self._moments, "steps": self._steps}

    def step(self, learning_rate: float, *, divisor: Tensor | None, nonfinite: Tensor) -> None:
        """As `Optimizer.step`, `nonfinite` aside."""
        if divisor is not None:
            self._gradients.div_(divisor)
        self._steps.add_(1)
        newness = self._steps.pow(self._spec.beta2_decay)
        relative_rate = self._steps.rsqrt().clamp_(max=learning_rate)
        for part in self._parts:
            size = _root_mean_square(part.value).clamp_(min=_SMALLEST_SIZE)
            part.value.mul_(1 - learning_rate * part.weight_decay)
            update = part.remember(newness).clamp_(min=_SMALLEST_MOMENT**2).rsqrt_().mul_(part.gradient)
            excess = _root_mean_square(update).div_(self._spec.clipping_threshold).clamp_(min=1.0)
            part.value.sub_(update.mul_(size * relative_rate / excess))


@dataclass(frozen=True)
class _Part:
    """One parameter, in its shape, and what is remembered of its gradients."""

    value: Tensor
    gradient: Tensor
    moments: tuple[Tensor, ...]
    """Of rows [..., rows, 1] and columns [..., 1, columns]; of a vector's elements."""
    weight_decay: float

    @classmethod
    def of(cls, value: Tensor, gradient: Tensor, moments: tuple[Tensor, ...], weight_decay: float) -> "_Part":
        shape = value.shape
        shapes = [(*shape[:-1], 1), (*shape[:-2], 1, shape[-1])] if len(moments) == 2 else [shape]
        shaped = tuple(moment.view(wanted) for moment, wanted in zip(moments, shapes, strict=True))
        return cls(value, gradient, shaped, weight_decay)

    def remember(self, newness: Tensor) -> Tensor:
        """Take the gradient's squares in by this share; an estimate of the second moment of every element, to keep."""
        if len(self.moments) == 1:
            return self.moments[0].lerp_(self.gradient.square(), newness).clone()
        rows, columns = self.moments
        squares = self.gradient.square()
        rows.lerp_(squares.mean(dim=-1, keepdim=True), newness)
        columns.lerp_(squares.mean(dim=-2, keepdim=True), newness)
        return (rows @ columns).div_(rows.mean(dim=-2, keepdim=True).clamp_(min=_SMALLEST_MOMENT))


def _moments_of(shape: torch.Size) -> tuple[int, ...]:
    """How many numbers are remembered: of rows and columns, or of a vector's elements."""
    elements = math.prod(shape)
    return (elements // shape[-1], elements // shape[-2]) if len(shape) > 1 else (elements,)


def _root_mean_square(tensor: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(tensor)
    return norm.div_(math.sqrt(tensor.numel()))
