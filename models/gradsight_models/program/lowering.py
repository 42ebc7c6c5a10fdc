"""torch's graph as ours: the same operators in the same order, without what a run elsewhere does not need.

torch's training graph keeps the operators that modules call (`linear`, `batch_norm`, `lstm`), which is both the
fastest form and the one with all checks. What changes on the way: devices become the run's, uninitialised memory
becomes zeros, regions without gradients become detached inputs, and nodes that only assert, hand on or compute for
nobody are left out.
"""

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sympy
import torch
from torch import fx
from torch.export.graph_signature import InputKind, OutputKind

from gradsight._graph_flow import references_in, written_arguments
from gradsight._graph_operators import nearest_operator, operators
from gradsight.graph import Dtype, MemoryFormat, Node, Procedure, Reference, RunDevice, Value
from gradsight_models.program.errors import ExportError, line_of
from gradsight_models.program.sizes import size_of

_MEMORY_FORMATS = {
    torch.contiguous_format: "contiguous",
    torch.channels_last: "channels_last",
    torch.channels_last_3d: "channels_last_3d",
    torch.preserve_format: "preserve",
}
_REPLACED = {
    "aten.empty.memory_format": "aten.zeros.default",
    "aten.empty_like.default": "aten.zeros_like.default",
    "aten.new_empty.default": "aten.new_zeros.default",
    "aten.lift_fresh_copy.default": "aten.clone.default",
}
"""Uninitialised memory is filled: it would show what was there before."""
_ASSERTIONS = ("aten._assert", "aten.sym_constrain", "<function _check", "<built-in function _assert")
_DECIDED_BY_THE_RUN = frozenset(("layout", "pin_memory", "generator"))
_DROPOUTS = frozenset(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"))
_TO_THE_END = (1 << 63) - 1

Lowered = Value | tuple["Lowered", ...]


@dataclass(frozen=True, kw_only=True)
class Names:
    """What the tensors of a traced graph are called in ours."""

    inputs: tuple[str, ...]
    tensor: Callable[[str], Reference]
    """The parameter or buffer at a path of the module."""
    constant: Callable[[torch.Tensor], Reference]
    """The buffer for a tensor that stands in the module's code."""
    prefix: str
    """What torch's paths begin with and the user's do not."""


def lower(program: torch.export.ExportedProgram, names: Names) -> Procedure:
    """The graph of an exported program. Raises ExportError for what cannot travel."""
    return _Lowering(program, names).run()


@dataclass
class _Lowering:
    program: torch.export.ExportedProgram
    names: Names
    values: dict[fx.Node, Any] = field(default_factory=dict)
    """What each node of torch's graph is in ours: a value, or a tuple of values where it gives several."""
    nodes: list[Node] = field(default_factory=list)
    taken_names: set[str] = field(default_factory=set)
    batch: sympy.Symbol | None = None

    def run(self) -> Procedure:
        graph = self.program.graph_module.graph
        self._take_inputs(graph)
        self._take_calls(self.program.graph_module, without_gradient=False)
        scores: Reference | None = None
        results = next(node for node in graph.nodes if node.op == "output").args[0]
        for spec, result in zip(self.program.graph_signature.output_specs, results, strict=True):
            value = self.values[result]
            if spec.kind is OutputKind.USER_OUTPUT:
                scores = value
            elif spec.kind is OutputKind.BUFFER_MUTATION:
                buffer = self.names.tensor(str(spec.target).removeprefix(self.names.prefix))
                self._add(
                    Node(
                        name="update",
                        operator="aten.copy_.default",
                        arguments=(buffer, value),
                        options={},
                        module="",
                    )
                )
            else:
                raise ExportError(
                    f"the module writes to its input {spec.target!r}; write to input.clone() instead"
                )
        if scores is None or not isinstance(scores, Reference):
            raise ExportError("the module's scores are no tensor")
        return Procedure(nodes=tuple(_needed(self.nodes, scores)), scores=scores)

    def _take_inputs(self, graph: fx.Graph) -> None:
        placeholders = [node for node in graph.nodes if node.op == "placeholder"]
        inputs = iter(self.names.inputs)
        for node, spec in zip(placeholders, self.program.graph_signature.input_specs, strict=True):
            if spec.kind is InputKind.USER_INPUT:
                self.values[node] = Reference("input", next(inputs))
                self.batch = self.batch or _batch_symbol(node)
            elif spec.kind is InputKind.CONSTANT_TENSOR:
                self.values[node] = self.names.constant(self.program.constants[str(spec.target)])
            elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
                self.values[node] = self.names.tensor(str(spec.target).removeprefix(self.names.prefix))
            else:
                raise ExportError(
                    f"the module holds {spec.target!r}, an object that is no tensor; it cannot travel"
                )

    def _take_calls(self, module: fx.GraphModule, *, without_gradient: bool) -> None:
        for node in module.graph.nodes:
            if node.op == "call_function":
                try:
                    self._take_call(node, module, without_gradient)
                except ExportError as error:
                    raise ExportError(f"{error}{line_of(str(node.meta.get('stack_trace') or ''))}") from error

    def _take_call(self, node: fx.Node, module: fx.GraphModule, without_gradient: bool) -> None:
        target: Any = node.target
        if target is operator.getitem:
            self.values[node] = self._item(node)
        elif isinstance(target, torch._ops.HigherOrderOperator):
            self._take_region(node, module, without_gradient)
        elif str(target).startswith(_ASSERTIONS):
            return
        elif isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat | int | float):
            assert self.batch is not None
            number = node.meta["val"]
            symbolic = isinstance(number, torch.SymInt | torch.SymFloat)
            self.values[node] = size_of(number.node.expr, self.batch) if symbolic else number
        elif isinstance(target, torch._ops.OpOverload):
            self._take_operator(node, str(target))
        else:
            raise ExportError(f"{target} cannot travel: only operators of torch can")

    def _take_region(self, node: fx.Node, module: fx.GraphModule, without_gradient: bool) -> None:
        """A region with its own rule of gradients or of precision becomes a part of the graph around it."""
        kind = str(node.target)
        if kind == "wrap_with_set_grad_enabled":
            enabled, body, *given = node.args
            if enabled and without_gradient:
                raise ExportError("enable_grad() within no_grad() cannot travel; compute that part outside")
            detach = not enabled
        elif kind == "wrap_with_autocast":
            _, _, enabled, _, body, *given = node.args
            if enabled:
                raise ExportError(
                    "autocast() in the module cannot travel; leave it out and set compute.precision of the job"
                )
            detach = False
        else:
            raise ExportError(f"{kind} cannot travel: only operators of torch can")
        assert isinstance(body, fx.Node)
        inner = getattr(module, str(body.target))
        placeholders = [part for part in inner.graph.nodes if part.op == "placeholder"]
        for placeholder, argument in zip(placeholders, given, strict=True):
            value = self._value(argument)
            self.values[placeholder] = self._detached(value) if detach else value
        self._take_calls(inner, without_gradient=without_gradient or detach)
        results = next(part for part in inner.graph.nodes if part.op == "output").args[0]
        self.values[node] = tuple(self._value(result) for result in results)

    def _detached(self, value: Value) -> Value:
        if not isinstance(value, Reference) or value.kind in ("input", "buffer"):
            return value
        return self._add(
            Node(name="detach", operator="aten.detach.default", arguments=(value,), options={}, module="")
        )

    def _item(self, node: fx.Node) -> Value:
        whole, index = node.args
        value = self.values[whole]  # type: ignore[index]
        if isinstance(value, Reference):
            return replace(value, item=int(index))  # type: ignore[arg-type]
        return value[index]  # type: ignore[no-any-return]

    def _take_operator(self, node: fx.Node, name: str) -> None:
        if name == "aten._weight_norm.default":
            self.values[node] = self._weight_norm(node)
            return
        name = _REPLACED.get(name, name)
        known = operators().get(name)
        if known is None:
            near = nearest_operator(name)
            raise ExportError(
                f"{name} is not among the operators that can travel" + (f"; {near} is" if near else "")
            )
        arguments = [self._value(argument) for argument in node.args]
        if _hands_on(known.family, arguments):
            self.values[node] = arguments[0]
            return
        for index, argument in enumerate(known.arguments[: len(arguments)]):
            if argument.name in ("cudnn_enabled", "cudnn_enable"):
                arguments[index] = True  # Whether the run has cuDNN is for the run to say.
        options = {
            option: self._value(value)
            for option, value in node.kwargs.items()
            if option not in _DECIDED_BY_THE_RUN and value is not None
        }
        module = _module_of(node, self.names.prefix)
        self.values[node] = self._add(
            Node(name=node.name, operator=name, arguments=tuple(arguments), options=options, module=module)
        )

    def _weight_norm(self, node: fx.Node) -> Reference:
        """`direction * magnitude / |direction|` from operators that check their shapes, as the fused one does not."""
        direction, magnitude = self._value(node.args[0]), self._value(node.args[1])
        tensor: torch.Tensor = node.args[0].meta["val"]  # type: ignore[union-attr]
        kept = node.args[2] if len(node.args) > 2 else 0
        dimensions = tuple(d for d in range(tensor.dim()) if kept == -1 or d != kept % tensor.dim())  # type: ignore[operator]
        module = _module_of(node, self.names.prefix)

        def call(operator_name: str, *arguments: Value) -> Reference:
            return self._add(
                Node(name=node.name, operator=operator_name, arguments=arguments, options={}, module=module)
            )

        length = call("aten.linalg_vector_norm.default", direction, 2, dimensions, True)
        return call("aten.mul.Tensor", direction, call("aten.div.Tensor", magnitude, length))

    def _add(self, node: Node) -> Reference:
        name, number = node.name, 1
        while name in self.taken_names:
            name, number = f"{node.name}_{number}", number + 1
        self.taken_names.add(name)
        self.nodes.append(replace(node, name=name))
        return Reference("node", name)

    def _value(self, argument: Any) -> Value:
        if isinstance(argument, fx.Node):
            value: Value = self.values[argument]
            return value
        if isinstance(argument, list | tuple):
            return tuple(self._value(item) for item in argument)
        if argument is None or isinstance(argument, bool | int | float | str):
            return argument
        if isinstance(argument, torch.dtype):
            return Dtype(str(argument).removeprefix("torch."))
        if isinstance(argument, torch.device):
            return RunDevice()
        if isinstance(argument, torch.memory_format):
            return MemoryFormat(_MEMORY_FORMATS[argument])
        raise ExportError(f"{type(argument).__name__} {argument} cannot travel as an argument")


def _batch_symbol(node: fx.Node) -> sympy.Symbol:
    rows = node.meta["val"].shape[0]
    if not isinstance(rows, torch.SymInt):
        raise ExportError(
            "the number of rows became a constant; write x.shape[0] or -1 where the module needs it"
        )
    symbol: sympy.Symbol = rows.node.expr
    return symbol


def _hands_on(family: str, arguments: Sequence[Value]) -> bool:
    """Whether a call gives back its first argument as it is."""
    if family in _DROPOUTS:
        return arguments[2] is False
    if family == "slice":
        return len(arguments) == 4 and arguments[2] in (0, None) and arguments[3] in (_TO_THE_END, None)
    return family == "alias"


def _needed(nodes: Sequence[Node], scores: Reference) -> Iterator[Node]:
    """Nodes that the scores depend on, or that write to something."""
    needed = {scores.name}
    kept = []
    for node in reversed(nodes):
        if node.name in needed or written_arguments(node, operators()[node.operator]):
            kept.append(node)
            for value in (*node.arguments, *node.options.values()):
                needed.update(
                    reference.name for reference in references_in(value) if reference.kind == "node"
                )
    return reversed(kept)


def _module_of(node: fx.Node, prefix: str) -> str:
    """Path of the user's module whose code made the call; empty where torch does not know."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    return (
        path.removeprefix(prefix) if path.startswith(prefix) and re.fullmatch(r"[\w.-]{1,256}", path) else ""
    )
