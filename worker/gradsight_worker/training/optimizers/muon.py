"""Muon for the matrices of hidden layers, AdamW for everything else.

Matrices are the two-dimensional parameters except those of embeddings, whose rows have nothing to do with one another:
so torch's documentation and Muon's author advise. Convolution kernels, biases and norms are AdamW's, too.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor
from torch.optim._muon import DEFAULT_A, DEFAULT_B, DEFAULT_C, EPS, muon

from gradsight.v1 import spec_pb2
from gradsight_worker.training.optimizers.fused import FusedAdam
from gradsight_worker.training.optimizers.guarded import Guarded
from gradsight_worker.training.parameters import FlatParameters

_ADAMW = spec_pb2.AdamW(beta1=0.9, beta2=0.999, epsilon=1e-8)
"""The spec's own defaults."""


class MuonWithAdamW:
    """Both at once; the schedule moves both rates alike.

    Args:
        spec: Muon's numbers.
        parameters: What it updates.
        weight_decay: Per unit of learning rate, of either.
        adamw_rate_ratio: AdamW's learning rate as a multiple of Muon's.
    """

    def __init__(
        self,
        spec: spec_pb2.Muon,
        parameters: FlatParameters,
        *,
        weight_decay: float,
        adamw_rate_ratio: float,
    ) -> None:
        matrices = names_of_muon(parameters)
        others = [name for name in parameters.names if name not in matrices]
        self._adamw_rate_ratio = adamw_rate_ratio
        self._adamw = FusedAdam(
            _ADAMW, parameters, weight_decay=weight_decay, groups=parameters.groups_of(others)
        )
        muon_only = _Muon(spec, parameters, matrices, weight_decay)
        self._muon = Guarded(muon_only, muon_only.values)

    @property
    def state(self) -> Mapping[str, Tensor]:
        """Both optimizers' states."""
        return {**self._muon.state, **{f"adamw.{name}": t for name, t in self._adamw.state.items()}}

    def step(self, learning_rate: float, *, divisor: Tensor | None, nonfinite: Tensor) -> None:
        """As `Optimizer.step`."""
        self._muon.step(learning_rate, divisor=divisor, nonfinite=nonfinite)
        self._adamw.step(learning_rate * self._adamw_rate_ratio, divisor=divisor, nonfinite=nonfinite)


def names_of_muon(parameters: FlatParameters) -> list[str]:
    """The parameters that Muon updates; the others are AdamW's."""
    return [
        name
        for name, shape in zip(parameters.names, parameters.shapes, strict=True)
        if len(shape) == 2 and name not in parameters.embeddings
    ]


class _Muon:
    """Muon on some matrices, by torch's own function. Does not look at `nonfinite`: for `Guarded`."""

    def __init__(
        self, spec: spec_pb2.Muon, parameters: FlatParameters, names: Collection[str], weight_decay: float
    ) -> None:
        self._spec = spec
        self._weight_decay = weight_decay
        groups = parameters.groups_of(names)
        self.values = [group.of(parameters.values) for group in groups]
        self._gradients = [group.of(parameters.gradients) for group in groups]
        self._matrices, self._matrix_gradients = (
            [t for name, t in zip(parameters.names, parameters.shaped(flat), strict=True) if name in names]
            for flat in (parameters.values, parameters.gradients)
        )
        sizes = [matrix.numel() for matrix in self._matrices]
        self._momentum = torch.zeros(sum(sizes), device=parameters.values.device)
        self._momenta = [
            part.view(matrix.shape)
            for part, matrix in zip(self._momentum.split_with_sizes(sizes), self._matrices, strict=True)
        ]

    @property
    def state(self) -> Mapping[str, Tensor]:
        """The momentum of one matrix after the other."""
        return {"momentum": self._momentum}

    def step(self, learning_rate: float, *, divisor: Tensor | None, nonfinite: Tensor) -> None:
        """As `Optimizer.step`, `nonfinite` aside."""
        if divisor is not None and self._gradients:
            torch._foreach_div_(self._gradients, divisor)
        muon(
            self._matrices,
            self._matrix_gradients,
            self._momenta,
            lr=learning_rate,
            weight_decay=self._weight_decay,
            momentum=self._spec.momentum,
            nesterov=True,
            ns_coefficients=(DEFAULT_A, DEFAULT_B, DEFAULT_C),
            eps=EPS,
            ns_steps=self._spec.iterations,
            adjust_lr_fn=None,
            has_complex=False,
        )
