"""A user's own module as two files that travel: a graph and its weights."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from gradsight._errors import MissingExtra

GRAPH_FILE = "graph.json"
WEIGHTS_FILE = "weights.safetensors"


@dataclasses.dataclass(frozen=True)
class ExportedModel:
    """A module as data: `submit(model=exported)` trains it. No code of the module is in it.

    Attributes:
        graph: What the module computes, as JSON.
        weights: The numbers that it begins with, as safetensors.
    """

    graph: bytes
    weights: bytes

    def __repr__(self) -> str:
        return f"ExportedModel(<graph of {len(self.graph)} bytes>, <weights of {len(self.weights)} bytes>)"

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Writes `graph.json` and `weights.safetensors` into a directory, made if needed, and returns it."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / GRAPH_FILE).write_bytes(self.graph)
        (folder / WEIGHTS_FILE).write_bytes(self.weights)
        return folder

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Self:
        """Returns what `save` wrote. Raises OSError."""
        folder = Path(directory)
        return cls((folder / GRAPH_FILE).read_bytes(), (folder / WEIGHTS_FILE).read_bytes())

    @cached_property
    def digests(self) -> tuple[str, str]:
        """Digests of graph and weights, `sha256:` and 64 hex digits each."""
        graph, weights = (hashlib.sha256(content).hexdigest() for content in (self.graph, self.weights))
        return f"sha256:{graph}", f"sha256:{weights}"

    @property
    def form(self) -> dict[str, Any]:
        """The model of a spec in human form."""
        graph, weights = self.digests
        return {"program": {"graph": graph, "weights": weights}}

    @property
    def files(self) -> Mapping[str, bytes]:
        """Contents by digest."""
        return dict(zip(self.digests, (self.graph, self.weights), strict=True))


def export(
    module: Any,
    example_inputs: Any,
    *,
    input_names: Sequence[str] | None = None,
    output: str | int | None = None,
) -> ExportedModel:
    """Turns a `torch.nn.Module` into a graph and weights that workers train without its code.

    Args:
        module: The module, with trainable float32 parameters. It is left as it is.
        example_inputs: One batch of its inputs: a tensor, a tuple of arguments, or arguments by name; rows come first.
            The number of rows stays free, every other size is the example's.
        input_names: Names of the input tensors, which are those of their columns. Default: those of `forward`.
        output: Which of several outputs is the scores, by name or place. Default: the first.

    Raises MissingExtra without the extra `models`, which brings PyTorch, and ValueError for a module that cannot be
    said as a graph: what stands in the way, and what to do instead.
    """
    try:
        from gradsight_models.program import export_program
    except ImportError as error:
        raise MissingExtra(
            f"exporting a module needs the extra `models` ({error}): pip install 'gradsight[models]'"
        ) from None
    exported = export_program(module, example_inputs, input_names=input_names, output=output)
    return ExportedModel(exported.graph, exported.weights)
