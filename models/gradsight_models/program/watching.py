"""Where in a graph the user's modules give their outputs: what probes of activations look at."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gradsight._graph_flow import references_in
from gradsight._graph_operators import operators
from gradsight.graph import Graph, Node, Procedure, Reference

# fmt: off
_ACTIVATIONS = frozenset((
    "relu", "relu_", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "silu_", "mish", "softplus",
    "hardtanh",
    "hardswish", "tanh", "sigmoid",
))
# fmt: on


@dataclass(frozen=True)
class Output:
    """What a module gives."""

    reference: Reference
    activation: str | None
    """The operator after the module's own that it has gone through, `relu` say."""


def outputs_of_modules(graph: Graph, procedure: Procedure) -> Mapping[str, Output]:
    """The output of each module that owns parameters, by path: of its last operator, or of the activation after it.

    Modules whose operators torch did not mark, parametrizations say, have none; nor has the outermost.
    """
    owners = {p.name.rpartition(".")[0] for p in graph.parameters if not p.tied_to} - {""}
    last = {node.module: node for node in procedure.nodes if node.module in owners}
    readers = _readers(procedure)
    return {path: _output(node, readers) for path, node in last.items()}


def _output(node: Node, readers: Mapping[str, list[Node]]) -> Output:
    """Of the activation that alone reads a node, or of the node."""
    reading = readers.get(node.name, [])
    family = operators()[reading[0].operator].family if len(reading) == 1 else ""
    if family in _ACTIVATIONS:
        return Output(_reference(reading[0]), family.removesuffix("_"))
    return Output(_reference(node), None)


def _readers(procedure: Procedure) -> dict[str, list[Node]]:
    found: dict[str, list[Node]] = {}
    for node in procedure.nodes:
        for name in _read_by(node):
            found.setdefault(name, []).append(node)
    return found


def _read_by(node: Node) -> Iterator[str]:
    for value in (*node.arguments, *node.options.values()):
        yield from (reference.name for reference in references_in(value) if reference.kind == "node")


def _reference(node: Node) -> Reference:
    return Reference("node", node.name, None if operators()[node.operator].single else 0)
