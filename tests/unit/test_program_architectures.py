"""Programs give the numbers and the gradients of the modules that they were made of."""

import functools
import os

import pytest
import torch
from safetensors.torch import load as load_weights
from tests.unit.program_architectures import ARCHITECTURES, FROM_TRANSFORMERS, Architecture
from torch import Tensor, nn

from gradsight._graph_writing import write_graph
from gradsight.graph import parse_graph
from gradsight_models.program import ExportedProgram, Program, build_program, export_program
from gradsight_models.program.shapes import check_shapes

ALL = {**ARCHITECTURES, **FROM_TRANSFORMERS}
EXAMPLE_ROWS, OTHER_ROWS = 3, 5


@functools.cache
def exported(name: str) -> tuple[nn.Module, ExportedProgram]:
    """A module and its program, made once: the export takes seconds."""
    torch.manual_seed(0)
    architecture = ALL[name]
    module, inputs = architecture.make(), architecture.inputs(EXAMPLE_ROWS)
    example = dict(zip(architecture.names, inputs, strict=True)) if architecture.names else inputs
    return module, export_program(module, example, output=architecture.output)


@pytest.fixture(params=ALL)
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    if chosen in FROM_TRANSFORMERS and not os.environ.get("CI"):
        pytest.importorskip("transformers")
    return chosen


def pair(name: str) -> tuple[Architecture, nn.Module, Program]:
    """The module as it was exported, and its program with the same weights."""
    module, program = exported(name)
    weights = load_weights(program.weights)
    module.load_state_dict(weights, strict=False)
    return ALL[name], module, build_program(program.graph, weights)


def gradients(scores: Tensor, direction: Tensor, module: nn.Module) -> dict[str, Tensor]:
    module.zero_grad()
    (scores * direction).sum().backward()  # type: ignore[no-untyped-call]
    return {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("rows", [EXAMPLE_ROWS, OTHER_ROWS, 1])
def test_scores_and_gradients_are_those_of_the_module(name: str, training: bool, rows: int) -> None:
    architecture, module, program = pair(name)
    module.train(training)
    program.train(training)
    inputs = architecture.inputs(rows)
    torch.manual_seed(1)
    expected = architecture.scores(module, inputs)
    torch.manual_seed(1)
    scores = program(*inputs)
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-6)
    direction = torch.randn_like(expected)
    wanted, got = gradients(expected, direction, module), gradients(scores, direction, program)
    assert set(got) == set(wanted)
    for path, gradient in wanted.items():
        largest = float(gradient.abs().max())
        torch.testing.assert_close(got[path], gradient, rtol=1e-6, atol=1e-6 * max(largest, 1e-3), msg=path)


def test_buffers_change_in_training_as_those_of_the_module_and_stay_in_evaluation() -> None:
    architecture, module, program = pair("resnet")
    inputs = architecture.inputs(OTHER_ROWS)
    program.eval()(*inputs)
    before = {name: buffer.clone() for name, buffer in program.named_buffers()}
    module.eval()
    assert all(torch.equal(before[name], buffer) for name, buffer in module.named_buffers())
    module.train()(*inputs)
    program.train()(*inputs)
    for name, buffer in module.named_buffers():
        assert torch.equal(program.get_buffer(name), buffer)
        assert not torch.equal(before[name], buffer)


def test_dropout_drops_in_training_only() -> None:
    _, _, program = pair("mlp")
    rows = torch.randn(4, 8)
    assert not torch.equal(program.train()(rows), program(rows))
    assert torch.equal(program.eval()(rows), program(rows))


def test_tied_weights_stay_one() -> None:
    graph = parse_graph(exported("rotary")[1].graph)
    assert [(p.name, p.tied_to) for p in graph.parameters if p.tied_to] == [
        ("head.weight", "embedding.weight")
    ]
    _, module, program = pair("rotary")
    assert sum(p.numel() for p in program.parameters()) == sum(p.numel() for p in module.parameters())
    assert program.get_parameter("embedding.weight").shape == (30, 8)


def test_the_json_reads_back_as_it_was_written_and_shapes_are_sound(name: str) -> None:
    _, program = exported(name)
    graph = parse_graph(program.graph)
    assert write_graph(graph) == program.graph
    assert parse_graph(write_graph(graph)) == graph
    check_shapes(graph, rows=OTHER_ROWS)
    assert b'"cpu"' not in program.graph


def test_steps_lead_where_those_of_the_module_lead() -> None:
    architecture, module, program = pair("ft_transformer")
    for part in (module.train(), program.train()):
        torch.manual_seed(2)
        optimizer = torch.optim.SGD(part.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            part(*architecture.inputs(OTHER_ROWS)).square().mean().backward()
            optimizer.step()
    for path, parameter in module.named_parameters():
        torch.testing.assert_close(program.get_parameter(path), parameter, rtol=1e-6, atol=1e-6)
