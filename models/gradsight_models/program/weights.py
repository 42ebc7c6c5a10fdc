"""Tensors of a weights file, compared with what the graph says before any is used."""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from gradsight._tensor_headers import read_safetensors_header
from gradsight.graph import Graph

_MOST_NAMED = 5


def read_weights(graph: Graph, weights: Mapping[str, Tensor] | Path | None) -> dict[str, Tensor]:
    """Parameters and buffers of a graph by name. Raises ValueError that names the tensors which do not fit.

    Without weights, zeros on torch's default device: the meta device, say, before a state is assigned.
    """
    wanted = {p.name: (p.dtype, p.shape) for p in graph.parameters if not p.tied_to}
    wanted |= {buffer.name: (buffer.dtype, buffer.shape) for buffer in graph.buffers}
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


def _compare(
    wanted: Mapping[str, tuple[str, tuple[int, ...]]], found: Mapping[str, tuple[str, tuple[int, ...]]]
) -> None:
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    if missing or unexpected:
        parts = [
            f"{what} {_named(names)}"
            for what, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise ValueError(f"weights: {', '.join(parts)}; use the weights that were exported with this graph")
    for name, (dtype, shape) in wanted.items():
        if found[name] != (dtype, shape):
            got = f"{found[name][0]} {list(found[name][1])}"
            raise ValueError(f"weights: {name!r} is {got}, the graph says {dtype} {list(shape)}")


def _check_finite(name: str, tensor: Tensor, *, infinite: bool) -> None:
    """`infinite`: infinity is a value, as in the masks of attention."""
    if tensor.is_floating_point():
        count = int(tensor.isnan().sum() if infinite else tensor.isfinite().logical_not().sum())
        if count:
            raise ValueError(f"weights: {name!r} has {count} non-finite values; allowed: numbers only")


def _named(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_MOST_NAMED])
    return shown + (f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else "")
