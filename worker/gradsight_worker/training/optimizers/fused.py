"""Adam, AdamW and SGD by torch's fused kernels, which skip a step that is not finite by themselves."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gradsight.v1 import spec_pb2
from gradsight_worker.training.parameters import FlatParameters, ParameterGroup


class FusedAdam:
    """Adam: weight decay pulls on the weights themselves (`AdamW`), or is added to the gradient (`Adam`).

    Args:
        spec: Which of the two, with its numbers.
        parameters: What it updates.
        weight_decay: Per unit of learning rate.
        groups: Runs of the parameters that it is for; None is all of them.
    """

    def __init__(
        self,
        spec: spec_pb2.AdamW | spec_pb2.Adam,
        parameters: FlatParameters,
        *,
        weight_decay: float,
        groups: Sequence[ParameterGroup] | None = None,
    ) -> None:
        groups = parameters.groups if groups is None else groups
        length = sum(group.stop - group.start for group in groups)
        self._first_moment = torch.zeros(length, device=parameters.values.device)
        self._second_moment = torch.zeros(length, device=parameters.values.device)
        self._steps = torch.zeros((), device=parameters.values.device)
        self._one = torch.ones_like(self._steps)
        self._kernel = torch._fused_adamw_ if isinstance(spec, spec_pb2.AdamW) else torch._fused_adam_
        self._numbers = {"beta1": spec.beta1, "beta2": spec.beta2, "eps": spec.epsilon}
        self._calls = [
            (
                [group.of(parameters.values)],
                [group.of(parameters.gradients)],
                [first],
                [second],
                _decay_of(group, weight_decay),
            )
            for group, first, second in zip(
                groups, _cut(self._first_moment, groups), _cut(self._second_moment, groups), strict=True
            )
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
        self._steps.add_(self._one).sub_(nonfinite)
        for values, gradients, first, second, decay in self._calls:
            self._kernel(
                values,
                gradients,
                first,
                second,
                [],
                [self._steps],
                lr=learning_rate,
                weight_decay=decay,
                amsgrad=False,
                maximize=False,
                grad_scale=divisor,
                found_inf=nonfinite,
                **self._numbers,
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


def _cut(flat: Tensor, groups: Sequence[ParameterGroup]) -> tuple[Tensor, ...]:
    """A tensor that holds these groups and nothing between them, group by group."""
    return flat.split_with_sizes([group.stop - group.start for group in groups])


def _decay_of(group: ParameterGroup, weight_decay: float) -> float:
    return weight_decay if group.decays else 0.0
