"""Built-in architectures: options, layers, and what they can answer."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

import gradsight_models
from gradsight.v1 import spec_pb2
from gradsight_models import (
    ARCHITECTURES,
    BuiltinSource,
    ClassOutputs,
    Column,
    ColumnKind,
    Encoded,
    LabelOutputs,
    NumberOutputs,
    Outputs,
    TokenOutputs,
    layers_of,
)
from gradsight_models.builtins.cnn import Cnn, CnnConfig
from gradsight_models.builtins.mlp import Mlp, MlpConfig


def test_layers_come_in_forward_order_and_cover_every_parameter_once() -> None:
    module = Mlp(MlpConfig(hidden_sizes=(3,) * 40, normalization="batch"), 2, 2)
    layers = layers_of(module)
    names = [name for layer in layers for name in layer.parameter_names]
    assert len(layers) == 32
    assert names == [name for name, _ in module.named_parameters()]
    assert sum(layer.parameter_count for layer in layers) == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("mlp", {"dropout": 1.0}, "dropout: got 1.0, allowed 0.0 to below 1.0"),
        ("mlp", {"hidden_sizes": []}, "hidden_sizes: got 0 layers"),
        ("mlp", {"activation": "sine"}, "activation: got 'sine', allowed: relu"),
        ("text_classifier", {"layers": 3}, "layers: not an option"),
        ("tree", {}, "architecture: got 'tree', allowed: mlp"),
    ],
)
def test_an_unfit_option_says_what_is_allowed(
    architecture: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        BuiltinSource(architecture, options)


def test_options_left_out_are_said_with_their_defaults() -> None:
    source = BuiltinSource("mlp", {"dropout": 0.2})
    assert source.options == {
        "hidden_sizes": [128, 128],
        "activation": "relu",
        "dropout": 0.2,
        "normalization": "none",
    }
    assert source.to_json() == {"kind": "builtin", "architecture": "mlp", "options": source.options}


def test_the_public_names_are_sorted_and_there() -> None:
    capitals_first = sorted(
        gradsight_models.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name)
    )
    assert gradsight_models.__all__ == capitals_first
    assert all(hasattr(gradsight_models, name) for name in gradsight_models.__all__)


ROWS = 12


def source_and_inputs(
    architecture: str, outputs: Outputs | None = None, options: dict[str, object] | None = None
) -> tuple[nn.Module, Encoded]:
    """A small model of the architecture with a dozen encoded rows."""
    generator = np.random.default_rng(0)
    small: dict[str, dict[str, object]] = {
        "mlp": {"hidden_sizes": [16], "normalization": "batch"},
        "text_classifier": {"embedding_size": 8, "hidden_size": 8},
        "text_transformer": {"width": 16, "heads": 2, "max_vocabulary": 300},
        "cnn": {"channels": [8, 16]},
        "gpt": {"layers": 2, "width": 16, "heads": 2, "context_length": 8, "max_vocabulary": 300},
    }
    texts = np.array([f"parcel {n} is late" + " very" * n for n in range(ROWS)], dtype=object)
    kinds: dict[str, tuple[Column, npt.NDArray[Any]]] = {
        "mlp": (Column(name="n", kind=ColumnKind.NUMBER), generator.normal(size=ROWS)),
        "cnn": (
            Column(name="i", kind=ColumnKind.TENSOR, dtype="uint8", shape=(3, 9, 8)),
            generator.integers(0, 256, (ROWS, 3, 9, 8)).astype(np.uint8),
        ),
    }
    column, cells = kinds.get(architecture, (Column(name="t", kind=ColumnKind.TEXT), texts))
    source = BuiltinSource(architecture, {**small[architecture], **(options or {})})
    preprocessing = source.fit([column], lambda: iter([[cells]]))
    torch.manual_seed(0)
    if outputs is None:
        size = getattr(preprocessing, "size", 0)
        outputs = TokenOutputs(size) if architecture == "gpt" else ClassOutputs(names=("a", "b", "c"))
    return source.build(preprocessing, outputs), preprocessing.encode([cells])


def loss_of(module: nn.Module, encoded: Encoded) -> torch.Tensor:
    scores = module(*encoded.inputs)
    targets = encoded.targets
    if targets is None:
        targets = torch.arange(len(scores)) % scores.shape[1]
    return nn.functional.cross_entropy(scores.flatten(0, -2), targets.flatten().long())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_few_steps_lower_the_loss_and_reach_every_parameter(architecture: str) -> None:
    module, encoded = source_and_inputs(architecture, options={"dropout": 0.0})
    before = {name: value.clone() for name, value in module.named_parameters()}
    first = loss_of(module, encoded).item()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        torch.autograd.backward(loss_of(module, encoded))
        optimizer.step()
    assert loss_of(module, encoded).item() < 0.96 * first
    assert [name for name, value in module.named_parameters() if torch.equal(value, before[name])] == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_fresh_model_is_about_as_unsure_as_a_guess(architecture: str) -> None:
    module, encoded = source_and_inputs(architecture, options={"dropout": 0.0})
    scores = module(*encoded.inputs)
    assert loss_of(module, encoded).item() == pytest.approx(math.log(scores.shape[-1]), rel=0.35)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_evaluation_repeats_training_drops_and_the_seed_decides(architecture: str) -> None:
    module, encoded = source_and_inputs(architecture, options={"dropout": 0.5})
    again, _ = source_and_inputs(architecture, options={"dropout": 0.5})
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True))
    module.eval()
    assert torch.equal(module(*encoded.inputs), module(*encoded.inputs))
    module.train()
    assert not torch.equal(module(*encoded.inputs), module(*encoded.inputs))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_in_evaluation_a_row_is_answered_alike_alone_and_in_a_batch(architecture: str) -> None:
    module, encoded = source_and_inputs(architecture)
    module.eval()
    together = module(*encoded.inputs)
    alone = torch.cat([module(*(part[n : n + 1] for part in encoded.inputs)) for n in range(len(together))])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_works_on_views_of_flat_parameters(architecture: str) -> None:
    module, encoded = source_and_inputs(architecture, options={"dropout": 0.0})
    module.eval()
    expected = module(*encoded.inputs).detach()
    flat = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    end = 0
    for parameter in module.parameters():
        assert parameter.dtype == torch.float32
        parameter.data = flat[end : end + parameter.numel()].view(parameter.shape)
        end += parameter.numel()
    assert torch.allclose(module(*encoded.inputs), expected, atol=1e-6)
    flat.zero_()
    assert not module(*encoded.inputs).any()


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "gpt"])
@pytest.mark.parametrize(
    "outputs",
    [
        ClassOutputs(names=("a", "b")),
        LabelOutputs(names=("a", "b", "c")),
        NumberOutputs(names=("x",), mean=(0.0,), deviation=(1.0,)),
    ],
)
def test_what_judges_rows_has_outputs_of_every_kind_but_tokens(architecture: str, outputs: Outputs) -> None:
    module, encoded = source_and_inputs(architecture, outputs)
    assert module(*encoded.inputs).shape == (ROWS, outputs.size)
    with pytest.raises(ValueError, match="got tokens as outputs, allowed: classes, labels, numbers"):
        source_and_inputs(architecture, TokenOutputs(5))


def test_a_language_model_has_tokens_as_outputs_only() -> None:
    with pytest.raises(ValueError, match="gpt: got classes as outputs, allowed: tokens"):
        source_and_inputs("gpt", ClassOutputs(names=("a",)))


def test_a_language_model_never_sees_what_comes_next() -> None:
    module, encoded = source_and_inputs("gpt")
    module.eval()
    (ids,) = encoded.inputs
    changed = ids.clone()
    changed[:, 5:] = 3
    assert torch.allclose(module(ids)[:, :5], module(changed)[:, :5], atol=1e-5)


def test_padding_does_not_change_what_a_text_is_answered() -> None:
    module, encoded = source_and_inputs("text_transformer")
    module.eval()
    (ids,) = encoded.inputs
    short = ids[:1, :16]
    assert (ids[0, 16:] == 0).all()
    assert torch.allclose(module(ids[:1]), module(short), atol=1e-5)


@pytest.mark.parametrize(("height", "width", "stages"), [(8, 8, 8), (9, 31, 3), (64, 8, 4)])
def test_images_of_any_size_and_a_batch_of_one_train(height: int, width: int, stages: int) -> None:
    module = Cnn(CnnConfig(channels=(8,) * stages), 1, 2)
    scores = module(torch.randn(1, 1, height, width))
    scores.sum().backward()
    assert scores.shape == (1, 2)
    assert torch.isfinite(scores).all()


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    for architecture in ("gpt", "text_transformer"):
        with pytest.raises(ValueError, match="heads: got 3, allowed: a divisor of the width, 64"):
            BuiltinSource(architecture, {"width": 64, "heads": 3})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_options_are_those_of_the_contract(architecture: str) -> None:
    message = spec_pb2.BuiltinModel.DESCRIPTOR.fields_by_name[architecture].message_type
    assert message is not None
    assert set(BuiltinSource(architecture, {}).options) == {field.name for field in message.fields}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_docs_state_every_option_with_its_default(architecture: str) -> None:
    page = (Path(__file__).parents[2] / "docs/models.md").read_text()
    section = page.split(f"### `{architecture}`\n")[1].split("\n## ")[0].split("\n### ")[0]
    documented = dict(re.findall(r"^\| `(\w+)` \| `?([^|`]+)`? \|", section, flags=re.MULTILINE))
    defaults = {
        name: ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in BuiltinSource(architecture, {}).options.items()
    }
    assert {
        name: re.sub(r"(?<=\d),(?=\d)", "", text).strip() for name, text in documented.items()
    } == defaults


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_compiles_whole(architecture: str) -> None:
    module, encoded = source_and_inputs(architecture, options={"dropout": 0.0})
    expected = module(*encoded.inputs)
    # Traced as `torch.compile` traces it, without the compiler of its last stage.
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(*encoded.inputs), expected, atol=1e-5)
