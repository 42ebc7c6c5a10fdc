"""A model's parameters, gradients and buffers as views of a few flat tensors.

One flat tensor makes the global norm, clipping, the update, a snapshot and a checkpoint one call each, whatever the
number of layers: the price of measuring every step.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradsight_worker.training.errors import TrainingFailed

_ALIGNMENT = 16
"""Elements: each parameter starts on 64 bytes, as fast matrix kernels want it."""
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """A run of the flat tensors that shares one weight decay."""

    decays: bool
    start: int
    stop: int

    def of(self, flat: Tensor) -> Tensor:
        """This group's part of a tensor shaped like `FlatParameters.values`."""
        return flat[self.start : self.stop]


class FlatParameters:
    """Takes over a model's storage; the model keeps working on views of it.

    `values` and `gradients` are float32 of one shape `[n]`, padding included (it stays zero). `buffers` holds one flat
    tensor per dtype: BatchNorm's running statistics, its batch counter. Parameters that do not train stay as they are.

    Raises TrainingFailed when no parameter trains, or one is not float32.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        decayed, undecayed = split_by_decay(model)
        named = (*decayed, *undecayed)
        _check(named)
        self.names = tuple(name for name, _ in named)
        self.embeddings = _embeddings_among(named, model)
        self.shapes = tuple(parameter.shape for _, parameter in named)
        self._bounds, self._ends = _places([parameter for _, parameter in named])
        self.decays = (True,) * len(decayed) + (False,) * len(undecayed)
        self.values = torch.zeros(self._ends[-1], device=device)
        self.gradients = torch.zeros(self._ends[-1], device=device)
        for (_, parameter), value, gradient in zip(
            named, self.shaped(self.values), self.shaped(self.gradients), strict=True
        ):
            value.copy_(parameter.detach())
            parameter.data = value
            parameter.grad = gradient
        self.groups = self.groups_of(self.names)
        self.buffers = _flatten_buffers(model, device)

    def views(self, flat: Tensor) -> list[Tensor]:
        """Each parameter's part of a tensor shaped like `values`, one-dimensional, in the order of `names`."""
        return [flat[start:stop] for start, stop in self._bounds]

    def shaped(self, flat: Tensor) -> list[Tensor]:
        """The same, each in its parameter's shape."""
        return [view.view(shape) for view, shape in zip(self.views(flat), self.shapes, strict=True)]

    def groups_of(self, names: Collection[str]) -> tuple[ParameterGroup, ...]:
        """The fewest runs of the flat tensors that hold these parameters, and no others."""
        groups: list[ParameterGroup] = []
        for name, decays, (start, _), stop in zip(
            self.names, self.decays, self._bounds, self._ends, strict=True
        ):
            if name not in names:
                continue
            if groups and groups[-1].stop == start and groups[-1].decays == decays:
                start = groups.pop().start
            groups.append(ParameterGroup(decays=decays, start=start, stop=stop))
        return tuple(groups)


def split_by_decay(
    model: nn.Module,
) -> tuple[list[tuple[str, nn.Parameter]], list[tuple[str, nn.Parameter]]]:
    """Trainable parameters that weight decay pulls to zero, and those it leaves alone: biases and norms.

    Matrices of embeddings are pulled like all others: a row that no batch asks for any more should fade, not stay.
    """
    of_norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _NORMS)
        for parameter in module.parameters(recurse=False)
    }
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    decayed = [(name, p) for name, p in trainable if p.ndim > 1 and id(p) not in of_norms]
    undecayed = [(name, p) for name, p in trainable if p.ndim <= 1 or id(p) in of_norms]
    return decayed, undecayed


def _embeddings_among(named: Sequence[tuple[str, nn.Parameter]], model: nn.Module) -> frozenset[str]:
    """Names of the parameters whose rows are looked up by number."""
    looked_up = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)
    }
    return frozenset(name for name, parameter in named if id(parameter) in looked_up)


def _check(named: Sequence[tuple[str, nn.Parameter]]) -> None:
    if not named:
        raise TrainingFailed.by_spec(
            "the model has no parameter that trains; at least 1 is needed", field="model"
        )
    for name, parameter in named:
        if parameter.dtype != torch.float32:
            raise TrainingFailed.by_spec(
                f"parameter {name} is {parameter.dtype}, allowed: torch.float32; for other formats in the forward "
                f"and backward pass use compute.precision",
                field="model",
            )


def _places(parameters: Sequence[nn.Parameter]) -> tuple[list[tuple[int, int]], list[int]]:
    """Bounds of each parameter, and where each ends with its padding."""
    bounds: list[tuple[int, int]] = []
    ends: list[int] = []
    end = 0
    for parameter in parameters:
        bounds.append((end, end + parameter.numel()))
        end += -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT
        ends.append(end)
    return bounds, ends


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
