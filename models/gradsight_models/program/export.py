"""A module of the user's as a program: a graph and weights, without its code."""

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from gradsight._graph_flow import check_flow, references_in, unreached_parameters
from gradsight._graph_operators import operators
from gradsight._graph_writing import write_graph
from gradsight.graph import (
    DTYPES,
    Buffer,
    Graph,
    GraphError,
    Input,
    Parameter,
    Procedure,
    Reference,
    Scores,
    parse_graph,
)
from gradsight_models.program.answers import check_answers
from gradsight_models.program.errors import ExportError
from gradsight_models.program.example import Example, ExampleInputs, read_example
from gradsight_models.program.lowering import Names, lower
from gradsight_models.program.reader import build_program
from gradsight_models.program.tracing import Traced

_PREFIX = "module."


@dataclass(frozen=True, kw_only=True)
class ExportedProgram:
    """A module, ready to travel."""

    graph: bytes
    """JSON, as `gradsight.graph.parse_graph` reads it."""
    weights: bytes
    """safetensors: parameters and buffers as they are now."""
    inputs: tuple[str, ...]
    """Names of the inputs, in order; columns of the same names feed them."""
    output: str
    """Name of the output that is the scores."""
    frozen: tuple[str, ...]
    """Parameters that will not be trained, because the module freezes them or its scores do not depend on them."""


def export_program(
    module: nn.Module,
    example_inputs: ExampleInputs,
    *,
    input_names: Sequence[str] | None = None,
    output: str | int | None = None,
) -> ExportedProgram:
    """Export a module for training elsewhere. The module itself is left as it was.

    It is traced twice by torch.export, in training and in evaluation, for any number of rows; all other sizes are
    those of the example.

    Args:
        module: Any module with trainable float32 parameters; what requires no gradient stays frozen.
        example_inputs: A tensor, a tuple of positional arguments, or arguments by name; rows come first in all tensors.
        input_names: Names of the input tensors. Default: those of `forward`'s arguments.
        output: Which of several outputs is the scores, by name or place. Default: the first.

    Raises:
        ExportError: The module cannot be exported; what, where and what to do instead.
    """
    example = read_example(module, example_inputs, input_names)
    tensors = _Tensors(module)
    training = Traced(module, example, output, training=True)
    evaluation = Traced(module, example, output, training=False)
    names = Names(inputs=example.names, tensor=tensors.reference, constant=tensors.constant, prefix=_PREFIX)
    procedures = lower(training.program, names), lower(evaluation.program, names)
    graph = _checked(_assembled(tensors, example, training.scores, procedures))
    check_answers(module, example, output, build_program(graph, tensors.weights(graph)))
    return ExportedProgram(
        graph=write_graph(graph),
        weights=safetensors.torch.save(tensors.weights(graph)),
        inputs=example.names,
        output=graph.scores.name,
        frozen=tuple(parameter.name for parameter in graph.parameters if not parameter.trainable),
    )


@dataclass
class _Tensors:
    """Parameters and buffers of a module by path, a shared one under its first; constants of its code as buffers."""

    module: nn.Module
    first: dict[int, str] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parameters = dict(self.module.named_parameters(remove_duplicate=False))
        self.buffers = dict(self.module.named_buffers(remove_duplicate=False))
        for name, tensor in (*self.parameters.items(), *self.buffers.items()):
            self.first.setdefault(id(tensor), name)

    def reference(self, path: str) -> Reference:
        """The parameter or buffer at a path of the module."""
        kind: Any = "parameter" if path in self.parameters else "buffer"
        tensor = self.parameters[path] if path in self.parameters else self.buffers[path]
        return Reference(kind, self.first[id(tensor)])

    def constant(self, tensor: Tensor) -> Reference:
        """A buffer for a tensor that stands in the module's code; equal ones are one."""
        tensor = tensor.detach()
        if id(tensor) in self.first:
            return self.reference(self.first[id(tensor)])
        for name, known in self.constants.items():
            if known.dtype == tensor.dtype and known.shape == tensor.shape and torch.equal(known, tensor):
                return Reference("buffer", name)
        name = f"_constant_{len(self.constants)}"
        self.constants[name] = tensor
        return Reference("buffer", name)

    def buffer_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Buffers by name, each once, constants last."""
        yield from ((name, tensor) for name, tensor in self.buffers.items() if self.first[id(tensor)] == name)
        yield from self.constants.items()

    def weights(self, graph: Graph) -> dict[str, Tensor]:
        """What goes into the weights file: each tensor by its name, on the processor, in memory of its own."""
        buffers = dict(self.buffer_tensors())
        kept: dict[str, Tensor] = {p.name: self.parameters[p.name] for p in graph.parameters if not p.tied_to}
        kept |= {buffer.name: buffers[buffer.name] for buffer in graph.buffers}
        return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in kept.items()}


def _assembled(
    tensors: _Tensors, example: Example, scores: Scores, procedures: tuple[Procedure, Procedure]
) -> Graph:
    used = {node.operator for procedure in procedures for node in procedure.nodes}
    parameters, buffers = tuple(_parameters(tensors)), tuple(_buffers(tensors, procedures))
    owners = {name.rpartition(".")[0] for name in (*(p.name for p in parameters), *(b.name for b in buffers))}
    return Graph(
        torch_version=torch.__version__.partition("+")[0],
        operators={name: operators()[name].schema for name in sorted(used)},
        inputs=tuple(
            Input(name=name, dtype=_dtype(tensor, f"input {name!r}"), row_shape=tuple(tensor.shape[1:]))
            for name, tensor in zip(example.names, example.tensors, strict=True)
        ),
        parameters=parameters,
        buffers=buffers,
        kinds={path: _kind(tensors.module.get_submodule(path)) for path in sorted(owners)},
        scores=scores,
        training=procedures[0],
        evaluation=procedures[1],
    )


def _kind(part: nn.Module) -> str:
    """The name of a class, in letters that a graph may hold: some are made with others, `Block[int]` say."""
    return re.sub(r"\W", "_", type(part).__name__)


def _parameters(tensors: _Tensors) -> Iterator[Parameter]:
    for name, tensor in tensors.parameters.items():
        first = tensors.first[id(tensor)]
        dtype = _dtype(tensor, f"parameter {name!r}")
        if tensor.requires_grad and dtype != "float32":
            raise ExportError(
                f"parameter {name!r} is {dtype}, trainable ones are float32; call module.float() first"
            )
        yield Parameter(
            name=name,
            dtype=dtype,
            shape=tuple(tensor.shape),
            trainable=tensor.requires_grad,
            tied_to="" if first == name else first,
        )


def _buffers(tensors: _Tensors, procedures: Sequence[Procedure]) -> Iterator[Buffer]:
    """What the module saves, and what the graph reads besides."""
    kept = set(tensors.module.state_dict())
    for procedure in procedures:
        for node in procedure.nodes:
            for value in (*node.arguments, *node.options.values()):
                kept.update(
                    reference.name for reference in references_in(value) if reference.kind == "buffer"
                )
    for name, tensor in tensors.buffer_tensors():
        if name in kept:
            yield Buffer(name=name, dtype=_dtype(tensor, f"buffer {name!r}"), shape=tuple(tensor.shape))


def _dtype(tensor: Tensor, what: str) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES or tensor.layout is not torch.strided:
        raise ExportError(f"{what} is {dtype} ({tensor.layout}), allowed: strided, of {', '.join(DTYPES)}")
    return dtype


def _checked(graph: Graph) -> Graph:
    """The graph with what its scores do not depend on frozen, and read as the service will read it."""
    try:
        unreached = unreached_parameters(graph)
        if len(unreached) == sum(
            parameter.trainable and not parameter.tied_to for parameter in graph.parameters
        ):
            check_flow(graph)
        graph = replace(graph, parameters=tuple(_frozen(graph.parameters, unreached)))
        parse_graph(write_graph(graph))
    except GraphError as error:
        raise ExportError(str(error)) from error
    if unreached:
        shown = ", ".join(unreached[:5]) + (f" and {len(unreached) - 5} more" if len(unreached) > 5 else "")
        warnings.warn(f"the scores do not depend on {shown}: frozen", stacklevel=3)
    return graph


def _frozen(parameters: Sequence[Parameter], names: Sequence[str]) -> Iterator[Parameter]:
    for parameter in parameters:
        yield (
            replace(parameter, trainable=False)
            if (parameter.tied_to or parameter.name) in names
            else parameter
        )
