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
}
