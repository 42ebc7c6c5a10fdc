"""Where in a graph the user's modules give their outputs: what probes of activations look at."""

from collections.abc import Iterator, Mapping

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


def outputs_of_modules(graph: Graph) -> Mapping[str, Reference]:
    """The output of each module that owns parameters, by path: of its last operator, or of the activation after it.

    Modules whose operators torch did not mark, parametrizations say, have none; nor has the outermost.
    """
    owners = {p.name.rpartition(".")[0] for p in graph.parameters if not p.tied_to} - {""}
    last = {node.module: node for node in graph.training.nodes if node.module in owners}
    readers = _readers(graph.training)
    return {path: _reference(_followed(node, readers)) for path, node in last.items()}


def _followed(node: Node, readers: Mapping[str, list[Node]]) -> Node:
    """The activation that alone reads a node, or the node."""
    reading = readers.get(node.name, [])
    if len(reading) == 1 and operators()[reading[0].operator].family in _ACTIVATIONS:
        return reading[0]
    return node


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
