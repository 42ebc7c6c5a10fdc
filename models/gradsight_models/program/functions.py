"""Operators of a graph as functions of torch."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from gradsight.graph import GraphError

_nn = torch._C._nn


@functools.cache
def function_of(name: str, schema: str) -> Callable[..., Any]:
    """What to call for an operator. Raises GraphError where the installed torch has it otherwise or not at all."""
    _, family, overload = name.split(".")
    found = getattr(getattr(torch.ops.aten, family, None), overload, None)
    if found is None or str(found._schema) != schema:
        here = f"has {found._schema}" if found is not None else "does not have it"
        raise GraphError(
            "operators",
            f"{name}: {schema!r} travelled, torch {torch.__version__} {here}; export with this torch",
        )
    function: Callable[..., Any] = _DIRECT.get(name, found)
    return function


# The same operators through torch's own functions: parsing the arguments of these costs 2 to 7 µs less a call, which is
# a twentieth of the step of a small network.
_DIRECT: dict[str, Callable[..., Any]] = {
    "aten.linear.default": _nn.linear,
    "aten.matmul.default": torch.matmul,
    "aten.scaled_dot_product_attention.default": _nn.scaled_dot_product_attention,
    "aten.embedding.default": torch.embedding,
    "aten.conv1d.default": torch.conv1d,
    "aten.conv2d.default": torch.conv2d,
    "aten.batch_norm.default": torch.batch_norm,
    "aten.layer_norm.default": torch.layer_norm,
    "aten.dropout.default": torch.dropout,
    "aten.relu.default": torch.relu,
    "aten.relu_.default": torch.relu_,
    "aten.gelu.default": _nn.gelu,
    "aten.silu.default": _nn.silu,
    "aten.tanh.default": torch.tanh,
    "aten.sigmoid.default": torch.sigmoid,
    "aten.softmax.int": torch.softmax,
    "aten.add.Tensor": torch.add,
    "aten.mul.Tensor": torch.mul,
    "aten.transpose.int": torch.transpose,
    "aten.reshape.default": torch.reshape,
    "aten.flatten.using_ints": torch.flatten,
}
