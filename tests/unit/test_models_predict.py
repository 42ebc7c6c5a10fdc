"""What a result answers: every kind of model, from rows as a caller has them, as in training."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch.nn import functional

from gradsight_models import (
    BuiltinSource,
    ClassOutputs,
    Column,
    ColumnKind,
    LabelOutputs,
    LabelsPrediction,
    LoadedModel,
    NumberOutputs,
    NumberPrediction,
    Outputs,
    Prediction,
    TokenOutputs,
    TokenPreprocessing,
    TokensPrediction,
    load_result,
    save_result,
)

CLASSES = ClassOutputs(names=("no", "yes"))


def column(name: str, kind: ColumnKind, dtype: str = "", *shape: int) -> Column:
    return Column(name=name, kind=kind, dtype=dtype, shape=shape)


def taken_home(
    directory: Path,
    architecture: str,
    columns: Sequence[Column],
    cells: Sequence[npt.NDArray[Any]],
    outputs: Outputs | None = CLASSES,
    **options: object,
) -> LoadedModel:
    source = BuiltinSource(architecture, options)
    preprocessing = source.fit(columns, lambda: iter([cells]))
    if outputs is None:
        assert isinstance(preprocessing, TokenPreprocessing)
        outputs = TokenOutputs(preprocessing.size)
    torch.manual_seed(0)
    save_result(
        directory,
        module=source.build(preprocessing, outputs),
        source=source,
        columns=columns,
        preprocessing=preprocessing,
        outputs=outputs,
        figures={},
        version="0",
    )
    return load_result(directory)


def table(directory: Path, outputs: Outputs = CLASSES) -> LoadedModel:
    columns = [column("age", ColumnKind.NUMBER), column("city", ColumnKind.TEXT)]
    cells = [np.array([20.0, np.nan, 40.0]), np.array(["Rome", "Oslo", "Rome"], dtype=object)]
    return taken_home(directory, "mlp", columns, cells, outputs)


def test_missing_values_of_a_table_are_answered_as_in_training(tmp_path: Path) -> None:
    model = table(tmp_path)
    rows = [{"age": None, "city": "Oslo"}, {"city": "Oslo"}, {"age": "", "city": "Oslo"}]
    expected = (
        model.scores([np.array([np.nan]), np.array(["Oslo"], dtype=object)]).softmax(dim=1).max().item()
    )
    answers = model.predict(rows)
    assert answers[0] == answers[1] == answers[2]
    assert isinstance(answers[0], Prediction)
    assert answers[0].confidence == pytest.approx(expected)


def test_a_column_that_train_always_had_must_be_there(tmp_path: Path) -> None:
    model = table(tmp_path)
    with pytest.raises(ValueError, match="row 2: no 'city'; the model reads age, city"):
        model.predict([{"age": 1.0, "city": "Rome"}, {"age": 1.0}])
    assert len(model.predict([{"age": 1.0, "city": None}, {"age": 1, "city": "new", "more": 5}])) == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"age": "old", "city": "Rome"}, "row 1, column 'age': got 'old', allowed: a number"),
        ({"age": 1.0, "city": 7}, "row 1, column 'city': got 7, allowed: a text"),
        (5, "row 1: got int, allowed: a dict with the columns age, city"),
        ({"age": float("inf"), "city": "Rome"}, "column 'age': row 1: got inf"),
    ],
)
def test_a_value_of_another_kind_names_row_and_column(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table(tmp_path).predict([row])


def test_labels_hold_from_a_threshold_on(tmp_path: Path) -> None:
    model = table(tmp_path, LabelOutputs(names=("a", "b", "c")))
    row = {"age": 30, "city": "Rome"}
    (answer,) = model.predict([row])
    assert isinstance(answer, LabelsPrediction)
    assert answer.labels == tuple(n for n, p in answer.probabilities.items() if p >= 0.5)
    (strict,) = model.predict([row], threshold=1.0)
    assert isinstance(strict, LabelsPrediction)
    assert strict.labels == ()


def test_numbers_are_answered_in_units(tmp_path: Path) -> None:
    model = table(tmp_path, NumberOutputs(names=("price", "tax"), mean=(100.0, 20.0), deviation=(10.0, 2.0)))
    (answer,) = model.predict([{"age": 30, "city": "Rome"}])
    assert isinstance(answer, NumberPrediction)
    (scores,) = model.scores([np.array([30.0]), np.array(["Rome"], dtype=object)]).tolist()
    assert answer.values == pytest.approx({"price": 100 + 10 * scores[0], "tax": 20 + 2 * scores[1]})
    assert answer.value == answer.values["price"]


def photo(form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format=form)
    return buffer.getvalue()


def test_an_image_may_be_an_array_a_file_or_a_path(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (4, 3, 8, 8), dtype=np.uint8)
    model = taken_home(
        tmp_path, "cnn", [column("image", ColumnKind.TENSOR, "uint8", 3, 8, 8)], [images], channels=[4]
    )
    path = tmp_path / "photo.png"
    path.write_bytes(photo())
    pixels = np.asarray(Image.open(path)).transpose(2, 0, 1)
    answers = model.predict([photo(), path, str(path), pixels, {"image": pixels}, pixels.tolist()])
    assert all(answer == answers[0] for answer in answers)
    assert len(model.predict([photo("JPEG")])) == 1
    with pytest.raises(ValueError, match="row 1, column 'image': got uint8 of shape"):
        model.predict([pixels[:2]])
    with pytest.raises(ValueError, match="row 2, column 'image': image: got a file that cannot be decoded"):
        model.predict([pixels, b"no image"])
    with pytest.raises(ValueError, match="got numbers that uint8 cannot hold"):
        model.predict([pixels / 255])


def language_model(directory: Path) -> LoadedModel:
    texts = np.array(
        ["the parcel is late", "the parcel is here", "is it late", "it is here"] * 5, dtype=object
    )
    return taken_home(
        directory,
        "gpt",
        [column("text", ColumnKind.TEXT)],
        [texts],
        outputs=None,
        layers=1,
        width=16,
        heads=2,
        context_length=8,
        max_vocabulary=300,
    )


def test_a_text_is_scored_over_all_its_windows(tmp_path: Path) -> None:
    model = language_model(tmp_path)
    texts = ["the parcel is late", "", "a text of words that training never saw"]
    answers = model.predict(texts)
    for text, answer in zip(texts, answers, strict=True):
        encoded = model.encode([text])
        assert isinstance(answer, TokensPrediction)
        assert encoded.targets is not None
        scores = model.module(*encoded.inputs)
        loss = functional.cross_entropy(scores.flatten(0, 1), encoded.targets.flatten(), ignore_index=-100)
        assert answer.loss == pytest.approx(loss.item(), rel=1e-5)
        assert answer.perplexity == pytest.approx(math.exp(answer.loss))
        assert answer.tokens == int((encoded.targets >= 0).sum())


def test_a_language_model_goes_on_with_a_text_and_repeats_itself_by_seed(tmp_path: Path) -> None:
    model = language_model(tmp_path)
    before = torch.get_rng_state()
    best = model.next_tokens("the parcel", most=2)
    assert len(best) == 2
    assert 1 > best[0][1] >= best[1][1] > 0
    assert isinstance(best[0][0], str)
    drawn = model.generate("the parcel", 20, seed=1)
    assert isinstance(drawn, str)
    assert drawn == model.generate("the parcel", 20, seed=1)
    assert model.generate("the", 5, temperature=0) == model.generate("the", 5, temperature=0, seed=9)
    assert torch.equal(before, torch.get_rng_state())


def test_a_language_model_of_tokens_goes_on_with_tokens(tmp_path: Path) -> None:
    tokens = np.arange(24).reshape(4, 6) % 7
    model = taken_home(
        tmp_path,
        "gpt",
        [column("tokens", ColumnKind.TENSOR, "int64", 6)],
        [tokens],
        outputs=None,
        layers=1,
        width=8,
        heads=1,
        max_vocabulary=300,
    )
    (answer,) = model.predict([[1, 2, 3, 4, 5, 6]])
    assert isinstance(answer, TokensPrediction)
    assert answer.tokens == 5
    generated = model.generate([1, 2], 12)
    assert len(generated) == 12
    assert all(isinstance(token, int) and 0 <= token < 7 for token in generated)
    with pytest.raises(ValueError, match="prompt: got 'one'"):
        model.generate("one")


def test_only_a_language_model_goes_on_with_a_text(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="answers with classes; only a language model"):
        table(tmp_path).generate("a")
