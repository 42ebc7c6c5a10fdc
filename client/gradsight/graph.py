"""A program: a module's graph as data, in JSON that this file defines, without torch and without code.

A graph names operators, parameters and sizes and nothing else: no source text, no expressions to evaluate, no
addresses of files. `parse_graph` is the only way in. What it returns is sound as far as that can be known without
torch: every operator is one that is allowed and has the arguments that its schema asks for, every reference leads to
something earlier, every size is within its limit. The JSON is described in docs/programs.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

FORMAT = "gradsight.graph"
VERSION = 1

MOST_GRAPH_BYTES = 16 << 20
MOST_NODES = 10_000
"""In training and in evaluation, each."""
MOST_INPUTS = 64
MOST_TENSORS = 10_000
"""Parameters and buffers together."""
MOST_ELEMENTS = 2_000_000_000
"""Numbers in all parameters and buffers together, and in one row of an input."""
MOST_DIMENSIONS = 16
MOST_NAME_CHARACTERS = 256
MOST_LIST_ITEMS = 4096

DTYPES = (
    "bool",
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
)
"""What numbers in parameters, buffers and between nodes may be."""
INPUT_DTYPES = tuple(dtype for dtype in DTYPES if dtype != "bfloat16")
"""What numbers in inputs may be: files of rows have no bfloat16."""


class GraphError(ValueError):
    """A graph is malformed, too large, or asks for what is not allowed. `path` says where, `training.nodes[3]` say."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message

    def __reduce__(self) -> tuple[type["GraphError"], tuple[str, str]]:
        return type(self), (self.path, self.message)


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Training and evaluation of one module, over the same parameters and buffers."""

    torch_version: str
    """Of the torch that exported it."""
    operators: Mapping[str, str]
    """Every operator that a node uses, and its schema in that torch."""
    inputs: tuple["Input", ...]
    parameters: tuple["Parameter", ...]
    buffers: tuple["Buffer", ...]
    kinds: Mapping[str, str]
    """Class names of the modules that own parameters or buffers, by path: `{"encoder.0": "Linear"}`."""
    scores: "Scores"
    training: "Procedure"
    evaluation: "Procedure"

    @property
    def parameter_count(self) -> int:
        """Numbers in all parameters; tied ones count once."""
        return sum(parameter.element_count for parameter in self.parameters if not parameter.tied_to)


@dataclass(frozen=True, kw_only=True)
class Input:
    """A tensor that the module takes: rows first, any number of them."""

    name: str
    dtype: str
    row_shape: tuple[int, ...]
    """Of one row; empty for one number a row."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The tensor that the module gives: rows first."""

    name: str
    """What the module's author called it; `scores` where it has no name."""
    dtype: str
    row_shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter of the module. Its numbers are in the weights file, under its name, unless it is tied."""

    name: str
    """Its path in the module, `encoder.layer.0.weight` say."""
    dtype: str
    shape: tuple[int, ...]
    trainable: bool
    tied_to: str
    """The parameter earlier in the list that this is another name of; empty for none."""

    @property
    def element_count(self) -> int:
        """How many numbers it holds."""
        return element_count(self.shape)


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """A tensor that no gradient changes: running statistics, positions, constants. In the weights file by its name."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def element_count(self) -> int:
        """How many numbers it holds."""
        return element_count(self.shape)


@dataclass(frozen=True, kw_only=True)
class Procedure:
    """Nodes in order of execution, and which value is the scores."""

    nodes: tuple["Node", ...]
    scores: "Reference"


@dataclass(frozen=True, kw_only=True)
class Node:
    """One call of an operator."""

    name: str
    operator: str
    """`aten.linear.default` say."""
    arguments: tuple["Value", ...]
    options: Mapping[str, "Value"]
    """Arguments by keyword."""
    module: str
    """Path of the module whose code called it; empty where it is not known. For messages only."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A tensor: an input, a parameter, a buffer, or what a node gave."""

    kind: Literal["input", "parameter", "buffer", "node"]
    name: str
    item: int | None = None
    """Which of its tensors, for a node that gives several."""


@dataclass(frozen=True, slots=True)
class Size:
    """A number that depends on the number of rows: `batch`, or arithmetic on it."""

    operator: Literal["batch", "+", "*", "//", "%", "/", "min", "max"]
    operands: tuple["Size | int", ...] = ()
    """None for `batch`, two or more for `+ * min max`, two for the others."""


@dataclass(frozen=True, slots=True)
class Dtype:
    """A kind of number, one of `DTYPES`."""

    name: str


@dataclass(frozen=True, slots=True)
class MemoryFormat:
    """An order of dimensions in memory: `contiguous`, `channels_last`, `channels_last_3d`, `preserve`."""

    name: str


@dataclass(frozen=True, slots=True)
class RunDevice:
    """The device on which the graph runs; a graph cannot name another."""


Value = (
    None
    | bool
    | int
    | float
    | str
    | Reference
    | Size
    | Dtype
    | MemoryFormat
    | RunDevice
    | tuple["Value", ...]
)
"""What an argument may be. Texts are words that the operator knows, `mean` say."""


def parse_graph(data: bytes) -> Graph:
    """Read a graph from its JSON, checked against operators, schemas and limits.

    Costs time and memory in proportion to `data`, whatever it says. Raises GraphError, and nothing else.
    """
    from gradsight._graph_flow import check_flow
    from gradsight._graph_reading import read_graph

    graph = read_graph(data)
    check_flow(graph)
    return graph


def element_count(shape: tuple[int, ...]) -> int:
    """How many numbers a tensor of this shape holds, exactly, however many that would be."""
    count = 1
    for size in shape:
        count *= size
    return count
