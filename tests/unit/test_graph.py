"""Graphs that lie, overflow or attack are refused where they do so, and nothing but GraphError comes out."""

# ruff: noqa: E501 (a table of one line each reads better)

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradsight._graph_operators import nearest_operator, operators
from gradsight._graph_writing import write_graph
from gradsight.graph import MOST_GRAPH_BYTES, MOST_NODES, GraphError, Reference, Size, parse_graph

LINEAR, RELU, ADD = "aten.linear.default", "aten.relu.default", "aten.add.Tensor"
Document = dict[str, Any]
Change = Callable[[Document], Any]


def node(name: str, operator: str, *arguments: Any, **more: Any) -> Document:
    return {"name": name, "operator": operator, "arguments": list(arguments), **more}


def sound() -> Document:
    """Two layers, a buffer and a tied weight."""
    nodes = [
        node(
            "hidden", LINEAR, {"input": "x"}, {"parameter": "a.weight"}, {"parameter": "a.bias"}, module="a"
        ),
        node("bent", RELU, {"node": "hidden"}),
        node("moved", ADD, {"node": "bent"}, {"buffer": "shift"}, options={"alpha": 2}),
        node("out", LINEAR, {"node": "moved"}, {"parameter": "b.weight"}),
    ]
    tensor = {"dtype": "float32", "shape": [4, 4], "trainable": True, "tied_to": ""}
    return {
        "format": "gradsight.graph",
        "version": 1,
        "torch": "2.13.0",
        "operators": {name: operators()[name].schema for name in (LINEAR, RELU, ADD)},
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}],
        "parameters": [
            {"name": "a.weight", **tensor},
            {"name": "a.bias", **tensor, "shape": [4]},
            {"name": "b.weight", **tensor},
            {"name": "c.weight", **tensor, "tied_to": "a.weight"},
        ],
        "buffers": [{"name": "shift", "dtype": "float32", "shape": [4]}],
        "kinds": {"a": "Linear", "b": "Linear"},
        "scores": {"name": "scores", "dtype": "float32", "shape": ["batch", 4]},
        "training": {"nodes": nodes, "scores": {"node": "out"}},
        "evaluation": {"nodes": copy.deepcopy(nodes), "scores": {"node": "out"}},
    }


def parse(document: Document) -> Any:
    return parse_graph(json.dumps(document).encode())


def use(document: Document, operator: str, *arguments: Any, **more: Any) -> None:
    """One more node between the last one and the scores of training."""
    document["operators"][operator] = operators()[operator].schema
    document["training"]["nodes"].append(node("more", operator, *arguments, **more))
    document["training"]["scores"] = {"node": "more"}


def test_a_sound_graph_says_what_it_needs() -> None:
    graph = parse(sound())
    assert [(entry.name, entry.dtype, entry.row_shape) for entry in graph.inputs] == [("x", "float32", (4,))]
    assert graph.scores.row_shape == (4,)
    assert graph.parameter_count == 36
    assert graph.parameters[3].tied_to == "a.weight"
    assert graph.training.nodes[3].arguments == (
        Reference("node", "moved"),
        Reference("parameter", "b.weight"),
    )
    assert graph.kinds == {"a": "Linear", "b": "Linear"}
    assert parse_graph(write_graph(graph)) == graph


def test_sizes_dtypes_devices_and_numbers_that_json_has_not_travel() -> None:
    document = sound()
    use(
        document,
        "aten.full.default",
        [{"size": ["+", ["*", "batch", 2], -1]}, 4],
        {"float": "-inf"},
        options={"dtype": {"dtype": "float32"}, "device": {"device": "run"}},
    )
    document["training"]["scores"] = {"node": "out"}
    graph = parse(document)
    size = graph.training.nodes[4].arguments[0]
    assert size == (Size("+", (Size("*", (Size("batch"), 2)), -1)), 4)
    assert graph.training.nodes[4].arguments[1] == float("-inf")
    assert parse_graph(write_graph(graph)) == graph


def place(*path: str | int) -> Callable[[Any], Change]:
    """Sets what stands at a path."""

    def to(value: Any) -> Change:
        def change(document: Document) -> None:
            at: Any = document
            for step in path[:-1]:
                at = at[step]
            at[path[-1]] = value

        return change

    return to


TRAINING = ("training", "nodes")
ARGUMENT = (*TRAINING, 1, "arguments")
BAD: dict[str, tuple[Change, str, str]] = {
    "no_object": (lambda d: d.clear(), "", "graph has no 'format'"),
    "another_version": (place("version")(2), "version", "got 'gradsight.graph' version 2, allowed"),
    "another_format": (place("format")("onnx"), "version", "got 'onnx'"),
    "torch_text": (place("torch")("2.13; rm -rf"), "torch", "allowed a version"),
    "unknown_member": (place("code")("print()"), "", "'code' is not known here"),
    "unknown_operator": (place("operators", "aten.relu7.default")("x"), "operators", "did you mean 'aten.relu.default'"),
    "dangerous_view": (place("operators", "aten.as_strided.default")("x"), "operators", "is not supported"),
    "uninitialised": (place("operators", "aten.empty.memory_format")("x"), "operators", "is not supported"),
    "writes_to_given": (place("operators", "aten.add.out")("x"), "operators", "is not supported"),
    "sets_storage": (place("operators", "aten.set_.source_Tensor")("x"), "operators", "is not supported"),
    "file": (place("operators", "aten.from_file.default")("x"), "operators", "is not supported"),
    "custom_operator": (place("operators", "mylib.op.default")("x"), "operators", "'mylib.op.default' is not supported"),
    "python": (place("operators", "os.system")("x"), "operators", "'os.system' is not supported"),
    "another_schema": (place("operators", LINEAR)("aten::linear(Tensor x) -> Tensor"), "operators", "aten.linear.default: schema"),
    "operator_not_declared": (place(*TRAINING, 0, "operator")("aten.mm.default"), "training.nodes[0].operator", "allowed one of"),
    "operator_a_list": (place(*TRAINING, 0, "operator")([]), "training.nodes[0].operator", "allowed one of"),
    "forbidden_attribute": (place(*TRAINING, 1, "options")({"fn": "lambda: 0"}), "training.nodes[1].options", "'fn' is not an argument of aten.relu"),
    "node_with_code": (place(*TRAINING, 1, "code")("x"), "training.nodes[1]", "'code' is not known here"),
    "given_twice": (place(*TRAINING, 0, "options")({"input": {"input": "x"}}), "training.nodes[0].options", "given twice"),
    "too_many_arguments": (place(*ARGUMENT)([{"node": "hidden"}] * 2), "training.nodes[1].arguments", "got 2, aten.relu.default takes at most 1"),
    "missing_argument": (place(*ARGUMENT)([]), "training.nodes[1]", "aten.relu.default needs self"),
    "dangling": (place(*ARGUMENT, 0)({"node": "nowhere"}), "training.nodes[1].arguments[0]", "node 'nowhere' is not defined"),
    "dangling_parameter": (place(*ARGUMENT, 0)({"parameter": "z"}), "training.nodes[1].arguments[0]", "parameter 'z' is not defined"),
    "cycle": (place(*ARGUMENT, 0)({"node": "out"}), "training.nodes[1].arguments[0]", "cycle bent -> out -> moved -> bent"),
    "cycle_of_one": (place(*ARGUMENT, 0)({"node": "bent"}), "training.nodes[1].arguments[0]", "cycle bent -> bent"),
    "wrong_order": (lambda d: d["training"]["nodes"].insert(0, d["training"]["nodes"].pop()), "training.nodes[0].arguments[0]", "cycle|stands later"),
    "duplicate_node": (place(*TRAINING, 1, "name")("hidden"), "training.nodes[1].name", "'hidden' stands twice"),
    "duplicate_input": (lambda d: d["inputs"].append(d["inputs"][0]), "inputs[1].name", "'x' stands twice"),
    "duplicate_parameter": (place("parameters", 1, "name")("a.weight"), "parameters[1].name", "stands twice"),
    "buffer_named_like_parameter": (place("buffers", 0, "name")("a.weight"), "buffers", "is the name of a parameter, too"),
    "tensor_within_tensor": (place("buffers", 0, "name")("a.weight.more"), "parameters", "lies within 'a.weight'"),
    "code_as_name": (place(*TRAINING, 1, "name")("x=__import__('os')"), "training.nodes[1].name", "allowed 1 to 256 of letters"),
    "path_as_name": (place("parameters", 0, "name")("../../etc"), "parameters[0].name", "allowed 1 to 256"),
    "long_name": (place(*TRAINING, 1, "name")("n" * 257), "training.nodes[1].name", "allowed 1 to 256"),
    "hidden_characters": (place("kinds", "a")("Lin\u202eear"), "kinds.a", "allowed 1 to 256"),
    "kind_of_nothing": (place("kinds", "z")("Linear"), "kinds", "'z' owns no parameter"),
    "overflow": (place("parameters", 2, "shape")([2**31, 2**31]), "parameters", "'b.weight' has 4.6e.18 numbers"),
    "too_many_numbers": (place("parameters", 2, "shape")([2_000_000_000]), "parameters", "limit 2,000,000,000 together"),
    "huge_row": (place("inputs", 0, "shape")(["batch", 2**40, 2**40]), "inputs[0].shape", "a row of 1.2e.24 numbers"),
    "negative_size": (place("parameters", 2, "shape")([-1]), "parameters[2].shape", "got -1, allowed sizes of 0 to"),
    "size_a_bool": (place("parameters", 2, "shape")([True]), "parameters[2].shape", "got True"),
    "many_dimensions": (place("parameters", 2, "shape")([1] * 17), "parameters[2].shape", "at most 16"),
    "rows_not_first": (place("inputs", 0, "shape")([4, "batch"]), "inputs[0].shape", "begins with 'batch'"),
    "unknown_dtype": (place("inputs", 0, "dtype")("object"), "inputs[0].dtype", "got 'object', allowed bool"),
    "half_trained": (place("parameters", 0, "dtype")("float16"), "parameters[0].dtype", r"call module.float\(\)"),
    "tied_to_later": (place("parameters", 0, "tied_to")("b.weight"), "parameters[0].tied_to", "an earlier, untied one"),
    "tied_unlike": (place("parameters", 3, "shape")([4]), "parameters[3].tied_to", "differ in dtype, shape or trainable"),
    "whole_scores": (place("scores", "dtype")("int64"), "scores.dtype", "allowed float16"),
    "scores_of_nothing": (place("training", "scores")({"node": "z"}), "training.scores", "not defined"),
    "item_of_one": (place(*ARGUMENT, 0)({"node": "hidden", "item": 0}), "training.nodes[1].arguments[0].item", "gives one tensor"),
    "two_kinds": (place(*ARGUMENT, 0)({"node": "hidden", "input": "x"}), "training.nodes[1].arguments[0]", "allowed a tensor"),
    "number_for_tensor": (place(*ARGUMENT, 0)(3), "training.nodes[1].arguments[0]", "got 3, allowed a tensor"),
    "text_for_number": (place(*TRAINING, 2, "options", "alpha")("2"), "training.nodes[2].options.alpha", "got '2', allowed Scalar"),
    "number_beyond": (place(*TRAINING, 2, "options", "alpha")(2**63), "training.nodes[2].options.alpha", "beyond 64 bits"),
    "divided_by_zero": (place(*TRAINING, 2, "options", "alpha")({"size": ["//", "batch", 0]}), "training.nodes[2].options.alpha", "division by zero"),
    "unknown_arithmetic": (place(*TRAINING, 2, "options", "alpha")({"size": ["**", "batch", 9]}), "training.nodes[2].options.alpha", "allowed 'batch', a number"),
    "arithmetic_as_text": (place(*TRAINING, 2, "options", "alpha")({"size": "__import__('os')"}), "training.nodes[2].options.alpha", "allowed 'batch'"),
    "a_device": (lambda d: use(d, "aten.zeros.default", [4], options={"device": {"device": "cuda:7"}}), "training.nodes[4].options.device", "device"),
    "a_generator": (lambda d: use(d, "aten.rand.default", [4], options={"pin_memory": 1}), "training.nodes[4].options.pin_memory", "allowed bool"),
    "an_unknown_word": (lambda d: use(d, "aten.gelu.default", {"node": "out"}, options={"approximate": "exec"}), "training.nodes[4].options.approximate", "allowed none, tanh"),
    "a_fraction_for_a_place": (lambda d: use(d, "aten.softmax.int", {"node": "out"}, 0.5), "training.nodes[4].arguments[1]", "got 0.5, allowed int"),
    "nothing_trainable": (lambda d: [p.update(trainable=False) for p in d["parameters"]], "parameters", "none is trainable"),
    "unreached": (place(*TRAINING, 3, "arguments", 1)({"parameter": "a.weight"}), "parameters", "do not depend on 'b.weight'"),
    "detached": (lambda d: use(d, "aten.detach.default", {"node": "out"}), "training.scores", "do not depend on any trainable"),
    "writes_to_input": (lambda d: use(d, "aten.add_.Tensor", {"input": "x"}, {"node": "out"}), "training.nodes[4]", r"writes to input 'x'; .*clone\(\)"),
    "writes_to_parameter": (lambda d: use(d, "aten.add_.Tensor", {"parameter": "a.bias"}, {"node": "out"}), "training.nodes[4]", "writes to parameter 'a.bias'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_graph_is_refused_with_the_place_and_the_reason(case: str) -> None:
    change, path, message = BAD[case]
    document = sound()
    change(document)
    with pytest.raises(GraphError, match=message) as refusal:
        parse(document)
    assert refusal.value.path == path
    assert len(str(refusal.value)) < 1000


def test_evaluation_may_not_change_a_buffer_and_training_may() -> None:
    document = sound()
    document["operators"]["aten.mul_.Tensor"] = operators()["aten.mul_.Tensor"].schema
    change = node("change", "aten.mul_.Tensor", {"buffer": "shift"}, 0.9)
    document["training"]["nodes"].append(change)
    parse(document)
    document["evaluation"]["nodes"].append(change)
    with pytest.raises(GraphError, match="writes to buffer 'shift'; evaluation must leave"):
        parse(document)


def test_statistics_of_batch_norm_count_as_written() -> None:
    document = sound()
    name = "aten.batch_norm.default"
    document["operators"][name] = operators()[name].schema
    statistics = [{"buffer": "shift"}, {"buffer": "shift"}]
    norm = node("norm", name, {"node": "out"}, None, None, *statistics, True, 0.1, 1e-5, True)
    document["training"]["nodes"].append(norm)
    parse(document)
    document["evaluation"]["nodes"].append(norm)
    with pytest.raises(GraphError, match="writes to buffer 'shift'"):
        parse(document)
    norm["arguments"][5] = False
    parse(document)


def test_gradients_are_followed_through_views_that_are_written_to() -> None:
    document = sound()
    document["parameters"][2]["trainable"] = True
    for name in ("aten.zeros_like.default", "aten.select.int", "aten.copy_.default"):
        document["operators"][name] = operators()[name].schema
    document["training"]["nodes"] += [
        node("empty", "aten.zeros_like.default", {"node": "hidden"}),
        node("column", "aten.select.int", {"node": "empty"}, 1, 0),
        node("filled", "aten.copy_.default", {"node": "column"}, {"node": "out"}),
    ]
    document["training"]["scores"] = {"node": "empty"}
    parse(document)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"[]", "got \\[\\], allowed an object"),
        (b"\x80\x04K\x01.", "not JSON"),
        (b"[" + b"[]," * 600_000 + b"[]]", "600002 lists and objects, limit 500000"),
        (b"[" * 100_000, "nested too deeply|not JSON"),
        (b'{"a":' * 100_000, "nested too deeply|not JSON"),
        (b'{"a": 1, "a": 2}', "'a' stands twice"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "not JSON"),
        (b" " * (MOST_GRAPH_BYTES + 1), f"limit {MOST_GRAPH_BYTES}"),
    ],
    ids=["empty", "list", "binary", "many parts", "deep list", "deep object", "twice", "nan", "digits", "large"],
)  # fmt: skip
def test_what_is_no_graph_at_all_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        parse_graph(data)


def chain(length: int) -> Document:
    document = sound()
    links = [node(f"n{i}", RELU, {"node": f"n{i - 1}"} if i else {"node": "out"}) for i in range(length)]
    document["training"]["nodes"] += links
    document["training"]["scores"] = {"node": f"n{length - 1}"}
    return document


def test_a_chain_as_long_as_is_allowed_is_read_without_recursion_and_a_longer_one_refused() -> None:
    parse(chain(MOST_NODES - 4))
    with pytest.raises(GraphError, match=f"{MOST_NODES + 1} nodes, limit {MOST_NODES}"):
        parse(chain(MOST_NODES - 3))


def test_a_long_cycle_is_found_and_told_shortly() -> None:
    document = chain(5000)
    document["training"]["nodes"][4]["arguments"][0] = {"node": "n4999"}
    with pytest.raises(GraphError, match=r"cycle n0 -> .* -> … -> .* -> n0"):
        parse(document)


def test_every_operator_of_the_list_is_taken_apart() -> None:
    table = operators()
    assert len(table) > 500
    assert not [name for name in table if name.endswith(".out") or "as_strided" in name or "_unsafe" in name]
    assert nearest_operator("aten.softmax.default") == "aten.softmax.int"
    assert nearest_operator("aten.conv2d.defalt") in ("aten.conv2d.default", "aten.conv2d.padding")
    assert nearest_operator("x" * 10_000) is None


def test_errors_are_made_anew_from_their_parts() -> None:
    error = copy.copy(GraphError("training", "no"))
    assert (error.path, error.message, str(error)) == ("training", "no", "training: no")


def test_reading_a_graph_loads_no_torch() -> None:
    code = "import sys, gradsight.graph as g; g.parse_graph\ntry: g.parse_graph(b'{}')\nexcept g.GraphError: pass\n"
    code += "assert not {'torch', 'numpy', 'grpc', 'google'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
    | st.sampled_from(["batch", "x", "hidden", "a.weight", "aten.linear.default", "float32", "//", "size", "node"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.sampled_from(
        ["node", "item", "size", "float", "dtype", "device", "parameter", "input", "name", "arguments"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every place of a document, as its owner and the key there."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        owner = waiting.pop()
        items = owner.items() if isinstance(owner, dict) else enumerate(owner)
        for key, item in items:
            found.append((owner, key))
            if isinstance(item, dict | list):
                waiting.append(item)
    return found


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_graph_changed_anywhere_is_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    document = sound()
    for _ in range(data.draw(st.integers(1, 3))):
        owner, key = data.draw(st.sampled_from(places(document)))
        if data.draw(st.booleans()):
            owner[key] = data.draw(JSON)
        elif isinstance(owner, dict):
            owner[data.draw(st.text(max_size=5))] = owner.pop(key)
        else:
            owner.insert(key, copy.deepcopy(owner[data.draw(st.integers(0, len(owner) - 1))]))
    try:
        graph = parse_graph(json.dumps(document).encode())
    except GraphError:
        return
    assert parse_graph(write_graph(graph)) == graph


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 3000))
def test_bytes_put_into_a_graph_are_read_or_refused(noise: bytes, at: int) -> None:
    data = json.dumps(sound()).encode()
    try:
        parse_graph(data[:at] + noise + data[at + len(noise) :])
    except GraphError:
        return
