"""A graph as its JSON: the inverse of `gradsight.graph.parse_graph`."""

import json
import math
from collections.abc import Sequence
from typing import Any

from gradsight.graph import (
    FORMAT,
    VERSION,
    Dtype,
    Graph,
    MemoryFormat,
    Node,
    Procedure,
    Reference,
    RunDevice,
    Size,
    Value,
)


def write_graph(graph: Graph) -> bytes:
    """UTF-8, one line per node. The same graph gives the same bytes."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "torch": graph.torch_version,
        "operators": dict(graph.operators),
        "inputs": [
            {"name": i.name, "dtype": i.dtype, "shape": ["batch", *i.row_shape]} for i in graph.inputs
        ],
        "parameters": [
            {
                "name": p.name,
                "dtype": p.dtype,
                "shape": list(p.shape),
                "trainable": p.trainable,
                "tied_to": p.tied_to,
            }
            for p in graph.parameters
        ],
        "buffers": [{"name": b.name, "dtype": b.dtype, "shape": list(b.shape)} for b in graph.buffers],
        "kinds": dict(graph.kinds),
        "scores": {
            "name": graph.scores.name,
            "dtype": graph.scores.dtype,
            "shape": ["batch", *graph.scores.row_shape],
        },
    }
    parts = [f"{_json(name)}: {_lines(value)}" for name, value in document.items()]
    parts.append(f'"training": {_procedure(graph.training)}')
    parts.append(f'"evaluation": {_procedure(graph.evaluation)}')
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


def _procedure(procedure: Procedure) -> str:
    nodes = _lines([_node(node) for node in procedure.nodes])
    return f'{{"nodes": {nodes}, "scores": {_json(_value(procedure.scores))}}}'


def _node(node: Node) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": node.name,
        "operator": node.operator,
        "arguments": [_value(value) for value in node.arguments],
    }
    if node.options:
        document["options"] = {name: _value(value) for name, value in node.options.items()}
    if node.module:
        document["module"] = node.module
    return document


def _value(value: Value) -> Any:
    match value:
        case Reference(kind, name, item):
            return {kind: name} if item is None else {kind: name, "item": item}
        case Size():
            return {"size": _size(value)}
        case Dtype(name):
            return {"dtype": name}
        case MemoryFormat(name):
            return {"memory_format": name}
        case RunDevice():
            return {"device": "run"}
        case tuple():
            return [_value(item) for item in value]
        case float() if not math.isfinite(value):
            return {"float": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}
        case _:
            return value


def _size(size: Size | int) -> Any:
    if isinstance(size, int):
        return size
    return "batch" if size.operator == "batch" else [size.operator, *(_size(part) for part in size.operands)]


def _lines(value: Any) -> str:
    """A list with an item a line, an object with a member a line, anything else on one."""
    if isinstance(value, dict) and value:
        return "{\n" + ",\n".join(f"  {_json(name)}: {_json(item)}" for name, item in value.items()) + "\n}"
    if isinstance(value, Sequence) and value and not isinstance(value, str):
        return "[\n" + ",\n".join(f"  {_json(item)}" for item in value) + "\n]"
    return _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
