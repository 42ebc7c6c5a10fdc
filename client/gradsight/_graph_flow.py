"""What a graph writes to, and which parameters its scores depend on: followed through views and writes in place."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gradsight._graph_operators import Operator, operators
from gradsight.graph import Graph, GraphError, Node, Procedure, Reference, Value

# fmt: off
_WITHOUT_GRADIENT = frozenset((
    "detach", "detach_", "argmax", "argmin", "argsort", "sign", "sgn", "floor", "ceil", "round", "trunc",
    "floor_divide",
    "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones", "new_full", "one_hot",
    "searchsorted", "bucketize", "multinomial", "bernoulli", "eq", "ne", "lt", "le", "gt", "ge", "any", "all", "isnan",
    "isinf", "isfinite", "logical_and", "logical_or", "logical_not", "logical_xor", "count_nonzero",
))
_RETURNING_THEIR_ARGUMENT = frozenset((
    "atleast_1d", "atleast_2d", "atleast_3d", "broadcast_tensors", "meshgrid", "type_as",
    "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout",
))
"""Their schemas do not say that they may give back what they were given; dropout does outside of training."""
# fmt: on
_STATISTICS = frozenset(("batch_norm", "instance_norm"))
"""They write to their running statistics while these are not used; their schemas do not say that either."""


def check_flow(graph: Graph) -> None:
    """Raises GraphError where a graph writes to what is not its own, or trains what its scores do not depend on."""
    _Flow(graph, graph.evaluation, "evaluation")
    missing = unreached_parameters(graph)
    trainable = [
        parameter.name for parameter in graph.parameters if parameter.trainable and not parameter.tied_to
    ]
    if not trainable:
        raise GraphError("parameters", "none is trainable; set requires_grad on some before the export")
    if missing == trainable:
        raise GraphError(
            "training.scores",
            "do not depend on any trainable parameter; look for detach() or no_grad() in the module",
        )
    if missing:
        shown = ", ".join(repr(name) for name in missing[:5]) + (" and more" if len(missing) > 5 else "")
        raise GraphError(
            "parameters",
            f"the scores do not depend on {shown}; freeze what is not to be trained (requires_grad_(False))",
        )


def unreached_parameters(graph: Graph) -> list[str]:
    """Trainable parameters from which no path leads to the training scores. Raises GraphError as `check_flow` does."""
    reached = _Flow(graph, graph.training, "training").depends_on(graph.training.scores)
    return [p.name for p in graph.parameters if p.trainable and not p.tied_to and p.name not in reached]


@dataclass
class _Flow:
    """One pass over a procedure: for each tensor its memory, and the parameters that it depends on as a set of bits."""

    graph: Graph
    procedure: Procedure
    path: str
    memory: dict[tuple[str, str], int] = field(default_factory=dict)
    """Which memory a tensor is a view of, by kind and name."""
    owner: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Input, parameter or buffer that lies in a memory."""
    bits: dict[tuple[str, str], int] = field(default_factory=dict)
    written: dict[int, int] = field(default_factory=dict)
    """Bits of what was written to a memory after it was made."""
    merged: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tied = {p.name: p.tied_to or p.name for p in self.graph.parameters}
        self.trainable = [p.name for p in self.graph.parameters if p.trainable and not p.tied_to]
        numbers = {name: 1 << index for index, name in enumerate(self.trainable)}
        for kind, entries in (
            ("input", self.graph.inputs),
            ("parameter", self.graph.parameters),
            ("buffer", self.graph.buffers),
        ):
            for entry in entries:
                key = (kind, entry.name)
                first = ("parameter", tied[entry.name]) if kind == "parameter" else key
                self.memory[key] = self.memory[first] if first in self.memory else self._new_memory(key)
                self.bits[key] = numbers.get(first[1], 0) if kind == "parameter" else 0
        known = operators()
        for index, node in enumerate(self.procedure.nodes):
            self._pass(node, known[node.operator], f"{self.path}.nodes[{index}]")

    def depends_on(self, reference: Reference) -> set[str]:
        """Trainable parameters that the tensor depends on."""
        bits = self._bits_of(reference)
        return {name for index, name in enumerate(self.trainable) if bits >> index & 1}

    def _new_memory(self, owner: tuple[str, str] | None = None) -> int:
        number = len(self.merged)
        self.merged[number] = number
        if owner:
            self.owner[number] = owner
        return number

    def _memory_of(self, reference: Reference) -> int:
        number = self.memory[reference.kind, reference.name]
        while self.merged[number] != number:
            number = self.merged[number]
        return number

    def _bits_of(self, reference: Reference) -> int:
        return self.bits[reference.kind, reference.name] | self.written.get(self._memory_of(reference), 0)

    def _pass(self, node: Node, operator: Operator, path: str) -> None:
        given = _by_name(node, operator)
        references = [(name, found) for name, value in given.items() for found in references_in(value)]
        bits = 0
        if operator.family not in _WITHOUT_GRADIENT:
            for _, reference in references:
                bits |= self._bits_of(reference)
        writes = written_arguments(node, operator)
        shared = {a.name for a in operator.arguments if a.alias and a.alias in operator.result_aliases}
        if operator.family in _RETURNING_THEIR_ARGUMENT and given.get("train") is not True:
            shared |= {argument.name for argument in operator.arguments}
        for name, reference in references:
            if name in writes:
                self._write(node, reference, bits, path)
        key = ("node", node.name)
        memories = [self._memory_of(reference) for name, reference in references if name in shared]
        self.memory[key] = memories[0] if memories else self._new_memory()
        for other in memories[1:]:
            self._merge(memories[0], other)
        self.bits[key] = bits

    def _write(self, node: Node, reference: Reference, bits: int, path: str) -> None:
        number = self._memory_of(reference)
        kind, name = self.owner.get(number, ("", ""))
        if kind in ("input", "parameter") or (kind == "buffer" and self.path == "evaluation"):
            reason = {
                "input": "rows are read again later; clone() it first",
                "parameter": "the optimizer alone changes parameters; make it a buffer",
                "buffer": "evaluation must leave the model as it is",
            }[kind]
            raise GraphError(path, f"node {node.name!r} writes to {kind} {name!r}; {reason}")
        self.written[number] = self.written.get(number, 0) | bits

    def _merge(self, number: int, other: int) -> None:
        """One memory from two, where a result may be a view of either; the one with an owner stays."""
        number, other = (other, number) if other in self.owner else (number, other)
        if number != other:
            self.merged[other] = number
            self.written[number] = self.written.get(number, 0) | self.written.get(other, 0)


def written_arguments(node: Node, operator: Operator) -> set[str]:
    """Names of the arguments that the node writes to."""
    writes = {argument.name for argument in operator.arguments if argument.written}
    given = _by_name(node, operator)
    if operator.family in _STATISTICS and given.get("training", given.get("use_input_stats")) is not False:
        writes |= {"running_mean", "running_var"}
    return writes


def references_in(value: Value) -> Iterator[Reference]:
    """Tensors in an argument."""
    if isinstance(value, Reference):
        yield value
    elif isinstance(value, tuple):
        yield from (item for item in value if isinstance(item, Reference))


def _by_name(node: Node, operator: Operator) -> Mapping[str, Value]:
    return dict(zip((a.name for a in operator.arguments), node.arguments, strict=False)) | dict(node.options)
