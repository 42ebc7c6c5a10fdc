"""Tensors of a weights file, compared with what the graph says before any is used."""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from gradsight._program_weights import Tensors, misfits, needed_tensors
from gradsight._tensor_headers import read_safetensors_header
from gradsight.graph import Graph


def read_weights(graph: Graph, weights: Mapping[str, Tensor] | Path | None) -> dict[str, Tensor]:
    """Parameters and buffers of a graph by name. Raises ValueError that names the tensors which do not fit.

    Without weights, zeros on torch's default device: the meta device, say, before a state is assigned.
    """
    wanted = needed_tensors(graph)
    if weights is None:
        return {
            name: torch.zeros(shape, dtype=getattr(torch, dtype)) for name, (dtype, shape) in wanted.items()
        }
    if isinstance(weights, Path):
        with weights.open("rb") as file:
            headers = read_safetensors_header(file, weights.stat().st_size)
        _compare(wanted, {name: (header.dtype, header.shape) for name, header in headers.items()})
        try:
            tensors = safetensors.torch.load_file(weights)
        except SafetensorError as error:
            raise ValueError(f"{weights.name}: {error}; export the module again") from error
    else:
        tensors = {name: tensor.detach().clone() for name, tensor in weights.items()}
        found = {name: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in tensors.items()}
        _compare(wanted, found)
    buffers = {buffer.name for buffer in graph.buffers}
    for name, tensor in tensors.items():
        _check_finite(name, tensor, infinite=name in buffers)
    return {name: tensors[name] for name in wanted}


def _compare(wanted: Tensors, found: Tensors) -> None:
    if misfit := next(misfits(wanted, found), None):
        raise ValueError(f"weights: {misfit}")


def _check_finite(name: str, tensor: Tensor, *, infinite: bool) -> None:
    """`infinite`: infinity is a value, as in the masks of attention."""
    if tensor.is_floating_point():
        count = int(tensor.isnan().sum() if infinite else tensor.isfinite().logical_not().sum())
        if count:
            raise ValueError(f"weights: {name!r} has {count} non-finite values; allowed: numbers only")
