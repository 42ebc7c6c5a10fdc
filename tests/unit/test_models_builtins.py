"""Built-in architectures: options, layers, and what they can answer."""

import pytest

import gradsight_models
from gradsight_models import BuiltinSource, layers_of
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
