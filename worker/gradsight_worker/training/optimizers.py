"""Optimizers on flat parameters: one fused call per group, skipped on the device when a step is not finite.

`step(..., nonfinite)` must leave values *and* state bitwise as they were where `nonfinite` is 1, without asking the
device. The fused kernels of AdamW and SGD do so themselves; an optimizer whose kernel does not is put into a wrapper
that selects old or new state with `torch.where`.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from gradsight.v1 import spec_pb2
from gradsight_worker.training.parameters import FlatParameters, ParameterGroup


class Optimizer(Protocol):
    """Turns gradients into an update of the values."""

    @property
    def state(self) -> Mapping[str, Tensor]:
        """Everything that a resume needs, by name; written to in place."""

    def step(self, learning_rate: float, *, divisor: Tensor | None, nonfinite: Tensor) -> None:
        """Update the values in place.

        `divisor` (scalar, >= 1) divides the gradients first: that is clipping. `nonfinite` (scalar, 0.0 or 1.0): 1
        leaves values and state as they are. Gradients may be overwritten.
        """


def build_optimizer(spec: spec_pb2.OptimizerSpec, parameters: FlatParameters) -> Optimizer:
    """The optimizer that the spec names, for these parameters."""
    if spec.HasField("sgd"):
        return FusedSgd(spec.sgd, parameters, weight_decay=spec.weight_decay)
    return FusedAdamW(spec.adamw, parameters, weight_decay=spec.weight_decay)


class FusedAdamW:
    """Adam with decoupled weight decay."""

    def __init__(self, spec: spec_pb2.AdamW, parameters: FlatParameters, *, weight_decay: float) -> None:
        self._spec = spec
        self._first_moment = torch.zeros_like(parameters.values)
        self._second_moment = torch.zeros_like(parameters.values)
        self._steps = torch.zeros((), device=parameters.values.device)
        self._calls = [
            (
                [group.of(parameters.values)],
                [group.of(parameters.gradients)],
                [group.of(self._first_moment)],
                [group.of(self._second_moment)],
                _decay_of(group, weight_decay),
            )
            for group in parameters.groups
        ]

    @property
    def state(self) -> Mapping[str, Tensor]:
        """Both moments, shaped like the values, and the number of steps that counted."""
        return {
            "first_moment": self._first_moment,
            "second_moment": self._second_moment,
            "steps": self._steps,
        }

    def step(self, learning_rate: float, *, divisor: Tensor | None, nonfinite: Tensor) -> None:
        """As `Optimizer.step`."""
        self._steps.add_(1).sub_(nonfinite)
        for values, gradients, first, second, decay in self._calls:
            torch._fused_adamw_(
                values,
                gradients,
                first,
                second,
                [],
                [self._steps],
                lr=learning_rate,
                beta1=self._spec.beta1,
                beta2=self._spec.beta2,
                weight_decay=decay,
                eps=self._spec.epsilon,
                amsgrad=False,
                maximize=False,
                grad_scale=divisor,
                found_inf=nonfinite,
            )


class FusedSgd:
    """Stochastic gradient descent; decay is added to the gradient."""

    def __init__(self, spec: spec_pb2.Sgd, parameters: FlatParameters, *, weight_decay: float) -> None:
        self._spec = spec
        self._momentum = torch.zeros_like(parameters.values) if spec.momentum else None
        self._calls = [
            (
                [group.of(parameters.values)],
                [group.of(parameters.gradients)],
                [] if self._momentum is None else [group.of(self._momentum)],
                _decay_of(group, weight_decay),
            )
            for group in parameters.groups
        ]

    @property
    def state(self) -> Mapping[str, Tensor]:
        """The momentum, shaped like the values, if there is one."""
        return {} if self._momentum is None else {"momentum": self._momentum}

    def step(self, learning_rate: float, *, divisor: Tensor | None, nonfinite: Tensor) -> None:
        """As `Optimizer.step`."""
        for values, gradients, momentum, decay in self._calls:
            torch._fused_sgd_(
                values,
                gradients,
                momentum,
                weight_decay=decay,
                momentum=self._spec.momentum,
                lr=learning_rate,
                dampening=0.0,
                nesterov=self._spec.nesterov,
                maximize=False,
                # A first step would copy the gradient; momentum * 0 + gradient is the same number.
                is_first_step=False,
                grad_scale=divisor,
                found_inf=nonfinite,
            )


def _decay_of(group: ParameterGroup, weight_decay: float) -> float:
    return weight_decay if group.name == "decay" else 0.0
