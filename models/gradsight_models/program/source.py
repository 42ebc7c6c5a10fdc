"""A program as the source of a model: what it reads, and what it needs of rows and outputs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from gradsight.graph import Graph, parse_graph
from gradsight_models.columns import Chunks, Column, Reading
from gradsight_models.outputs import Outputs
from gradsight_models.preprocessing import Preprocessing
from gradsight_models.program.module import Program
from gradsight_models.program.reader import build_program
from gradsight_models.program.shapes import check_shapes
from gradsight_models.tensor_preprocessing import InputTensor, TensorPreprocessing

_GRAPH_FILE = "graph.json"
_ROWS = 7
"""Rows at which shapes are tried: few, and no size that is likely in a model."""


class ProgramSource:
    """Makes the module of a graph. Raises GraphError for a graph that is not sound."""

    name = "program"
    reads = Reading.TENSORS

    def __init__(self, graph: bytes, weights: Path | None) -> None:
        """Read the graph. Without `weights` models begin with zeros, until a state is loaded into them."""
        self.graph: Graph = parse_graph(graph)
        self._bytes = graph
        self._weights = weights

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the graph's inputs, in order."""
        return tuple(entry.name for entry in self.graph.inputs)

    def fit(self, columns: Sequence[Column], chunks: Chunks) -> Preprocessing:
        """Find the columns of each input. Raises ValueError where they have another shape or kind."""
        inputs = [
            InputTensor(name=entry.name, dtype=entry.dtype, shape=entry.row_shape)
            for entry in self.graph.inputs
        ]
        return TensorPreprocessing.fit(columns, chunks, inputs=inputs)

    def build(self, preprocessing: Preprocessing, outputs: Outputs) -> Program:
        """The module with the weights of the file. Raises ValueError where graph, weights or outputs do not fit."""
        self._check_scores(outputs)
        check_shapes(self.graph, rows=_ROWS)
        return build_program(self.graph, self._weights)

    def to_json(self) -> dict[str, Any]:
        """Where the graph is, among the files of the result."""
        return {"kind": "program", "graph": _GRAPH_FILE}

    def files(self) -> Mapping[str, bytes]:
        """The graph, as it was exported."""
        return {_GRAPH_FILE: self._bytes}

    @classmethod
    def from_json(cls, document: Mapping[str, Any], files: Mapping[str, bytes]) -> Self:
        """The inverse of `to_json` and `files`; the weights come as the state of the module."""
        return cls(files[document["graph"]], None)

    def _check_scores(self, outputs: Outputs) -> None:
        found = self.graph.scores.row_shape
        if outputs.kind == "tokens":
            fits, allowed = len(found) == 2 and found[-1] == outputs.size, f"[rows, tokens, {outputs.size}]"
        else:
            fits, allowed = found == (outputs.size,), f"[rows, {outputs.size}]"
        if not fits:
            shape = ", ".join(["rows", *map(str, found)])
            raise ValueError(
                f"the program's scores {self.graph.scores.name!r} are [{shape}], the {outputs.kind} of the target need "
                f"{allowed}; change the module's last layer, or choose another output at the export"
            )
