"""The files of a result: whole, checked, and answering as the model did."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gradsight_models import (
    RESULT_FILES,
    BuiltinSource,
    ClassOutputs,
    Column,
    ColumnKind,
    Prediction,
    ResultError,
    load_result,
    save_result,
)

TEXTS = ["where is my parcel", "my parcel is late", "these shoes are too small", "are they too small for me"]
TEXT = Column(name="text", kind=ColumnKind.TEXT)


def saved(directory: Path, figures: dict[str, Any] | None = None) -> Path:
    torch.manual_seed(0)
    source = BuiltinSource("text_classifier", {"embedding_size": 8})
    preprocessing = source.fit([TEXT], lambda: iter([[np.array(TEXTS, dtype=object)]]))
    outputs = ClassOutputs(names=("delivery", "sizing"))
    paths = save_result(
        directory,
        module=source.build(preprocessing, outputs),
        source=source,
        columns=[TEXT],
        preprocessing=preprocessing,
        outputs=outputs,
        figures=figures or {"test_error_ratio": 0.5},
        version="0",
    )
    assert [path.name for path in paths] == list(RESULT_FILES)
    return directory


def test_a_saved_result_answers_as_the_model_did(tmp_path: Path) -> None:
    model = load_result(saved(tmp_path))
    expected = model.module(*model.encode(TEXTS).inputs).softmax(dim=1)
    answers = model.predict(TEXTS)
    assert [a.confidence for a in answers if isinstance(a, Prediction)] == pytest.approx(
        expected.max(dim=1).values.tolist()
    )
    assert answers == model.predict([{"text": text} for text in TEXTS])
    assert model.figures["test_error_ratio"] == 0.5
    assert model.input_columns == ("text",)
    assert model.predict([]) == []


def test_scores_are_those_of_the_columns(tmp_path: Path) -> None:
    model = load_result(saved(tmp_path))
    scores = model.scores([np.array(TEXTS, dtype=object)])
    assert torch.equal(scores, model.module(*model.encode(TEXTS).inputs))


def test_predicting_leaves_the_module_as_it_was(tmp_path: Path) -> None:
    module = (model := load_result(saved(tmp_path))).module
    module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    model.predict(TEXTS)
    assert all(part.training for part in module.modules())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_a_prediction_says_which_row_lacks_what(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 2: no 'text'"):
        load_result(saved(tmp_path)).predict([{"text": "a"}, {"message": "b"}])


@pytest.mark.parametrize("name", RESULT_FILES[:-1])
def test_a_changed_byte_is_refused(tmp_path: Path, name: str) -> None:
    content = bytearray((saved(tmp_path) / name).read_bytes())
    content[-3] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ResultError, match=name):
        load_result(tmp_path)


@pytest.mark.parametrize("name", RESULT_FILES)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (saved(tmp_path) / name).unlink()
    with pytest.raises(ResultError, match=name):
        load_result(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    manifest = json.loads((saved(tmp_path) / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    with pytest.raises(ResultError, match="format version 99, allowed 1"):
        load_result(tmp_path)


@pytest.mark.parametrize("name", ["../weights.safetensors", "/etc/passwd", ".hidden", "a/b"])
def test_a_manifest_cannot_name_a_file_elsewhere(tmp_path: Path, name: str) -> None:
    manifest = json.loads((saved(tmp_path) / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": "0", "size_bytes": 0}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ResultError, match="which is no file of a result"):
        load_result(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "tree"},
        {"options": {"embedding_size": 9}},
        {"options": {"x": 1}},
        {"kind": "program"},
        {"kind": "recipe"},
        {"kind": "spell"},
    ],
)
def test_files_that_do_not_fit_together_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    model_file, manifest_file = saved(tmp_path) / "model.json", tmp_path / "manifest.json"
    model = json.loads(model_file.read_text())
    content = json.dumps({**model, "source": {**model["source"], **change}}).encode()
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


def test_a_figure_that_is_not_finite_is_saved_as_null(tmp_path: Path) -> None:
    saved(tmp_path, {"loss": float("nan"), "losses": [1.0, float("inf")]})
    assert load_result(tmp_path).figures == {"loss": None, "losses": [1.0, None]}
