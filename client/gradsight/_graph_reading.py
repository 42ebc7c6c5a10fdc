"""A graph from its JSON: form, names, limits, references. `_graph_values.py` reads what nodes are called with."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from gradsight._graph_operators import Operator, nearest_operator, operators
from gradsight._graph_values import Scope, read_arguments, read_reference
from gradsight.graph import (
    DTYPES,
    FORMAT,
    INPUT_DTYPES,
    MOST_DIMENSIONS,
    MOST_ELEMENTS,
    MOST_GRAPH_BYTES,
    MOST_INPUTS,
    MOST_NAME_CHARACTERS,
    MOST_NODES,
    MOST_TENSORS,
    VERSION,
    Buffer,
    Graph,
    GraphError,
    Input,
    Node,
    Parameter,
    Procedure,
    Scores,
    element_count,
)

_NAME = re.compile(r"[^\W\d]\w*")
_PATH = re.compile(r"[\w-]+(?:\.[\w-]+)*")
_VERSION_TEXT = re.compile(r"[0-9]+\.[0-9]+[0-9A-Za-z.+-]{0,58}")
_MOST_PARTS = 500_000
"""Lists and objects; 20,000 nodes of ten arguments have less than half as many."""
_FLOATING = ("float16", "bfloat16", "float32", "float64")


def read_graph(data: bytes) -> Graph:
    """Every part of a graph, each checked by itself and its references by the parts before it. Raises GraphError."""
    document = _members(
        _load(data),
        "",
        "format version torch operators inputs parameters buffers kinds scores training evaluation",
    )
    if document["format"] != FORMAT or type(document["version"]) is not int or document["version"] != VERSION:
        raise GraphError(
            "version",
            f"got {_shown(document['format'])} version {_shown(document['version'])}, "
            f"allowed {FORMAT!r} version {VERSION}; export with a gradsight of this version",
        )
    torch_version = document["torch"]
    if not isinstance(torch_version, str) or not _VERSION_TEXT.fullmatch(torch_version):
        raise GraphError("torch", f"got {_shown(torch_version)}, allowed a version such as '2.13.0'")
    used = _read_operators(document["operators"])
    inputs = tuple(_read_inputs(document["inputs"]))
    parameters = tuple(_read_parameters(document["parameters"]))
    buffers = tuple(_read_buffers(document["buffers"]))
    _check_tensors(parameters, buffers)
    kinds = _read_kinds(document["kinds"], parameters, buffers)
    scores = _read_scores(document["scores"])
    scope = Scope(
        inputs=frozenset(entry.name for entry in inputs),
        parameters=frozenset(entry.name for entry in parameters),
        buffers=frozenset(entry.name for entry in buffers),
        operators=used,
    )
    return Graph(
        torch_version=torch_version,
        operators={name: operator.schema for name, operator in used.items()},
        inputs=inputs,
        parameters=parameters,
        buffers=buffers,
        kinds=kinds,
        scores=scores,
        training=_read_procedure(document["training"], "training", scope),
        evaluation=_read_procedure(document["evaluation"], "evaluation", scope),
    )


def _load(data: bytes) -> Any:
    if len(data) > MOST_GRAPH_BYTES:
        raise GraphError("", f"graph: {len(data)} bytes, limit {MOST_GRAPH_BYTES}")
    # Counted before they are made: an empty list costs thirty times its two characters.
    parts = data.count(b"[") + data.count(b"{")
    if parts > _MOST_PARTS:
        raise GraphError("", f"graph: {parts} lists and objects, limit {_MOST_PARTS}")
    try:
        return json.loads(data, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
    except GraphError:
        raise
    except RecursionError:
        raise GraphError(
            "", "graph: nested too deeply; lists of lists are the most that an argument needs"
        ) from None
    except ValueError as error:
        raise GraphError("", f"graph: not JSON in UTF-8 ({str(error)[:200]})") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        seen: set[str] = set()
        repeated = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise GraphError("", f"graph: {_shown(repeated)} stands twice in one object")
    return document


def _refuse_constant(text: str) -> None:
    raise GraphError(
        "", f'graph: {text} is not JSON; write {{"float": "inf"}}, {{"float": "-inf"}}, {{"float": "nan"}}'
    )


def _read_operators(value: Any) -> Mapping[str, Operator]:
    if not isinstance(value, dict):
        raise GraphError("operators", f"got {_shown(value)}, allowed an object of schemas by name")
    used = {}
    for name, schema in value.items():
        operator = operators().get(name)
        if operator is None:
            near = nearest_operator(name)
            hint = f"; did you mean {near!r}?" if near else "; docs/programs.md lists what is allowed"
            raise GraphError("operators", f"{_shown(name)} is not supported{hint}")
        if schema != operator.schema:
            raise GraphError(
                "operators",
                f"{name}: schema {_shown(schema)}, known {operator.schema!r}; "
                "export with a torch whose operator is the same",
            )
        used[name] = operator
    return used


def _read_inputs(value: Any) -> Iterator[Input]:
    entries = _items(value, "inputs", MOST_INPUTS)
    if not entries:
        raise GraphError(
            "inputs", "got none, allowed at least one: a module without inputs learns nothing from rows"
        )
    names: set[str] = set()
    for path, entry in entries:
        _members(entry, path, "name dtype shape")
        name = _new_name(entry["name"], f"{path}.name", names, _NAME)
        row_shape = _row_shape(entry["shape"], f"{path}.shape")
        yield Input(
            name=name, dtype=_dtype(entry["dtype"], f"{path}.dtype", INPUT_DTYPES), row_shape=row_shape
        )


def _read_scores(value: Any) -> Scores:
    _members(value, "scores", "name dtype shape")
    return Scores(
        name=_new_name(value["name"], "scores.name", set(), _PATH),
        dtype=_dtype(value["dtype"], "scores.dtype", _FLOATING),
        row_shape=_row_shape(value["shape"], "scores.shape"),
    )


def _read_parameters(value: Any) -> Iterator[Parameter]:
    known: dict[str, Parameter] = {}
    names: set[str] = set()
    for path, entry in _items(value, "parameters", MOST_TENSORS):
        _members(entry, path, "name dtype shape trainable tied_to")
        parameter = Parameter(
            name=_new_name(entry["name"], f"{path}.name", names, _PATH),
            dtype=_dtype(entry["dtype"], f"{path}.dtype", DTYPES),
            shape=_shape(entry["shape"], f"{path}.shape"),
            trainable=_boolean(entry["trainable"], f"{path}.trainable"),
            tied_to=entry["tied_to"],
        )
        if parameter.trainable and parameter.dtype != "float32":
            raise GraphError(
                f"{path}.dtype",
                f"parameter {parameter.name!r}: got {parameter.dtype}, trainable ones are float32; "
                "call module.float() before the export (compute.precision makes the arithmetic faster)",
            )
        _check_tie(parameter, path, known)
        known[parameter.name] = parameter
        yield parameter


def _check_tie(parameter: Parameter, path: str, known: Mapping[str, Parameter]) -> None:
    if parameter.tied_to == "":
        return
    first = known.get(parameter.tied_to) if isinstance(parameter.tied_to, str) else None
    if first is None or first.tied_to:
        raise GraphError(
            f"{path}.tied_to", f"got {_shown(parameter.tied_to)}, allowed the name of an earlier, untied one"
        )
    if (first.dtype, first.shape, first.trainable) != (parameter.dtype, parameter.shape, parameter.trainable):
        raise GraphError(
            f"{path}.tied_to", f"{parameter.name!r} and {first.name!r} differ in dtype, shape or trainable"
        )


def _read_buffers(value: Any) -> Iterator[Buffer]:
    names: set[str] = set()
    for path, entry in _items(value, "buffers", MOST_TENSORS):
        _members(entry, path, "name dtype shape")
        yield Buffer(
            name=_new_name(entry["name"], f"{path}.name", names, _PATH),
            dtype=_dtype(entry["dtype"], f"{path}.dtype", DTYPES),
            shape=_shape(entry["shape"], f"{path}.shape"),
        )


def _check_tensors(parameters: tuple[Parameter, ...], buffers: tuple[Buffer, ...]) -> None:
    """Names as paths of one tree of modules, numbers within the limit."""
    if len(parameters) + len(buffers) > MOST_TENSORS:
        raise GraphError(
            "parameters", f"{len(parameters)} and {len(buffers)} buffers, limit {MOST_TENSORS} together"
        )
    leaves = {*(p.name for p in parameters), *(b.name for b in buffers)}
    if len(leaves) < len(parameters) + len(buffers):
        repeated = sorted({entry.name for entry in parameters} & {entry.name for entry in buffers})[0]
        raise GraphError("buffers", f"{repeated!r} is the name of a parameter, too")
    for name in leaves:
        for end in (found.start() for found in re.finditer(r"\.", name)):
            if name[:end] in leaves:
                raise GraphError("parameters", f"{name!r} lies within {name[:end]!r}, which is a tensor")
    total = 0
    for path, entry in (("parameters", p) for p in parameters if not p.tied_to):
        total += _checked_count(path, entry.name, entry.element_count, total)
    for buffer in buffers:
        total += _checked_count("buffers", buffer.name, buffer.element_count, total)


def _checked_count(path: str, name: str, count: int, before: int) -> int:
    if before + count > MOST_ELEMENTS:
        what = f"{name!r} has {_large(count)} numbers" + (
            f" and those before it {_large(before)}" if before else ""
        )
        raise GraphError(path, f"{what}, limit {_large(MOST_ELEMENTS)} together")
    return count


def _read_kinds(
    value: Any, parameters: tuple[Parameter, ...], buffers: tuple[Buffer, ...]
) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise GraphError("kinds", f"got {_shown(value)}, allowed an object of class names by path")
    names = [*(p.name for p in parameters), *(b.name for b in buffers)]
    owners = {name.rpartition(".")[0] for name in names}
    for path, kind in value.items():
        if path not in owners:
            raise GraphError("kinds", f"{_shown(path)} owns no parameter and no buffer")
        _new_name(kind, f"kinds.{path}", set(), _NAME)
    return value


def _read_procedure(value: Any, path: str, scope: Scope) -> Procedure:
    _members(value, path, "nodes scores")
    entries = _items(value["nodes"], f"{path}.nodes", MOST_NODES)
    names: set[str] = set()
    for node_path, entry in entries:
        _members(entry, node_path, "name operator arguments", "options module")
        _new_name(entry["name"], f"{node_path}.name", names, _NAME)
    scope = scope.of_procedure([entry for _, entry in entries], path)
    nodes = []
    for node_path, entry in entries:
        nodes.append(_read_node(entry, node_path, scope))
        scope.defined.add(entry["name"])
    scores = read_reference(value["scores"], f"{path}.scores", scope)
    return Procedure(nodes=tuple(nodes), scores=scores)


def _read_node(entry: dict[str, Any], path: str, scope: Scope) -> Node:
    module = entry.get("module", "")
    if module != "" and (not isinstance(module, str) or not _is_name(module, _PATH)):
        raise GraphError(f"{path}.module", f"got {_shown(module)}, allowed the path of a module")
    operator = scope.operators.get(entry["operator"]) if isinstance(entry["operator"], str) else None
    if operator is None:
        raise GraphError(
            f"{path}.operator", f"got {_shown(entry['operator'])}, allowed one of the graph's `operators`"
        )
    arguments, options = read_arguments(
        entry["arguments"], entry.get("options", {}), operator, path, scope, entry["name"]
    )
    return Node(
        name=entry["name"], operator=operator.name, arguments=arguments, options=options, module=module
    )


def _members(value: Any, path: str, required: str, optional: str = "") -> dict[str, Any]:
    """An object with exactly these members."""
    where = path or "graph"
    if not isinstance(value, dict):
        raise GraphError(path, f"{'' if path else 'graph: '}got {_shown(value)}, allowed an object")
    for name in required.split():
        if name not in value:
            raise GraphError(path, f"{where.rpartition('.')[2]} has no {name!r}")
    for name in value:
        if name not in required.split() and name not in optional.split():
            allowed = ", ".join([*required.split(), *optional.split()])
            raise GraphError(path, f"{_shown(name)} is not known here, allowed {allowed}")
    return value


def _items(value: Any, path: str, most: int) -> list[tuple[str, Any]]:
    """Items of a list with their paths."""
    if not isinstance(value, list):
        raise GraphError(path, f"got {_shown(value)}, allowed a list")
    if len(value) > most:
        raise GraphError(path, f"{len(value)} {path.rpartition('.')[2]}, limit {most}")
    return [(f"{path}[{index}]", item) for index, item in enumerate(value)]


def _new_name(value: Any, path: str, known: set[str], form: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not _is_name(value, form):
        what = "letters, digits and _" + (
            ", - within parts between dots" if form is _PATH else ", no digit first"
        )
        raise GraphError(path, f"got {_shown(value)}, allowed 1 to {MOST_NAME_CHARACTERS} of {what}")
    if value in known:
        raise GraphError(path, f"{value!r} stands twice")
    known.add(value)
    return value


def _is_name(value: str, form: re.Pattern[str]) -> bool:
    return len(value) <= MOST_NAME_CHARACTERS and form.fullmatch(value) is not None and value.isprintable()


def _dtype(value: Any, path: str, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise GraphError(path, f"got {_shown(value)}, allowed {', '.join(allowed)}")
    return value


def _boolean(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise GraphError(path, f"got {_shown(value)}, allowed true and false")
    return value


def _shape(value: Any, path: str) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MOST_DIMENSIONS:
        raise GraphError(path, f"got {_shown(value)}, allowed a list of at most {MOST_DIMENSIONS} sizes")
    for size in value:
        if type(size) is not int or not 0 <= size < 1 << 63:
            raise GraphError(path, f"got {_shown(size)}, allowed sizes of 0 to 2^63 - 1")
    return tuple(value)


def _row_shape(value: Any, path: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or value[0] != "batch":
        raise GraphError(
            path, f"got {_shown(value)}, allowed a list that begins with 'batch': rows come first"
        )
    shape = _shape(value[1:], path)
    count = element_count(shape)
    if count > MOST_ELEMENTS:
        raise GraphError(path, f"a row of {_large(count)} numbers, limit {_large(MOST_ELEMENTS)}")
    return shape


def _large(count: int) -> str:
    return f"{count:,}" if count < 10**15 else f"{float(min(count, 10**300)):.1e}"


def _shown(value: object) -> str:
    if isinstance(value, list | dict) and len(value) > 8:
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
