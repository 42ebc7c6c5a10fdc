"""The example recipe by itself: pretrained weights come in, LoRA freezes them, a result loads without them."""

import shutil
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.integration.pretrained import make_bert, require_transformers
from torch import nn

from gradsight_models import recipes
from gradsight_models.columns import Chunk, Column, ColumnKind
from gradsight_models.outputs import ClassOutputs
from gradsight_models.recipes import RecipeRefused, RecipeSource
from gradsight_models.result import load_result, save_result

TEXTS = ["where is my order", "the shoes are too small", "i want my money back now please", "too small"]
COLUMNS = (Column(name="text", kind=ColumnKind.TEXT),)
CLASSES = ClassOutputs(names=("delivery", "returns", "sizing"))


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The operator's directory, and the recipe installed."""
    require_transformers()
    monkeypatch.setenv("GRADSIGHT_RECIPE_MODELS", str(tmp_path / "models"))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples" / "recipes"))
    point = EntryPoint("huggingface_text", "gradsight_huggingface.recipe:HuggingFaceText", recipes.GROUP)
    monkeypatch.setattr(recipes, "installed_recipes", lambda: {point.name: point})
    make_bert(tmp_path / "models" / "tiny", TEXTS)
    return tmp_path / "models"


def chunks() -> Iterator[Chunk]:
    yield (np.array(TEXTS, dtype=object),)


def built(**options: str) -> tuple[RecipeSource, Any, Any]:
    source = RecipeSource("huggingface_text", {"model": "tiny", **options})
    preprocessing = source.fit(COLUMNS, chunks)
    torch.manual_seed(0)
    return source, preprocessing, source.build(preprocessing, CLASSES)


def scores(module: nn.Module, preprocessing: Any) -> torch.Tensor:
    with torch.no_grad():
        answer: torch.Tensor = module.eval()(*preprocessing.encode(next(chunks())).inputs)
    return answer


@pytest.mark.parametrize("options", [{}, {"lora_rank": "2"}], ids=["whole", "lora"])
def test_a_model_begins_with_the_pretrained_weights_and_a_head_of_its_own(
    models: Path, options: dict[str, str]
) -> None:
    import transformers

    _, preprocessing, module = built(**options)
    tokens = [len(text.split()) + 2 for text in TEXTS]
    ids, mask = preprocessing.encode(next(chunks())).inputs
    assert (ids.shape, mask.sum(1).tolist()) == ((4, max(tokens)), tokens)
    pretrained = transformers.BertModel.from_pretrained(models / "tiny").eval()
    with torch.no_grad():
        expected = pretrained(input_ids=ids.long(), attention_mask=mask.long()).pooler_output
        given = module.eval().model.bert(input_ids=ids.long(), attention_mask=mask.long()).pooler_output
    assert torch.equal(given, expected)
    assert scores(module, preprocessing).shape == (4, 3)


def test_lora_trains_its_own_matrices_and_the_head_alone(models: Path) -> None:
    _, _, module = built(lora_rank="2", lora_targets="query")
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert {name.rpartition(".self.")[2] for name in trained} == {
        "query.lora_A.default.weight",
        "query.lora_B.default.weight",
        "model.classifier.weight",
        "model.classifier.bias",
    }


@pytest.mark.parametrize("options", [{}, {"lora_rank": "2"}], ids=["whole", "lora"])
def test_a_result_answers_the_same_where_the_pretrained_model_is_not(
    models: Path, tmp_path: Path, options: dict[str, str]
) -> None:
    source, preprocessing, module = built(**options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.01)
    expected = scores(module, preprocessing)
    save_result(
        tmp_path / "result",
        module=module,
        source=source,
        columns=COLUMNS,
        preprocessing=preprocessing,
        outputs=CLASSES,
        figures={},
        version="1",
    )
    shutil.rmtree(models)
    loaded = load_result(tmp_path / "result")
    assert torch.equal(scores(loaded.module, loaded.preprocessing), expected)
    answers = loaded.predict([{"text": text} for text in TEXTS])
    assert [answer.label for answer in answers] == [  # type: ignore[union-attr]
        CLASSES.names[int(best)] for best in expected.argmax(1)
    ]


@pytest.mark.parametrize("name", ["other", "../models/tiny", "/etc", ".."])
def test_only_models_of_the_operators_directory_are_read(models: Path, name: str) -> None:
    with pytest.raises(RecipeRefused, match=r"option model: got .*, allowed: tiny$"):
        RecipeSource("huggingface_text", {"model": name})


def test_weights_that_are_no_safetensors_are_refused(models: Path) -> None:
    (models / "tiny" / "model.safetensors").rename(models / "tiny" / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        built()


def test_an_option_outside_its_bounds_is_refused(models: Path) -> None:
    with pytest.raises(
        RecipeRefused, match="option lora_rank: got '-1', allowed: a whole number, at least 0"
    ):
        RecipeSource("huggingface_text", {"model": "tiny", "lora_rank": "-1"})
