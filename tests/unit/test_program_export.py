"""What exports, what does not, and what the user is told about it."""

import warnings
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own custom)
from safetensors.torch import load as load_weights
from torch import Tensor, nn

from gradsight.graph import parse_graph
from gradsight_models.program import ExportError, build_program, export_program

ROWS = torch.randn(3, 4)


class Base(nn.Module):
    """One linear layer; each test says what is done with it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)


class SeveralOutputs(Base):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y: Tensor = self.fc(x)
        return {"loss": y.square().mean(), "logits": y, "hidden": y * 2}


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


class NamedOutputs(Base):
    def forward(self, x: Tensor) -> Pair:
        return Pair(self.fc(x), self.fc(x) * 3)


def test_the_first_output_is_the_scores_unless_another_is_chosen_by_name_or_place() -> None:
    module = NamedOutputs()
    assert export_program(module, ROWS).output == "first"
    assert export_program(module, ROWS, output="second").output == "second"
    by_place = export_program(module, ROWS, output=1)
    program = build_program(by_place.graph, load_weights(by_place.weights))
    torch.testing.assert_close(program(ROWS), module(ROWS).second)


def test_an_output_that_cannot_be_scores_is_refused_with_the_names_of_all() -> None:
    with pytest.raises(ExportError, match=r"output 'loss' is float32 \[\], .* of loss, logits, hidden"):
        export_program(SeveralOutputs(), ROWS)
    with pytest.raises(ExportError, match="output: got 'scores', allowed: loss, logits, hidden"):
        export_program(SeveralOutputs(), ROWS, output="scores")
    with pytest.raises(ExportError, match="output: got 7"):
        export_program(SeveralOutputs(), ROWS, output=7)
    assert export_program(SeveralOutputs(), ROWS, output="logits").output == "logits"


class SeveralInputs(Base):
    def forward(self, x: Tensor, parts: dict[str, Any], *, scale: float = 1.0, mask: Tensor) -> Tensor:
        y: Tensor = self.fc(x) + parts["more"][0]
        return y * scale * mask


def test_tensors_anywhere_in_the_arguments_become_named_inputs_and_other_values_stay() -> None:
    module = SeveralInputs()
    given = {"x": ROWS, "parts": {"more": [ROWS, None]}, "scale": 2.0, "mask": ROWS > 0}
    exported = export_program(module, given)
    assert exported.inputs == ("x", "parts_more_0", "mask")
    program = build_program(exported.graph, load_weights(exported.weights))
    torch.testing.assert_close(program(ROWS, ROWS, ROWS > 0), module(**given))
    renamed = export_program(module, given, input_names=("a", "b", "c"))
    assert [entry.name for entry in parse_graph(renamed.graph).inputs] == ["a", "b", "c"]


def test_inputs_whose_rows_do_not_come_first_are_refused() -> None:
    with pytest.raises(
        ExportError, match=r"input 'mask': got shape \[4\], allowed: rows first, as many as in 'x'"
    ):
        export_program(SeveralInputs(), {"x": ROWS, "parts": {"more": [ROWS]}, "mask": torch.ones(4)})
    with pytest.raises(ExportError, match="input_names: got 2, allowed 1: x"):
        export_program(NamedOutputs(), ROWS, input_names=("a", "b"))
    with pytest.raises(ExportError, match="got no tensor"):
        export_program(NamedOutputs(), ())
    with pytest.raises(ExportError, match=r"inputs\[0\].name"):
        export_program(NamedOutputs(), ROWS, input_names=("not a name",))


def test_an_example_of_one_row_makes_a_program_for_any_number() -> None:
    module = NamedOutputs()
    exported = export_program(module, ROWS[:1])
    program = build_program(exported.graph, load_weights(exported.weights))
    torch.testing.assert_close(program(ROWS), module(ROWS).first)


class ChoosesByData(Base):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y if x.sum() > 0 else -y


class TakesItem(Base):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y * x.max().item()


class TakesLength(Base):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y.reshape(len(x), 4)


class ChoosesByRows(Base):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y if x.shape[0] > 1 else y * 2


class PicksRows(Base):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y[x[:, 0] > 0]


class Packs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.tensor([2, 1, 1])
        packed = nn.utils.rnn.pack_padded_sequence(x[:, None].expand(-1, 2, -1), lengths, batch_first=True)
        last: Tensor = self.cells(packed)[1][0][0]
        return last


class Transforms(Base):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.fft.fft(self.fc(x)).abs()
        return y


class WritesToInput(Base):
    def forward(self, x: Tensor) -> Tensor:
        x += 1
        y: Tensor = self.fc(x)
        return y


class CastsItself(Base):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y: Tensor = self.fc(x)
        return y.float()


class CountsInPython(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4, momentum=None)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x)
        return y


class Detaches(Base):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y.detach()


class Fails(Base):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("nothing here")


class MixesRows(Base):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y.flatten()


class GivesText(Base):
    def forward(self, x: Tensor) -> str:
        return "text"


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            ChoosesByData,
            r"ChoosesByData \(test_program_export.py, line \d+: .*x.sum\(\) > 0.*use|torch.where",
        ),
        (TakesItem, r"depends on what the rows hold.*\(test_program_export.py, line \d+: return y \* x.max"),
        (TakesLength, r"the number of rows became a constant \(len\(x\)"),
        (ChoosesByRows, "with one row the module's scores are not those of its graph"),
        (PicksRows, "depends on what the rows hold, not on how many there are"),
        (Packs, "packed sequences do not export; pad every row to one fixed length"),
        (
            Transforms,
            r"aten.fft_fft.default is not among the operators that can travel \(test_program_export",
        ),
        (WritesToInput, r"writes to input 'x'; .* clone\(\) it first"),
        (CastsItself, r"autocast\(\) in the module cannot travel; .* compute.precision"),
        (CountsInPython, "momentum=None counts its batches in Python"),
        (Detaches, "do not depend on any trainable parameter"),
        (Fails, r"Fails \(test_program_export.py, line \d+: raise KeyError.*KeyError: 'nothing here'"),
        (MixesRows, "allowed: rows first, all other sizes fixed"),
        (GivesText, "the module gives str, allowed: a tensor"),
    ],
)
def test_what_cannot_travel_is_refused_with_the_line_and_the_way_out(
    module: type[nn.Module], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError, match=message) as refusal:
        export_program(module(), ROWS)
    assert len(str(refusal.value)) < 800
    assert capfd.readouterr().out == ""


def test_only_float32_is_trained_and_other_frozen_parameters_travel() -> None:
    with pytest.raises(ExportError, match=r"parameter 'fc.weight' is float64, .*module.float\(\)"):
        export_program(NamedOutputs().double(), ROWS.double())
    module = NamedOutputs()
    module.fc.bias.requires_grad_(False)
    exported = export_program(module, ROWS)
    assert exported.frozen == ("fc.bias",)
    program = build_program(exported.graph, load_weights(exported.weights))
    assert [name for name, p in program.named_parameters() if p.requires_grad] == ["fc.weight"]


class Unused(Base):
    def __init__(self) -> None:
        super().__init__()
        self.pooler = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y


def test_parameters_that_the_scores_do_not_depend_on_are_frozen_and_said() -> None:
    with pytest.warns(UserWarning, match="do not depend on pooler.weight, pooler.bias: frozen"):
        exported = export_program(Unused(), ROWS)
    assert exported.frozen == ("pooler.weight", "pooler.bias")


class Remembers(Base):
    mean: Tensor
    unsaved: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("unsaved", torch.ones(4), persistent=False)
        self.register_buffer("idle", torch.arange(3))
        self.plain = torch.full((4,), 3.0)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = self.mean * 0.9 + x.detach().mean(0) * 0.1
        y: Tensor = self.fc(x - self.mean)
        return y + self.unsaved + self.plain + torch.tensor(2.0)


def test_buffers_of_every_kind_travel_and_one_that_is_set_anew_changes() -> None:
    module = Remembers()
    exported = export_program(module, ROWS)
    weights = load_weights(exported.weights)
    assert {"mean", "unsaved", "idle"} <= set(weights)
    program = build_program(exported.graph, weights)
    for part in (module.train(), program.train()):
        part(ROWS)
        part(ROWS * 2)
    torch.testing.assert_close(program.get_buffer("mean"), module.mean)
    torch.testing.assert_close(program.eval()(ROWS), module.eval()(ROWS))


class Regularized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(4, 2), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(F.relu(self.fc(x)))
        drop = torch.rand(y.shape[0], 1) > 0.1 if self.training else 1.0
        return y * drop * x.new_empty(x.shape[0], 1).bernoulli_(0.9) if self.training else y


def test_parametrized_weights_and_random_numbers_of_torch_travel() -> None:
    module = Regularized()
    exported = export_program(module, ROWS)
    assert b"aten.new_empty" not in exported.graph
    program = build_program(exported.graph, load_weights(exported.weights))
    for training in (True, False):
        torch.manual_seed(0)
        expected = module.train(training)(ROWS)
        torch.manual_seed(0)
        torch.testing.assert_close(program.train(training)(ROWS), expected)


class HalfFrozen(nn.Module):
    """Its batch norm stays in evaluation, as is usual when a backbone is fine-tuned."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)

    def train(self, mode: bool = True) -> "HalfFrozen":
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.norm(x))
        return y


def test_the_modules_own_train_is_obeyed_and_the_module_left_as_it_was() -> None:
    module = HalfFrozen()
    module.head.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exported = export_program(module, ROWS)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training, module.norm.training, module.head.training] == [True, True, False]
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    program = build_program(exported.graph, load_weights(exported.weights)).train()
    program(ROWS)
    assert torch.equal(program.get_buffer("norm.running_mean"), torch.zeros(4))


def test_a_class_with_an_unusual_name_is_called_by_what_of_it_can_be_said() -> None:
    module = type("Block[int]", (NamedOutputs,), {})()
    graph = parse_graph(export_program(nn.Sequential(nn.Linear(4, 4), module), ROWS).graph)
    assert graph.kinds["1.fc"] == "Linear"
    module.scale = nn.Parameter(torch.ones(4))
    with pytest.warns(UserWarning, match=r"1\.scale"):
        graph = parse_graph(export_program(nn.Sequential(nn.Linear(4, 4), module), ROWS).graph)
    assert graph.kinds["1"] == "Block_int_"
