"""A model's parameters, gradients and buffers as views of a few flat tensors.

One flat tensor makes the global norm, clipping, the update, a snapshot and a checkpoint one call each, whatever the
number of layers: the price of measuring every step.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_ALIGNMENT = 16
"""Elements: each parameter starts on 64 bytes, as fast matrix kernels want it."""


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """A run of the flat tensors that shares one weight decay."""

    name: str
    start: int
    stop: int

    def of(self, flat: Tensor) -> Tensor:
        """This group's part of a tensor shaped like `FlatParameters.values`."""
        return flat[self.start : self.stop]


class FlatParameters:
    """Takes over a model's storage; the model keeps working on views of it.

    `values` and `gradients` are float32 of one shape `[n]`, padding included (it stays zero). `buffers` holds one flat
    tensor per dtype: BatchNorm's running statistics, its batch counter.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        decayed, undecayed = split_by_decay(model)
        self.names = [name for name, _ in (*decayed, *undecayed)]
        parameters = [parameter for _, parameter in (*decayed, *undecayed)]
        self._bounds, boundary, length = _places(parameters, len(decayed))
        self.values = torch.zeros(length, device=device)
        self.gradients = torch.zeros(length, device=device)
        for parameter, value, gradient in zip(
            parameters, self.views(self.values), self.views(self.gradients), strict=True
        ):
            view = value.view(parameter.shape)
            view.copy_(parameter.detach())
            parameter.data = view
            parameter.grad = gradient.view(parameter.shape)
        spans = (("decay", 0, boundary), ("no_decay", boundary, length))
        self.groups = tuple(ParameterGroup(name=n, start=a, stop=b) for n, a, b in spans if b > a)
        self.buffers = _flatten_buffers(model, device)

    def views(self, flat: Tensor) -> list[Tensor]:
        """Each parameter's part of a tensor shaped like `values`, one-dimensional, in the order of `names`."""
        return [flat[start:stop] for start, stop in self._bounds]


def split_by_decay(
    model: nn.Module,
) -> tuple[list[tuple[str, nn.Parameter]], list[tuple[str, nn.Parameter]]]:
    """Trainable parameters that weight decay pulls to zero, and those it leaves alone: biases and norms."""
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    decayed = [(name, parameter) for name, parameter in trainable if parameter.ndim > 1]
    undecayed = [(name, parameter) for name, parameter in trainable if parameter.ndim <= 1]
    return decayed, undecayed


def _places(parameters: Sequence[nn.Parameter], decayed: int) -> tuple[list[tuple[int, int]], int, int]:
    """Bounds of each parameter, where the decayed ones end, and the whole length."""
    bounds: list[tuple[int, int]] = []
    boundary = end = 0
    for index, parameter in enumerate(parameters):
        assert parameter.dtype == torch.float32
        bounds.append((end, end + parameter.numel()))
        end += -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT
        if index + 1 == decayed:
            boundary = end
    return bounds, boundary, end


def _flatten_buffers(model: nn.Module, device: torch.device) -> tuple[Tensor, ...]:
    """Move every buffer into one flat tensor per dtype; modules keep views."""
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    distinct: dict[int, Tensor] = {}
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            owners.setdefault(id(buffer), []).append((module, name))
            distinct[id(buffer)] = buffer
    dtypes = sorted({buffer.dtype for buffer in distinct.values()}, key=str)
    return tuple(
        _flatten_into_one(
            [(b, owners[key]) for key, b in distinct.items() if b.dtype == dtype], dtype, device
        )
        for dtype in dtypes
    )


def _flatten_into_one(
    buffers: Iterable[tuple[Tensor, list[tuple[nn.Module, str]]]], dtype: torch.dtype, device: torch.device
) -> Tensor:
    buffers = list(buffers)
    flat = torch.empty(sum(buffer.numel() for buffer, _ in buffers), dtype=dtype, device=device)
    end = 0
    for buffer, owners in buffers:
        view = flat[end : end + buffer.numel()].view(buffer.shape)
        view.copy_(buffer)
        for module, name in owners:
            setattr(module, name, view)
        end += buffer.numel()
    return flat
