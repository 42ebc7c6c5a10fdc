"""Layers that begin anew: weights as wide as their inputs and their activation ask for, optimizer and average reset.

The rules are those of He et al. (arXiv 1502.01852) for matrices and kernels, of Saxe et al. (arXiv 1312.6120) for what
a recurrent layer feeds back to itself. They go by the kind of module, so programs, whose modules are only known by
the names of their classes, are served alike.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradsight_models.layers import kind_of
from gradsight_worker.training.state import TrainingState

_GAINS = {"relu": math.sqrt(2), "gelu": math.sqrt(2), "silu": math.sqrt(2), "tanh": 5 / 3, "sigmoid": 1.0}
"""By how much weights must be wider so that what an activation takes away is given back."""
_DEFAULT_GAIN = math.sqrt(2)
_NORMS = ("LayerNorm", "RMSNorm", "GroupNorm", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm")
_RECURRENT = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
_EMBEDDINGS = ("Embedding", "EmbeddingBag")
_FRESH_BUFFERS = {"running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0.0}


@dataclass(frozen=True, kw_only=True)
class _Parameter:
    """A parameter of a module."""

    name: str
    """Within its module."""
    kind: str
    """Of the module."""
    is_last: bool
    """True: its module is the model's last one with weights, whose outputs are scores."""
    activation: str | None


def reinitialize(
    model: nn.Module,
    state: TrainingState,
    *,
    names: Collection[str],
    activations: Mapping[str, str | None],
    seed: int,
) -> None:
    """Draw new weights for the modules that own these parameters and let the optimizer begin anew.

    Args:
        model: Whose parameters the state's are.
        state: Is changed: values, their modules' buffers, optimizer, average.
        names: Of the parameters; empty for all of them.
        activations: What the output of a module goes through, by its path, as far as known.
        seed: Of the new weights; nothing else is drawn from it.
    """
    generator = torch.Generator().manual_seed(seed)
    owners = {path: part for path, part in model.named_modules() if _owns(part)}
    last = [path for path, part in owners.items() if _has_matrix(part)][-1:]
    values = dict(zip(state.parameters.names, state.parameters.shaped(state.parameters.values), strict=True))
    for path, part in owners.items():
        prefix = f"{path}." if path else ""
        own = {name: prefix + name for name, _ in part.named_parameters(recurse=False)}
        if names and not any(full in names for full in own.values()):
            continue
        for name, full in own.items():
            if full in values:
                parameter = _Parameter(
                    name=name, kind=kind_of(part), is_last=path in last, activation=activations.get(path)
                )
                values[full].copy_(_drawn(parameter, values[full], generator))
        for name, buffer in part.named_buffers(recurse=False):
            if name in _FRESH_BUFFERS:
                buffer.fill_(_FRESH_BUFFERS[name])
    _begin_anew(state)


def _begin_anew(state: TrainingState) -> None:
    for tensor in state.optimizer.state.values():
        tensor.zero_()
    if state.average is not None:
        state.average.values.copy_(state.parameters.values)
        for average, buffer in zip(state.average.buffers, state.parameters.buffers, strict=True):
            average.copy_(buffer)


def _drawn(parameter: _Parameter, like: Tensor, generator: torch.Generator) -> Tensor:
    """New values on the host in the shape of `like`."""
    drawn = torch.zeros(like.shape)
    if parameter.kind in _NORMS:
        return drawn.fill_(1.0 if "weight" in parameter.name else 0.0)
    if parameter.kind in _EMBEDDINGS:
        return drawn.normal_(0.0, 1 / math.sqrt(like.shape[-1]), generator=generator)
    if like.ndim < 2:
        return drawn
    if parameter.kind in _RECURRENT and "hh" in parameter.name:
        for square in drawn.view(-1, like.shape[1], like.shape[1]):
            nn.init.orthogonal_(square, generator=generator)
        return drawn
    if parameter.kind in _RECURRENT or "in_proj" in parameter.name:
        return drawn.normal_(0.0, 1 / math.sqrt(like.shape[1]), generator=generator)
    fan_in = like[0].numel()
    gain = 1.0 if parameter.is_last else _GAINS.get(parameter.activation or "", _DEFAULT_GAIN)
    return drawn.normal_(0.0, gain / math.sqrt(fan_in), generator=generator)


def _owns(part: nn.Module) -> bool:
    return next(part.parameters(recurse=False), None) is not None


def _has_matrix(part: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in part.parameters(recurse=False))
