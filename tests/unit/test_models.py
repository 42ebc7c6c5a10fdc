"""Built-in models, their preprocessing and the files of a result."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from gradsight_models import (
    LabelNames,
    ResultError,
    build_model,
    fit_preprocessing,
    layers_of,
    load_result,
    preprocessing_from_json,
    save_result,
)

TEXTS = ["where is my parcel", "my parcel is late", "these shoes are too small", "are they too small for me"]


def saved(directory: Path) -> Path:
    torch.manual_seed(0)
    preprocessing = fit_preprocessing("text_classifier", [TEXTS], {"embedding_size": 8})
    save_result(
        directory,
        module=build_model("text_classifier", {"embedding_size": 8}, preprocessing, 2),
        architecture="text_classifier",
        options={"embedding_size": 8},
        input_columns=["text"],
        preprocessing=preprocessing,
        labels=LabelNames(("delivery", "sizing")),
        figures={"test_error_ratio": 0.5},
        version="0",
    )
    return directory


def test_a_saved_result_answers_as_the_model_did(tmp_path: Path) -> None:
    model = load_result(saved(tmp_path))
    inputs = model.preprocessing.encode([TEXTS])
    expected = model.module(*inputs).softmax(dim=1)
    answers = model.predict(TEXTS)
    assert [answer.confidence for answer in answers] == pytest.approx(expected.max(dim=1).values.tolist())
    assert answers == model.predict([{"text": text} for text in TEXTS])
    assert model.figures["test_error_ratio"] == 0.5


def test_a_row_without_an_input_column_is_named() -> None:
    preprocessing = fit_preprocessing("mlp", [[1.0, 2.0]], {})
    with pytest.raises(ValueError, match="got 2 columns, allowed: the 1 "):
        preprocessing.encode([[1.0], [2.0]])


def test_a_prediction_says_which_row_lacks_what(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 2: no 'text'"):
        load_result(saved(tmp_path)).predict([{"text": "a"}, {"message": "b"}])


@pytest.mark.parametrize("name", ["weights.safetensors", "model.json", "preprocessing.json", "labels.json"])
def test_a_changed_byte_is_refused(tmp_path: Path, name: str) -> None:
    content = bytearray((saved(tmp_path) / name).read_bytes())
    content[-3] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ResultError, match=name):
        load_result(tmp_path)


@pytest.mark.parametrize("name", ["weights.safetensors", "manifest.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (saved(tmp_path) / name).unlink()
    with pytest.raises(ResultError, match=name):
        load_result(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    manifest = json.loads((saved(tmp_path) / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    with pytest.raises(ResultError, match="format version 99, allowed 1"):
        load_result(tmp_path)


def test_preprocessing_survives_json() -> None:
    for architecture, columns in (("text_classifier", [TEXTS]), ("mlp", [[1.0, 2.0, 4.0], [0.0, 1.0, 5.0]])):
        fitted = fit_preprocessing(architecture, columns, {})
        again = preprocessing_from_json(json.loads(json.dumps(fitted.to_json())))
        for left, right in zip(fitted.encode(columns), again.encode(columns), strict=True):
            assert torch.equal(left, right)


def test_text_weights_have_length_one_and_unknown_text_has_none() -> None:
    preprocessing = fit_preprocessing("text_classifier", [TEXTS], {})
    _, weights = preprocessing.encode([[TEXTS[0], "qqq", ""]])
    assert weights.norm(dim=1).tolist() == pytest.approx([1.0, 0.0, 0.0])


def test_numbers_are_standardised_and_a_constant_column_stays_finite() -> None:
    preprocessing = fit_preprocessing("mlp", [[1.0, 2.0, 3.0], [7.1, 7.1, 7.1]], {})
    (values,) = preprocessing.encode([[1.0, 2.0, 3.0], [7.1, 7.1, 8.1]])
    assert values[:, 0].mean().item() == pytest.approx(0.0, abs=1e-6)
    assert values[:, 1].tolist() == pytest.approx([0.0, 0.0, 1.0])


def test_an_unknown_label_names_its_row() -> None:
    with pytest.raises(ValueError, match="row 2: got 'b', allowed: the 1 classes"):
        LabelNames(("a",)).encode(["a", "b"])


def test_layers_come_in_forward_order_and_cover_every_parameter_once() -> None:
    preprocessing = fit_preprocessing("mlp", [[1.0, 2.0]] * 4, {})
    module = build_model("mlp", {"hidden_sizes": [3] * 40, "normalization": "batch"}, preprocessing, 2)
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
    ],
)
def test_an_unfit_option_says_what_is_allowed(
    architecture: str, options: dict[str, object], message: str
) -> None:
    columns = [TEXTS] if architecture == "text_classifier" else [[1.0, 2.0]]
    with pytest.raises(ValueError, match=message):
        fit_preprocessing(architecture, columns, options)


@pytest.mark.parametrize(
    "change", [{"architecture": "tree"}, {"options": {"embedding_size": 9}}, {"options": {"x": 1}}]
)
def test_files_that_do_not_fit_together_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    model_file, manifest_file = saved(tmp_path) / "model.json", tmp_path / "manifest.json"
    content = json.dumps({**json.loads(model_file.read_text()), **change}).encode()
    model_file.write_bytes(content)
    manifest = json.loads(manifest_file.read_text())
    manifest["files"]["model.json"]["sha256"] = hashlib.sha256(content).hexdigest()
    manifest_file.write_text(json.dumps(manifest))
    with pytest.raises(ResultError, match="do not fit together"):
        load_result(tmp_path)


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    saved(tmp_path)
    before = torch.get_rng_state()
    load_result(tmp_path)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "wide"])
def test_a_value_that_is_no_finite_number_is_named(value: object) -> None:
    preprocessing = fit_preprocessing("mlp", [[1.0, 2.0], [3.0, 4.0]], {})
    with pytest.raises(ValueError, match=r"row 2, input column 1: got .*, allowed: a finite number"):
        preprocessing.encode([[1.0, value], [3.0, 4.0]])


def test_a_missing_text_is_named() -> None:
    with pytest.raises(ValueError, match="row 2: got None, allowed: a text"):
        fit_preprocessing("text_classifier", [TEXTS], {}).encode([["a", None]])


def test_a_figure_that_is_not_finite_is_saved_as_null(tmp_path: Path) -> None:
    preprocessing = fit_preprocessing("mlp", [[1.0, 2.0]], {})
    save_result(
        tmp_path,
        module=build_model("mlp", {}, preprocessing, 2),
        architecture="mlp",
        options={},
        input_columns=["a"],
        preprocessing=preprocessing,
        labels=LabelNames(("no", "yes")),
        figures={"loss": float("nan"), "losses": [1.0, float("inf")]},
        version="0",
    )
    assert load_result(tmp_path).figures == {"loss": None, "losses": [1.0, None]}


def test_a_word_and_an_ngram_of_the_same_letters_are_two_features() -> None:
    preprocessing = fit_preprocessing("text_classifier", [["in the box"] * 2, ["the pin"] * 2][0:1], {})
    ids, weights = preprocessing.encode([["in", "pin"]])
    in_features, pin_features = ({*row[mask].tolist()} for row, mask in zip(ids, weights > 0, strict=True))
    assert in_features - pin_features
