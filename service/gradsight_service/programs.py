"""Programs at the door: graph and weights as far as they can be judged without torch, and the columns they need."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from gradsight._data_formats import MAGIC_BYTES
from gradsight._program_weights import Tensors, needed_tensors
from gradsight._tensor_headers import looks_pickled, read_safetensors_header
from gradsight.graph import MOST_GRAPH_BYTES, GraphError, parse_graph
from gradsight.v1 import spec_pb2
from gradsight_service.errors import Violation
from gradsight_service.limits import shown

_MOST_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class GraphFacts:
    """What is kept of a graph that was read: its inputs and the tensors that it needs, or what is wrong with it."""

    inputs: Sequence[str] = ()
    tensors: Tensors = field(default_factory=dict)
    problem: str = ""
    place: str = ""
    """Where in the graph the problem is, `training.nodes[3]` say; empty: in the whole."""


@dataclass(frozen=True, kw_only=True)
class WeightFacts:
    """The tensors of a weights file, or what is wrong with it."""

    tensors: Tensors = field(default_factory=dict)
    problem: str = ""
    place: str = ""


def read_graph(file: BinaryIO) -> GraphFacts:
    """Read a graph. Never raises for what the file holds."""
    data = file.read(MOST_GRAPH_BYTES + 1)
    if kind := looks_pickled(data[:MAGIC_BYTES]):
        return GraphFacts(problem=_carries_code(kind))
    if len(data) > MOST_GRAPH_BYTES:
        return GraphFacts(problem=f"got more than {MOST_GRAPH_BYTES} bytes, allowed at most that")
    try:
        graph = parse_graph(data)
    except GraphError as error:
        return GraphFacts(problem=error.message, place=error.path)
    return GraphFacts(inputs=tuple(entry.name for entry in graph.inputs), tensors=needed_tensors(graph))


def read_weights(file: BinaryIO) -> WeightFacts:
    """Read the header of a weights file. Never raises for what the file holds."""
    if kind := looks_pickled(file.read(MAGIC_BYTES)):
        return WeightFacts(problem=_carries_code(kind))
    try:
        header = read_safetensors_header(file, file.seek(0, 2))
    except ValueError as error:
        return WeightFacts(problem=str(error))
    return WeightFacts(tensors={name: (tensor.dtype, tensor.shape) for name, tensor in header.items()})


def input_violations(
    spec: spec_pb2.JobSpec, inputs: Sequence[str], columns: Mapping[str, Iterable[str]]
) -> Iterator[Violation]:
    """Whether the columns of the rows can be the inputs of a program that has several.

    Args:
        spec: Whose `data.input_columns` name the columns, in the order of the inputs.
        inputs: Names of the program's inputs.
        columns: Of each split whose columns are known.
    """
    if len(inputs) < 2:
        return
    given = len(spec.data.input_columns)
    if given and given != len(inputs):
        yield Violation(
            path="data.input_columns",
            message=f"got {given} columns, allowed {len(inputs)}: one for each of the inputs {_named(inputs)}",
        )
    for split, known in columns.items():
        lacking = [] if given else [name for name in inputs if name not in known]
        if lacking:
            yield Violation(
                path="data.input_columns",
                message=f"got none, and {split} has no column {_named(lacking)} as the program's inputs are called; "
                f"name one for each of {_named(inputs)}",
            )


def _carries_code(kind: str) -> str:
    return f"got {kind}, which can run code when it is loaded; allowed what gradsight.export made"


def _named(names: Sequence[str]) -> str:
    first = ", ".join(shown(name) for name in names[:_MOST_NAMED])
    return first + (f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else "")
