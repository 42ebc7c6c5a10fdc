"""Recipes: found by name, options typed, seen by training as any other source of models."""

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from gradsight import JobSpec
from gradsight_models import recipes
from gradsight_models.columns import Chunks, Column, Reading
from gradsight_models.recipes import Option, Options, Recipe, RecipeRefused, RecipeSource, parse_options

OPTIONS = (
    Option(name="width", description="Units.", default=8, low=1, high=64),
    Option(name="rate", description="Share.", default=0.5, low=0),
    Option(name="biased", description="Has biases.", default=True),
    Option(name="mode", description="How.", default="fast", choices=("fast", "slow")),
    Option(name="base", description="Which directory."),
)


class Linear(Recipe):
    description = "One matrix."
    options = OPTIONS
    reads = Reading.TENSORS
    input_names = ("x",)

    def fit(self, columns: Sequence[Column], chunks: Chunks, options: Options) -> Any:
        return None

    def build(
        self, preprocessing: Any, outputs: Any, options: Options, files: Mapping[str, bytes]
    ) -> nn.Module:
        assert files == {"size": b"3"}
        return nn.Linear(3, int(options["width"]), bias=bool(options["biased"]))

    def files(self, options: Options) -> Mapping[str, bytes]:
        return {"size": b"3"}

    def load_pretrained(self, module: nn.Module, options: Options) -> None:
        nn.init.ones_(next(module.parameters()))


class Broken:
    def __init__(self) -> None:
        raise ImportError("no such library")


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {
        "linear": EntryPoint("linear", f"{__name__}:Linear", recipes.GROUP),
        "broken": EntryPoint("broken", f"{__name__}:Broken", recipes.GROUP),
        "none": EntryPoint("none", "builtins:dict", recipes.GROUP),
    }
    classes = {"linear": Linear, "broken": Broken, "none": dict}
    monkeypatch.setattr(recipes, "installed_recipes", lambda: points)
    monkeypatch.setattr(EntryPoint, "load", lambda point: classes[point.name])


def test_options_get_their_own_types_and_defaults() -> None:
    values = parse_options(Linear(), {"width": "16", "biased": "false", "base": "bert"})
    assert values == {"width": 16, "rate": 0.5, "biased": False, "mode": "fast", "base": "bert"}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"width": "x"}, "option width: got 'x', allowed: a whole number, at least 1, at most 64"),
        ({"width": "65"}, "option width: got '65', allowed: a whole number, at least 1, at most 64"),
        ({"rate": "nan"}, "option rate: got 'nan', allowed: a number, at least 0"),
        ({"biased": "yes"}, "option biased: got 'yes', allowed: true or false"),
        ({"mode": "warp"}, "option mode: got 'warp', allowed: fast, slow"),
        ({"depth": "1"}, "got option 'depth', the recipe's are: width, rate, biased, mode, base"),
        ({}, "option base is missing and has no default: Which directory."),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_allowed(texts: dict[str, str], message: str) -> None:
    with pytest.raises(RecipeRefused) as caught:
        parse_options(Linear(), texts)
    assert (str(caught.value), caught.value.field) == (message, "model.recipe.options")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "got 'nothing', installed here: linear, broken, none"),
        ("broken", "recipe 'broken' cannot be used on this worker: ImportError: no such library"),
        ("none", "recipe 'none' cannot be used: its entry point names no subclass of "),
    ],
)
def test_a_recipe_that_cannot_be_used_is_refused_by_name(name: str, message: str) -> None:
    with pytest.raises(RecipeRefused, match="^" + message) as caught:
        RecipeSource(name, {})
    assert caught.value.field == "model.recipe.name"


def test_a_run_begins_with_pretrained_weights_and_a_result_without() -> None:
    source = RecipeSource("linear", {"base": "bert"})
    beginning: Any = source.build(None, None)  # type: ignore[arg-type]
    assert torch.equal(beginning.weight, torch.ones(8, 3))
    assert (source.name, source.reads, source.input_names) == ("linear", Reading.TENSORS, ("x",))
    document = source.to_json()
    assert document["options"] == {
        "width": "8",
        "rate": "0.5",
        "biased": "true",
        "mode": "fast",
        "base": "bert",
    }
    again = RecipeSource(document["name"], document["options"], source.files())
    loaded: Any = again.build(None, None)  # type: ignore[arg-type]
    assert loaded.weight.shape == (8, 3)
    assert not torch.equal(loaded.weight, torch.ones(8, 3))


@pytest.mark.parametrize("page", ["docs/recipes.md", "examples/recipes/README.md"])
def test_the_specs_of_the_docs_are_specs(page: str) -> None:
    text = (Path(__file__).resolve().parents[2] / page).read_text()
    for document in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        spec = JobSpec(yaml.safe_load(document))
        assert spec["model"]["recipe"]["options"]["lora_rank"] == "8"
