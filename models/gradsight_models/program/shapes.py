"""A graph run on shapes alone: nothing is allocated or computed, and the first node that does not fit is named."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from gradsight.graph import (
    MOST_ELEMENTS,
    Dtype,
    Graph,
    GraphError,
    MemoryFormat,
    Node,
    Procedure,
    Reference,
    RunDevice,
    Size,
    Value,
)
from gradsight_models.program.reader import ARITHMETIC, memory_format

_RECURRENT = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
"""Gates of each kind."""


def check_shapes(graph: Graph, *, rows: int) -> None:
    """Raises GraphError that names the node whose arguments do not fit or whose result is too large, at `rows` rows."""
    for name, procedure in (("training", graph.training), ("evaluation", graph.evaluation)):
        with FakeTensorMode(), torch.no_grad(), _quiet():
            _Run(graph, procedure, name, rows).check()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's own log of what does not fit: it goes into the error."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


class _Run:
    def __init__(self, graph: Graph, procedure: Procedure, path: str, rows: int) -> None:
        self._graph, self._procedure, self._path, self._rows = graph, procedure, path, rows
        self._values: dict[tuple[str, str], Any] = {
            ("input", entry.name): _empty(entry.dtype, (rows, *entry.row_shape)) for entry in graph.inputs
        }
        for parameter in graph.parameters:
            self._values["parameter", parameter.name] = _empty(parameter.dtype, parameter.shape)
        for buffer in graph.buffers:
            self._values["buffer", buffer.name] = _empty(buffer.dtype, buffer.shape)

    def check(self) -> None:
        for index, node in enumerate(self._procedure.nodes):
            self._values["node", node.name] = self._result(node, f"{self._path}.nodes[{index}]")
        wanted = self._graph.scores
        try:
            scores = self._value(self._procedure.scores)
        except IndexError as error:
            raise GraphError(f"{self._path}.scores", "the node gives fewer tensors") from error
        found = (str(scores.dtype).removeprefix("torch."), tuple(scores.shape))
        if found != (wanted.dtype, (self._rows, *wanted.row_shape)):
            raise GraphError(
                f"{self._path}.scores",
                f"{found[0]} {list(found[1])} at {self._rows} rows, `scores` says {wanted.dtype} "
                f"{['batch', *wanted.row_shape]}",
            )

    def _result(self, node: Node, path: str) -> Any:
        arguments: list[Any] = []
        _, family, overload = node.operator.split(".")
        try:
            arguments += (self._value(argument) for argument in node.arguments)
            options = {name: self._value(value) for name, value in node.options.items()}
            if family in _RECURRENT:
                _check_recurrent(_RECURRENT[family], *arguments)
            result = getattr(getattr(torch.ops.aten, family), overload)(*arguments, **options)
        except Exception as error:  # Whatever an operator raises for arguments that do not fit.
            reason = next(iter(str(error).splitlines()), type(error).__name__)[:300]
            raise GraphError(path, f"{_described(node)} got {_shapes(arguments)}: {reason}") from error
        for tensor in [result] if isinstance(result, Tensor) else result:
            if isinstance(tensor, Tensor) and tensor.numel() > MOST_ELEMENTS:
                raise GraphError(
                    path, f"{_described(node)} gives {list(tensor.shape)}, limit {MOST_ELEMENTS} numbers"
                )
        return result

    def _value(self, value: Value) -> Any:
        match value:
            case Reference(kind, name, item):
                found = self._values[kind, name]
                return found if item is None else found[item]
            case Size():
                return self._size(value)
            case Dtype(name):
                return getattr(torch, name)
            case MemoryFormat(name):
                return memory_format(name)
            case RunDevice():
                return torch.device("cpu")
            case tuple():
                return [self._value(item) for item in value]
            case _:
                return value

    def _size(self, size: Size | int) -> Any:
        if isinstance(size, int):
            return size
        if size.operator == "batch":
            return self._rows
        first, *others = (self._size(part) for part in size.operands)
        for other in others:
            first = ARITHMETIC[size.operator](first, other)
        return first


def _check_recurrent(
    gates: int,
    inputs: Tensor,
    states: Sequence[Tensor] | Tensor,
    weights: Sequence[Tensor],
    has_biases: bool,
    layers: int,
    _dropout: float,
    _train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> None:
    """As nn.LSTM and its like do in Python: the kernels beneath trust their arguments."""
    states = [states] if isinstance(states, Tensor) else list(states)
    directions = 2 if bidirectional else 1
    if not 1 <= layers <= 1024 or len(states) != (2 if gates == 4 else 1) or inputs.dim() != 3:
        raise ValueError("needs [rows, steps, features], its states, and 1 to 1024 layers")
    hidden = states[0].shape[-1] if states[0].dim() == 3 else 0
    rows = inputs.shape[0 if batch_first else 1]
    if any(tuple(state.shape) != (layers * directions, rows, hidden) or hidden < 1 for state in states):
        raise ValueError(f"needs states of [{layers * directions}, {rows}, hidden size]")
    expected = []
    for layer in range(layers):
        width = inputs.shape[2] if layer == 0 else hidden * directions
        matrices = [(gates * hidden, width), (gates * hidden, hidden)]
        expected += (matrices + [(gates * hidden,)] * (2 if has_biases else 0)) * directions
    found = [tuple(weight.shape) for weight in weights]
    if found != expected or any(t.dtype != inputs.dtype for t in (*weights, *states)):
        raise ValueError(f"needs weights of {expected[:8]}, all of the input's dtype, got {found[:8]}")


def _empty(dtype: str, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=getattr(torch, dtype))


def _described(node: Node) -> str:
    return f"node {node.name!r}" + (f" ({node.module})" if node.module else "") + f", {node.operator},"


def _shapes(arguments: Sequence[Any]) -> str:
    shapes: list[str] = []
    for argument in arguments:
        tensors = argument if isinstance(argument, list) else [argument]
        shapes += [str(list(tensor.shape)) for tensor in tensors if isinstance(tensor, Tensor)]
    return ", ".join(shapes[:6]) or "no tensor"
