"""Programs as modules: paths and kinds of the user's, foreign weights refused, storage that is replaced obeyed."""

# ruff: noqa: E501 (a table of one line each reads better)

import copy
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_weights
from safetensors.torch import save_file
from tests.unit.program_architectures import ARCHITECTURES
from torch import Tensor, nn

from gradsight._graph_operators import operators
from gradsight.graph import GraphError, parse_graph
from gradsight_models import ClassOutputs, Column, ColumnKind, layers_of
from gradsight_models.program import ExportedProgram, Program, ProgramSource, build_program, export_program
from gradsight_models.program.functions import _DIRECT, function_of
from gradsight_models.program.shapes import check_shapes
from gradsight_worker.training.parameters import FlatParameters


@functools.cache
def exported(name: str) -> ExportedProgram:
    torch.manual_seed(0)
    return export_program(ARCHITECTURES[name].make(), ARCHITECTURES[name].inputs(3))


def built(name: str) -> Program:
    return build_program(exported(name).graph, load_weights(exported(name).weights))


def weights_file(folder: Path, weights: Mapping[str, Tensor]) -> Path:
    save_file(dict(weights), folder / "weights.safetensors")
    return folder / "weights.safetensors"


def test_layers_have_the_paths_and_kinds_of_the_users_module() -> None:
    layers = layers_of(built("resnet"))
    assert [(layer.path, layer.kind) for layer in layers[:4]] == [
        ("stem.0", "Conv2d"),
        ("stem.1", "BatchNorm2d"),
        ("blocks.0.conv1", "Conv2d"),
        ("blocks.0.bn1", "BatchNorm2d"),
    ]
    assert layers[-1].parameter_names == ("head.weight", "head.bias")
    rotary = built("rotary")
    assert next((layer.path, layer.kind) for layer in layers_of(rotary)) == ("embedding", "Embedding")
    assert rotary.layer_kind == "Rotary"


def test_storage_that_is_replaced_is_obeyed() -> None:
    program = built("resnet")
    rows = ARCHITECTURES["resnet"].inputs(3)
    expected = program.eval()(*rows)
    flat = FlatParameters(program, torch.device("cpu"))
    torch.testing.assert_close(program(*rows), expected)
    program.train()(*rows)
    assert any(bool(buffer.any()) for buffer in flat.buffers)
    flat.values.zero_()
    assert not program.eval()(*rows).any()


def test_a_copy_is_independent_and_a_state_can_be_assigned() -> None:
    program = built("ft_transformer").eval()
    rows = ARCHITECTURES["ft_transformer"].inputs(3)
    twin = copy.deepcopy(program)
    with torch.no_grad():
        twin.get_parameter("head.2.bias").add_(5.0)
    torch.testing.assert_close(twin(*rows), program(*rows) + 5.0)
    with torch.device("meta"):
        empty = build_program(exported("ft_transformer").graph, None)
    assert all(parameter.is_meta for parameter in empty.parameters())
    empty.load_state_dict(twin.state_dict(), assign=True)
    torch.testing.assert_close(empty.eval()(*rows), twin(*rows))


def test_a_program_compiles_whole() -> None:
    program = built("mlp").eval()
    rows = torch.randn(3, 8)
    compiled = torch.compile(program, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(rows), program(rows))


def test_hooks_see_what_the_users_modules_gave() -> None:
    torch.manual_seed(0)
    module = ARCHITECTURES["mlp"].make()
    program, rows, seen = built("mlp"), torch.randn(6, 8), {}
    assert torch.equal(module[0].weight, program.get_parameter("0.weight"))  # type: ignore[index]
    handles = [
        program.get_submodule(path).register_forward_hook(
            lambda _part, _inputs, output, path=path: seen.update({path: output})
        )
        for path in ("0", "3")
    ]
    torch.manual_seed(1)
    watched = program(rows)
    for handle in handles:
        handle.remove()
    torch.manual_seed(1)
    assert torch.equal(program(rows), watched)
    torch.testing.assert_close(seen["0"], module[1](module[0](rows)))  # type: ignore[index]
    assert torch.equal(seen["3"], watched)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("0.bias"), "missing '0.bias'"),
        (lambda w: w.update(more=torch.ones(1)), "unexpected 'more'"),
        (lambda w: w.update({"0.bias": torch.ones(3)}), r"'0.bias' is float32 \[3\], the graph says float32 \[16\]"),
        (lambda w: w.update({"0.bias": torch.ones(16).double()}), r"is float64 \[16\], the graph says float32"),
        (lambda w: w["0.bias"][:3].fill_(float("nan")), "'0.bias' has 3 non-finite values"),
        (lambda w: w["0.bias"][:2].fill_(float("inf")), "'0.bias' has 2 non-finite values"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("as_file", [False, True])
def test_weights_that_are_not_the_graphs_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], Any], message: str, as_file: bool
) -> None:
    weights = load_weights(exported("mlp").weights)
    change(weights)
    given = weights_file(tmp_path, weights) if as_file else weights
    with pytest.raises(ValueError, match=message):
        build_program(exported("mlp").graph, given)


def test_masks_of_infinity_are_buffers_like_any_other() -> None:
    document = json.loads(exported("mlp").graph)
    document["buffers"] = [{"name": "mask", "dtype": "float32", "shape": [2]}]
    weights = load_weights(exported("mlp").weights) | {"mask": torch.tensor([0.0, float("-inf")])}
    build_program(json.dumps(document).encode(), weights)
    weights["mask"][0] = float("nan")
    with pytest.raises(ValueError, match="'mask' has 1 non-finite"):
        build_program(json.dumps(document).encode(), weights)


def test_names_that_modules_use_themselves_are_refused() -> None:
    for name in ("forward", "training.weight", "_slots"):
        document = json.loads(exported("mlp").graph)
        document["buffers"] = [{"name": name, "dtype": "float32", "shape": [2]}]
        weights = load_weights(exported("mlp").weights) | {name: torch.ones(2)}
        with pytest.raises(GraphError, match="is a name that modules use themselves"):
            build_program(json.dumps(document).encode(), weights)


def changed(name: str, change: Callable[[dict[str, Any]], Any]) -> bytes:
    document = json.loads(exported(name).graph)
    change(document)
    return json.dumps(document).encode()


def use(document: dict[str, Any], operator: str, *arguments: Any, name: str = "more") -> None:
    document["operators"][operator] = operators()[operator].schema
    more = {"name": name, "operator": operator, "arguments": list(arguments)}
    document["training"]["nodes"].append(more)


def use_item(document: dict[str, Any], item: int) -> None:
    use(document, "aten.chunk.default", {"input": "input"}, 2)
    use(document, "aten.relu.default", {"node": "more", "item": item}, name="last")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mlp", lambda d: d["inputs"][0].update(shape=["batch", 64]), r"node 'linear' \(0\), aten.linear.default, got \[7, 64\], \[16, 8\]"),
        ("mlp", lambda d: d["scores"].update(shape=["batch", 4]), r"float32 \[7, 3\] at 7 rows, `scores` says float32"),
        ("mlp", lambda d: use(d, "aten.zeros.default", [10**9, 10**9]), "gives .1000000000, 1000000000., limit 2000000000"),
        ("mlp", lambda d: use(d, "aten.repeat.default", {"input": "input"}, [10**6, 10**6]), "limit 2000000000"),
        ("mlp", lambda d: use(d, "aten.embedding.default", {"input": "input"}, {"input": "input"}), "node 'more', aten.embedding"),
        ("mlp", lambda d: use_item(d, 7), "node 'last', .* index out of range"),
        ("lstm", lambda d: d["parameters"][3].update(shape=[1]), r"needs weights of|node 'lstm"),
        ("gru", lambda d: d["parameters"][2].update(shape=[15, 4]), r"needs weights of|node 'gru"),
    ],
    ids=["data", "scores", "zeros", "repeat", "indices", "item", "bias of a cell", "matrix of a cell"],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_refused_before_anything_is_computed(
    name: str, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    with pytest.raises(GraphError, match=message):
        check_shapes(parse_graph(changed(name, change)), rows=7)


def test_every_operator_is_the_installed_torchs_own() -> None:
    """Where torch moved on, an entry of the list has to be read anew, and so do the functions called in its stead."""
    for name, operator in operators().items():
        function_of(name, operator.schema)
    for name, function in _DIRECT.items():
        assert name.split(".")[1] == function.__name__
    with pytest.raises(GraphError, match="export with this torch"):
        function_of("aten.relu.default", "aten::relu(Tensor self, int more) -> Tensor")


def number_columns(count: int) -> list[Column]:
    return [Column(name=f"n{i}", kind=ColumnKind.NUMBER) for i in range(count)]


def source(folder: Path, name: str = "mlp") -> ProgramSource:
    return ProgramSource(exported(name).graph, weights_file(folder, load_weights(exported(name).weights)))


def outputs(size: int) -> ClassOutputs:
    names = np.array([str(n) for n in range(size)], dtype=object)
    return ClassOutputs.fit([names])


def test_a_source_reads_columns_and_gives_a_model(tmp_path: Path) -> None:
    program = source(tmp_path)
    assert program.input_names == ("input",)
    preprocessing = program.fit(number_columns(8), lambda: iter(()))
    rows = preprocessing.encode([np.arange(3.0)] * 8)
    model = program.build(preprocessing, outputs(3))
    assert model(*rows.inputs).shape == (3, 3)
    again = ProgramSource.from_json(program.to_json(), program.files())
    restored = again.build(preprocessing, outputs(3))
    restored.load_state_dict(model.state_dict())
    assert torch.equal(restored.eval()(*rows.inputs), model.eval()(*rows.inputs))


def test_a_source_refuses_columns_and_outputs_that_do_not_fit(tmp_path: Path) -> None:
    program = source(tmp_path)
    with pytest.raises(ValueError, match="got 5 a row, allowed for input 'input': 8"):
        program.fit(number_columns(5), lambda: iter(()))
    preprocessing = program.fit(number_columns(8), lambda: iter(()))
    with pytest.raises(
        ValueError, match=r"scores 'scores' are \[rows, 3\], the classes of the target need \[rows, 4\]"
    ):
        program.build(preprocessing, outputs(4))


def test_the_module_runs_where_its_first_input_is() -> None:
    """No second device is at hand: the meta device shows that nothing is pinned to the processor."""
    program = built("lstm").to("meta")
    assert program(torch.zeros(3, 5, dtype=torch.int64, device="meta")).is_meta


def test_weights_come_from_the_file_that_was_exported(tmp_path: Path) -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    module = nn.Sequential(first, second)
    exported_now = export_program(module, torch.randn(3, 4))
    path = tmp_path / "weights.safetensors"
    path.write_bytes(exported_now.weights)
    rows = torch.randn(2, 4)
    torch.testing.assert_close(build_program(exported_now.graph, path)(rows), module(rows))
