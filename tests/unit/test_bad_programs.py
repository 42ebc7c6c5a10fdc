"""Programs that are well-formed and cannot run are refused before anything is allocated or trained, by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file
from torch import Tensor, nn

from gradsight.graph import GraphError, parse_graph
from gradsight_models.program import ExportedProgram, build_program, export_program
from gradsight_models.program.shapes import check_shapes


class Outer(nn.Module):
    """Every product of two numbers of a row: its activations grow with the square of the row."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        products = x.unsqueeze(1) * x.unsqueeze(2)
        return products.sum((1, 2)).unsqueeze(1) * self.scale


@pytest.fixture(scope="module")
def exported() -> ExportedProgram:
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    return export_program(module, torch.zeros(2, 4))


def changed(program: ExportedProgram, change: Any) -> bytes:
    document = json.loads(program.graph)
    change(document)
    return json.dumps(document).encode()


def test_layers_that_do_not_fit_are_named(exported: ExportedProgram) -> None:
    def shrink(document: dict[str, Any]) -> None:
        (entry,) = (entry for entry in document["parameters"] if entry["name"] == "2.weight")
        entry["shape"] = [3, 7]

    with pytest.raises(GraphError, match=r"\[7, 8\].*\[3, 7\]") as caught:
        check_shapes(parse_graph(changed(exported, shrink)), rows=7)
    assert caught.value.path.startswith("training.nodes[")


def test_an_activation_beyond_the_limit_is_refused_and_not_allocated() -> None:
    program = export_program(Outer(), torch.zeros(2, 4))

    def widen(document: dict[str, Any]) -> None:
        document["inputs"][0]["shape"] = ["batch", 60_000]

    with pytest.raises(GraphError, match=r"gives \[7, 60000, 60000\], limit 2000000000 numbers"):
        check_shapes(parse_graph(changed(program, widen)), rows=7)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused(
    exported: ExportedProgram, tmp_path: Path, value: float
) -> None:
    tensors = load(exported.weights)
    tensors["0.bias"][3:5] = value
    path = tmp_path / "weights.safetensors"
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"'0\.bias' has 2 non-finite values; allowed: numbers only"):
        build_program(exported.graph, path)
