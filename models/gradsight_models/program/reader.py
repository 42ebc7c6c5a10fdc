"""A graph and weights as a module."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from gradsight.graph import (
    Dtype,
    Graph,
    GraphError,
    MemoryFormat,
    Procedure,
    Reference,
    RunDevice,
    Size,
    Value,
    parse_graph,
)
from gradsight_models.program.functions import function_of
from gradsight_models.program.module import Part, Program, Watched
from gradsight_models.program.watching import outputs_of_modules
from gradsight_models.program.weights import read_weights

ARITHMETIC: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "/": operator.truediv,
    "min": min,
    "max": max,
}


def build_program(graph: Graph | bytes, weights: Mapping[str, Tensor] | Path | None) -> Program:
    """The module of a graph: parameters under the user's paths, two procedures that `train()` and `eval()` choose from.

    Args:
        graph: As `parse_graph` gave it, or its JSON.
        weights: Every parameter and buffer by name, or the safetensors file of them; None for zeros.

    Raises:
        GraphError: The graph is not sound, or uses an operator that the installed torch has otherwise or not at all.
        ValueError: The weights are not those of the graph, or not finite.
    """
    graph = graph if isinstance(graph, Graph) else parse_graph(graph)
    tensors = read_weights(graph, weights)
    program = Program(graph.kinds.get("", "Program"))
    for parameter in graph.parameters:
        if not parameter.tied_to:
            value = nn.Parameter(tensors[parameter.name], requires_grad=parameter.trainable)
            _register(program, graph, parameter.name, value)
    for buffer in graph.buffers:
        _register(program, graph, buffer.name, tensors[buffer.name])
    outputs = outputs_of_modules(graph, graph.training)
    program.set_procedures(
        list(tensors),
        _procedure(graph, graph.training),
        _procedure(graph, graph.evaluation),
        watch=partial(_watched, graph),
        activations={path: output.activation for path, output in outputs.items()},
    )
    return program.train()


def _watched(graph: Graph, training: bool) -> Watched:
    procedure = graph.training if training else graph.evaluation
    outputs = {path: output.reference for path, output in outputs_of_modules(graph, procedure).items()}
    return _procedure(graph, procedure, outputs), list(outputs)


def memory_format(name: str) -> torch.memory_format:
    """Return torch's value of a `MemoryFormat`."""
    found: torch.memory_format = getattr(
        torch, f"{name}_format" if name in ("contiguous", "preserve") else name
    )
    return found


def _register(program: Program, graph: Graph, path: str, tensor: Tensor) -> None:
    part: Part = program
    *owners, name = path.split(".")
    try:
        for depth, owner in enumerate(owners, start=1):
            if owner not in part._modules:
                part.add_module(owner, Part(graph.kinds.get(".".join(owners[:depth]), "Module")))
            part = part._modules[owner]  # type: ignore[assignment]
        if isinstance(tensor, nn.Parameter):
            part.register_parameter(name, tensor)
        else:
            part.register_buffer(name, tensor)
    except KeyError:
        raise GraphError(
            "parameters", f"{path!r}: a part of it is a name that modules use themselves; rename it"
        ) from None


def _procedure(
    graph: Graph, procedure: Procedure, outputs: Mapping[str, Reference] | None = None
) -> Callable[..., Tensor]:
    """A function of the inputs and of all tensors: torch.fx writes it from nodes that are all our own.

    With `outputs`, of the parts at these paths, too: each is called with its output.
    """
    writer = _Writer(graph)
    watching: dict[str, list[tuple[Reference, fx.Node]]] = {}
    for index, reference in enumerate((outputs or {}).values()):
        part = writer.written.placeholder(f"part_{index}")
        watching.setdefault(reference.name, []).append((reference, part))
    for node in procedure.nodes:
        function = function_of(node.operator, graph.operators[node.operator])
        arguments = tuple(writer.value(argument) for argument in node.arguments)
        options = {name: writer.value(option) for name, option in node.options.items()}
        writer.nodes["node", node.name] = writer.written.call_function(function, arguments, options)
        for reference, part in watching.get(node.name, ()):
            writer.written.call_function(operator.call, (part, writer.value(reference)))
    writer.written.output(writer.value(procedure.scores))
    forward: Callable[..., Tensor] = fx.GraphModule(nn.Module(), writer.written).forward
    return forward


@dataclass
class _Writer:
    graph: Graph
    written: fx.Graph = field(default_factory=fx.Graph)
    nodes: dict[tuple[str, str], fx.Node] = field(default_factory=dict)
    derived: dict[Reference | Size | RunDevice, Any] = field(default_factory=dict)
    """What was taken out of, or computed from, a node: once each."""

    def __post_init__(self) -> None:
        # Names that a graph brings never become names of the function.
        entries = [("input", entry.name) for entry in self.graph.inputs]
        entries += [("parameter", p.name) for p in self.graph.parameters if not p.tied_to]
        entries += [("buffer", buffer.name) for buffer in self.graph.buffers]
        for index, key in enumerate(entries):
            self.nodes[key] = self.written.placeholder(f"tensor_{index}")
        for parameter in self.graph.parameters:
            if parameter.tied_to:
                self.nodes["parameter", parameter.name] = self.nodes["parameter", parameter.tied_to]
        self.first_input = self.nodes[entries[0]]

    def value(self, value: Value) -> Any:
        """An argument as torch takes it."""
        match value:
            case Reference() | Size() | RunDevice():
                if value not in self.derived:
                    self.derived[value] = self._derive(value)
                return self.derived[value]
            case Dtype(name):
                return getattr(torch, name)
            case MemoryFormat(name):
                return memory_format(name)
            case tuple():
                return [self.value(item) for item in value]
            case _:
                return value

    def _derive(self, value: Reference | Size | RunDevice) -> Any:
        if isinstance(value, RunDevice):
            return self.written.call_function(getattr, (self.first_input, "device"))
        if isinstance(value, Reference):
            node = self.nodes[value.kind, value.name]
            return (
                node
                if value.item is None
                else self.written.call_function(operator.getitem, (node, value.item))
            )
        if value.operator == "batch":
            return self.written.call_function(len, (self.first_input,))
        first, *others = (part if isinstance(part, int) else self.value(part) for part in value.operands)
        for other in others:
            first = self.written.call_function(ARITHMETIC[value.operator], (first, other))
        return first
