"""The examples file: one line per held-out row, with the columns that fit the kind of answer."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import torch

from gradsight.v1 import state_pb2
from gradsight_models.columns import Column, ColumnKind
from gradsight_models.outputs import ClassOutputs, LabelOutputs, NumberOutputs, Outputs, TokenOutputs
from gradsight_worker.training.answers import Answers, HeldOut
from gradsight_worker.training.data.encoding import ResidentRows
from gradsight_worker.training.data.rows import Rows
from gradsight_worker.training.examples import write_examples


def side(targets: torch.Tensor, raw: Any = None, categories: Any = None) -> HeldOut:
    rows = Rows.in_memory(
        [Column(name="n", kind=ColumnKind.NUMBER)],
        [np.zeros(2)],
        targets=raw,
        categories=categories,
        ids=np.array(["r1", "r2"], dtype=object),
    )
    return HeldOut(
        split=state_pb2.SPLIT_TEST,
        rows=rows,
        encoded=ResidentRows((torch.zeros(len(targets), 1), targets)),
        categories=None,
        impacts={},
    )


def written(
    path: Path, held_out: HeldOut, answers: Answers, baseline: Answers | None, outputs: Outputs
) -> list[dict[str, Any]]:
    write_examples(path / "examples.parquet", [(held_out, answers, baseline)], outputs)
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path / "examples.parquet").to_pylist()
    return rows


LOSSES = np.array([0.5, 2.0], dtype=np.float32)


def test_classes_are_names_and_say_what_was_right(tmp_path: Path) -> None:
    answers = Answers(losses=LOSSES, wrong=np.array([0, 1]), predicted=np.array([1, 1]))
    earlier = Answers(losses=LOSSES, wrong=np.array([1, 0]))
    held_out = side(torch.tensor([1, 0]), categories=np.array(["k", "m"], dtype=object))
    first, second = written(tmp_path, held_out, answers, earlier, ClassOutputs(names=("a", "b")))
    assert list(first) == [
        "row_id",
        "split",
        "category",
        "target",
        "predicted",
        "loss",
        "correct",
        "baseline_correct",
    ]
    assert list(first.values()) == ["r1", "test", "k", "b", "b", 0.5, True, False]
    assert list(second.values()) == ["r2", "test", "m", "a", "b", 2.0, False, True]


def test_labels_are_lists_of_names(tmp_path: Path) -> None:
    answers = Answers(
        losses=LOSSES, wrong=np.array([1, 0]), predicted=np.array([[True, True], [False, False]])
    )
    targets = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    first, second = written(tmp_path, side(targets), answers, None, LabelOutputs(names=("x", "y")))
    assert (first["target"], first["predicted"], first["correct"]) == (["y"], ["x", "y"], False)
    assert (second["target"], second["predicted"], second["correct"]) == ([], [], True)
    assert first["baseline_correct"] is None


def test_numbers_are_in_units_as_the_file_has_them(tmp_path: Path) -> None:
    answers = Answers(losses=LOSSES, wrong=None, predicted=np.array([[19.5], [7.0]]))
    outputs = NumberOutputs(names=("price",), mean=(10.0,), deviation=(3.0,))
    held_out = side(torch.zeros(2, 1), raw=np.array([19.99, 7.25]))
    first, second = written(tmp_path, held_out, answers, answers, outputs)
    assert (first["target"], first["predicted"], first["loss"], first["baseline_loss"]) == (
        19.99,
        19.5,
        0.5,
        0.5,
    )
    assert (second["target"], second["predicted"]) == (7.25, 7.0)
    assert "correct" not in first


def test_several_numbers_are_lists(tmp_path: Path) -> None:
    answers = Answers(losses=LOSSES, wrong=None, predicted=np.array([[1.0, 2.0], [3.0, 4.0]]))
    outputs = NumberOutputs(names=("u", "v"), mean=(0.0, 0.0), deviation=(1.0, 1.0))
    held_out = side(torch.zeros(2, 2), raw=np.array([[5.0, 6.0], [7.0, 8.0]]))
    first, _ = written(tmp_path, held_out, answers, None, outputs)
    assert (first["target"], first["predicted"], first["baseline_loss"]) == ([5.0, 6.0], [1.0, 2.0], None)


def test_texts_of_a_language_model_have_a_loss_and_how_many_tokens_count(tmp_path: Path) -> None:
    answers = Answers(
        losses=np.array([1.5, np.nan], dtype=np.float32), wrong=np.array([2, 0]), counted=np.array([4, 0])
    )
    first, second = written(
        tmp_path, side(torch.zeros(3, 2, dtype=torch.int64)), answers, None, TokenOutputs(4)
    )
    assert list(first) == ["row_id", "split", "category", "tokens", "loss", "baseline_loss"]
    assert (first["tokens"], first["loss"]) == (4, 1.5)
    assert (second["tokens"], second["loss"]) == (0, None)
