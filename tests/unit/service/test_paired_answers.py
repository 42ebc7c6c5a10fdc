"""Rows are paired by who they are, and only where both files speak of the same row."""

import io
import random
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from gradsight_service.paired_answers import NotPaired, answers_of_baseline, pair_answers

Row = dict[str, Any]


def row(row_id: object, *, correct: bool | None = True, target: Any = "a", **more: Any) -> Row:
    told = {"row_id": str(row_id), "split": "test", "category": None, "target": target, "correct": correct}
    return {**told, "predicted": target, "loss": 0.5, "baseline_correct": None, **more}


def file_of(rows: Sequence[Row], target: pa.DataType | None = None) -> BinaryIO:
    """A file as a job leaves it behind."""
    types = {
        "row_id": pa.string(),
        "split": pa.string(),
        "category": pa.string(),
        "target": target or pa.string(),
        "predicted": target or pa.string(),
        "loss": pa.float32(),
        "correct": pa.bool_(),
        "baseline_correct": pa.bool_(),
    }
    written = io.BytesIO()
    pa.parquet.write_table(pa.Table.from_pylist(list(rows), schema=pa.schema(types)), written)
    written.seek(0)
    return written


def test_rows_are_paired_by_id_whatever_their_order() -> None:
    wrong = {"b", "d"}
    old = [row(name, correct=name not in wrong) for name in "abcdef"]
    new = [row(name, correct=name != "e", category="cat" + name) for name in "abcdef"]
    random.Random(1).shuffle(new)
    paired = pair_answers(file_of(old), file_of(new))
    assert paired.message == ""
    assert paired.categories is not None
    names = [paired.categories.names[code][-1] for code in paired.categories.codes]
    assert sorted(names) == list("abcdef")
    assert dict(zip(names, paired.baseline_correct.tolist(), strict=True)) == {
        name: name not in wrong for name in names
    }
    assert dict(zip(names, paired.correct.tolist(), strict=True)) == {name: name != "e" for name in names}


def test_only_test_rows_that_both_answered_once_count_and_the_message_says_so() -> None:
    old = [row(1), row(2), row(3), row(4), row(4), row(5, split="validation")]
    new = [row(1), row(2), row(4), row(5), row(6, correct=None)]
    paired = pair_answers(file_of(old), file_of(new))
    assert len(paired.correct) == 2
    assert paired.categories is None
    assert paired.message == (
        "Test rows that both answered: 2; left out: 3 of the old job's and 2 of the new job's."
    )


def test_a_row_whose_label_was_corrected_is_judged_by_two_truths_and_left_out() -> None:
    old = [row(1), row(2), row(3, target="b")]
    paired = pair_answers(file_of(old), file_of([row(1), row(2), row(3)]))
    assert len(paired.correct) == 2
    assert paired.message == "Left out, because their target is another in the other job: 1."


def test_ids_that_name_other_rows_pair_nothing() -> None:
    old = [row(number, target=str(number)) for number in range(10)]
    new = [row(number, target=str((number + 3) % 10)) for number in range(10)]
    with pytest.raises(NotPaired, match="10 of the 10 test rows with equal ids have other targets"):
        pair_answers(file_of(old), file_of(new))


@pytest.mark.parametrize(("old", "new"), [([row(1)], [row(2)]), ([], [row(2)]), ([], [])])
def test_nothing_in_common_is_no_comparison(old: list[Row], new: list[Row]) -> None:
    with pytest.raises(NotPaired, match="no test row in common"):
        pair_answers(file_of(old), file_of(new))


def test_rows_with_several_labels_are_the_same_when_all_labels_are() -> None:
    labels = pa.list_(pa.string())
    old = [row(1, target=["a", "b"]), row(2, target=[]), row(3, target=["a"])]
    new = [row(1, target=["a", "b"], correct=False), row(2, target=[]), row(3, target=["b"])]
    paired = pair_answers(file_of(old, labels), file_of(new, labels))
    assert (paired.baseline_correct.tolist(), paired.correct.tolist()) == ([True, True], [False, True])


def test_a_file_that_holds_its_baselines_answers_needs_no_other() -> None:
    rows = [row(number, baseline_correct=number % 2 == 0) for number in range(6)]
    paired = answers_of_baseline(file_of(rows))
    assert paired is not None
    assert np.array_equal(paired.baseline_correct, [True, False] * 3)
    assert paired.correct.all()
    assert answers_of_baseline(file_of([row(1)])) is None
    assert answers_of_baseline(file_of([])) is None


def test_the_service_starts_without_pyarrow() -> None:
    program = "import sys, gradsight_service.serve; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
