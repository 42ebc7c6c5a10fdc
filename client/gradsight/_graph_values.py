"""What the nodes of a graph are called with: typed values, checked against the operator's schema."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from gradsight._graph_operators import Argument, Operator
from gradsight.graph import (
    DTYPES,
    MOST_LIST_ITEMS,
    Dtype,
    GraphError,
    MemoryFormat,
    Reference,
    RunDevice,
    Size,
    Value,
)

MEMORY_FORMATS = ("contiguous", "channels_last", "channels_last_3d", "preserve")
WORDS = {
    "approximate": ("none", "tanh"),
    "indexing": ("ij", "xy"),
    "mode": ("constant", "reflect", "replicate", "circular"),
    "padding": ("same", "valid"),
    "reduce": ("sum", "prod", "mean", "amax", "amin", "add", "multiply"),
    "rounding_mode": ("trunc", "floor"),
    "side": ("left", "right"),
}
"""Texts that operators know, by the name of their argument. `equation`, of einsum, has a form of its own."""

_EQUATION = re.compile(r"[A-Za-z., ]{0,128}(?:->[A-Za-z., ]{0,64})?")
_SIZE_OPERATORS = set(get_args(Size.__dataclass_fields__["operator"].type)) - {"batch"}
_MOST_SIZE_OPERANDS = 64
_MOST_SIZE_DEPTH = 16


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What a value may refer to."""

    inputs: frozenset[str]
    parameters: frozenset[str]
    buffers: frozenset[str]
    operators: Mapping[str, Operator]
    entries: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """Every node of the procedure as JSON, by name."""
    path: str = ""
    defined: set[str] = field(default_factory=set)
    """Nodes before the one that is read."""

    def of_procedure(self, entries: Sequence[dict[str, Any]], path: str) -> "Scope":
        """The same for one procedure, before its first node."""
        return replace(self, entries={entry["name"]: entry for entry in entries}, path=path, defined=set())


def read_arguments(
    arguments: Any, options: Any, operator: Operator, path: str, scope: Scope, node: str
) -> tuple[tuple[Value, ...], dict[str, Value]]:
    """What a node is called with, in order and by keyword: each of its type, none missing, none twice."""
    if not isinstance(arguments, list) or not isinstance(options, dict):
        raise GraphError(path, "allowed `arguments`, a list, and `options`, an object")
    positional = [argument for argument in operator.arguments if not argument.by_keyword]
    if len(arguments) > len(positional):
        raise GraphError(
            f"{path}.arguments",
            f"node {node!r}: got {len(arguments)}, {operator.name} takes at most {len(positional)}",
        )
    read = tuple(
        _read_value(value, argument, f"{path}.arguments[{index}]", scope, node)
        for index, (value, argument) in enumerate(zip(arguments, positional, strict=False))
    )
    given = {argument.name for argument in positional[: len(arguments)]}
    by_name = {argument.name: argument for argument in operator.arguments if argument.name not in given}
    named = {}
    for name, value in options.items():
        if name not in by_name:
            raise GraphError(
                f"{path}.options",
                f"node {node!r}: {name[:80]!r} is not an argument of {operator.name}, or is given twice",
            )
        named[name] = _read_value(value, by_name[name], f"{path}.options.{name}", scope, node)
    missing = [
        a.name for a in operator.arguments if a.required and a.name not in given and a.name not in named
    ]
    if missing:
        raise GraphError(path, f"node {node!r}: {operator.name} needs {', '.join(missing)}")
    return read, named


def read_reference(value: Any, path: str, scope: Scope) -> Reference:
    """A tensor that exists before the node that is read."""
    kinds = [
        kind for kind in ("input", "parameter", "buffer", "node") if isinstance(value, dict) and kind in value
    ]
    if len(kinds) != 1 or set(value) - {*kinds, "item"} or not isinstance(value[kinds[0]], str):
        raise _wrong(value, path, 'a tensor: {"node": …}, {"input": …}, {"parameter": …} or {"buffer": …}')
    kind, name = kinds[0], value[kinds[0]]
    known = {
        "input": scope.inputs,
        "parameter": scope.parameters,
        "buffer": scope.buffers,
        "node": scope.entries,
    }[kind]
    if name not in known:
        raise GraphError(path, f"{kind} {name[:80]!r} is not defined")
    if kind != "node":
        if "item" in value:
            raise GraphError(path, f"{kind} {name!r} is one tensor, allowed no `item`")
        return Reference(kind, name)  # type: ignore[arg-type]
    if name not in scope.defined:
        raise GraphError(path, _order_problem(name, scope))
    return Reference(
        "node", name, _read_item(value.get("item"), path, scope.operators[scope.entries[name]["operator"]])
    )


def _read_item(item: Any, path: str, operator: Operator) -> int | None:
    if operator.single:
        if item is not None:
            raise GraphError(f"{path}.item", f"{operator.name} gives one tensor, allowed no `item`")
        return None
    count = operator.result_count if operator.result_count is not None else MOST_LIST_ITEMS
    if type(item) is not int or not 0 <= item < count:
        raise GraphError(
            f"{path}.item", f"got {str(item)[:20]}, {operator.name} gives items 0 to {count - 1}"
        )
    return item


def _order_problem(name: str, scope: Scope) -> str:
    """Why a node cannot be referred to yet: a cycle, or nodes in the wrong order. Without recursion."""
    reader = next(entry for entry in scope.entries if entry not in scope.defined)
    before: dict[str, str] = {name: reader}
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current == reader:
            circle = [reader]
            while (step := before[circle[-1]]) != reader:
                circle.append(step)
            shown = [reader, *reversed(circle)]
            return "cycle " + " -> ".join(shown if len(shown) <= 10 else [*shown[:5], "…", *shown[-4:]])
        for needed in _nodes_within(scope.entries[current]):
            if needed in scope.entries and needed not in before:
                before[needed] = current
                waiting.append(needed)
    return f"node {name!r} stands later in `{scope.path}.nodes`; nodes stand in order of execution"


def _nodes_within(entry: dict[str, Any]) -> list[str]:
    found, waiting = [], [entry.get("arguments"), entry.get("options")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            waiting.extend(value.values())
            if isinstance(value.get("node"), str):
                found.append(value["node"])
    return found


def _read_value(value: Any, argument: Argument, path: str, scope: Scope, node: str) -> Value:
    if value is None and argument.nullable:
        return None
    if not argument.listed or (argument.broadcast and not isinstance(value, list)):
        return _read_single(value, argument, path, scope, node)
    if not isinstance(value, list) or len(value) > MOST_LIST_ITEMS:
        raise _wrong(value, path, f"{_described(argument, node)} of at most {MOST_LIST_ITEMS} items")
    return tuple(
        None
        if item is None and argument.items_nullable
        else _read_single(item, argument, f"{path}[{index}]", scope, node)
        for index, item in enumerate(value)
    )


def _read_single(value: Any, argument: Argument, path: str, scope: Scope, node: str) -> Value:
    """One value of the schema's base type."""
    base = argument.base
    if base == "Tensor":
        # torch takes the second operand of arithmetic as a number, too.
        number = _read_number(value, path, whole=False) if argument.name == "other" else None
        return read_reference(value, path, scope) if number is None else number
    if base == "bool" and isinstance(value, bool):
        return value
    if base == "Scalar" and isinstance(value, bool):
        return value
    if base in ("int", "float", "Scalar") and not isinstance(value, bool):
        number = _read_number(value, path, whole=base == "int")
        if number is not None:
            return number
    if base == "str" and isinstance(value, str) and _is_known_word(argument.name, value):
        return value
    if isinstance(value, dict) and len(value) == 1:
        if base == "ScalarType" and value.get("dtype") in DTYPES:
            return Dtype(value["dtype"])
        if base == "Device" and value.get("device") == "run":
            return RunDevice()
        if base == "MemoryFormat" and value.get("memory_format") in MEMORY_FORMATS:
            return MemoryFormat(value["memory_format"])
    raise _wrong(value, path, _described(argument, node))


def _is_known_word(argument: str, value: str) -> bool:
    return value in WORDS[argument] if argument in WORDS else _EQUATION.fullmatch(value) is not None


def _read_number(value: Any, path: str, *, whole: bool) -> int | float | Size | None:
    """None for what is no number of this kind."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not -(1 << 63) <= value < 1 << 63:
            raise GraphError(path, "got a number beyond 64 bits")
        return value
    if isinstance(value, float) and math.isfinite(value):
        return None if whole else value
    if not isinstance(value, dict) or len(value) != 1:
        return None
    if value.get("float") in ("inf", "-inf", "nan") and not whole:
        return float(value["float"])
    return _read_size(value["size"], path) if "size" in value else None


def _read_size(value: Any, path: str) -> Size:
    """`"batch"`, or `[operator, operand, …]` whose operands are numbers, `"batch"` or such lists."""
    remaining = [_MOST_SIZE_OPERANDS]
    size = _read_operand(value, path, remaining, 0)
    if isinstance(size, int):
        raise GraphError(path, 'a size that is a plain number stands without {"size": …}')
    return size


def _read_operand(value: Any, path: str, remaining: list[int], depth: int) -> Size | int:
    remaining[0] -= 1
    if remaining[0] < 0 or depth > _MOST_SIZE_DEPTH:
        raise GraphError(path, f"size of more than {_MOST_SIZE_OPERANDS} parts, or {_MOST_SIZE_DEPTH} deep")
    if value == "batch":
        return Size("batch")
    if type(value) is int and -(1 << 63) <= value < 1 << 63:
        return value
    if (
        not isinstance(value, list)
        or not value
        or not isinstance(value[0], str)
        or value[0] not in _SIZE_OPERATORS
    ):
        raise _wrong(
            value,
            path,
            f"'batch', a number, or a list of one of {' '.join(sorted(_SIZE_OPERATORS))} and operands",
        )
    operator, *operands = value
    if len(operands) < 2 or (operator in ("//", "%", "/") and len(operands) > 2):
        raise GraphError(path, f"{operator} with {len(operands)} operands, allowed two")
    if operator in ("//", "%", "/") and operands[1] == 0:
        raise GraphError(path, "division by zero")
    return Size(operator, tuple(_read_operand(operand, path, remaining, depth + 1) for operand in operands))


def _described(argument: Argument, node: str) -> str:
    what = {
        "ScalarType": "a dtype",
        "Device": '{"device": "run"}',
        "MemoryFormat": "a memory format",
        "Tensor": "a tensor",
    }
    base = what.get(argument.base, argument.base)
    if argument.base in ("Generator", "Layout"):
        base = "null"
    if argument.base == "str":
        base = ", ".join(WORDS[argument.name]) if argument.name in WORDS else "an equation of letters"
    listed = f"a list of {base}" if argument.listed else base
    return f"{listed} as {argument.name!r} of node {node!r}"


def _wrong(value: Any, path: str, allowed: str) -> GraphError:
    if isinstance(value, list):
        shown = f"a list of {len(value)}"
    elif isinstance(value, dict) and not (
        len(value) == 1 and all(isinstance(i, str) for i in value.values())
    ):
        shown = f"an object of {len(value)}"
    else:
        shown = repr(value)[:80]
    return GraphError(path, f"got {shown}, allowed {allowed}")
