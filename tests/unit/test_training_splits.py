"""Splits: content decides the side, so a row stays where it is and copies never straddle."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradsight.v1 import spec_pb2
from gradsight_models.columns import Column, ColumnKind
from gradsight_worker.training.data.hashing import row_hashes
from gradsight_worker.training.data.rows import Rows
from gradsight_worker.training.data.splits import Splits, split_rows
from gradsight_worker.training.errors import TrainingFailed

SPEC = spec_pb2.SplitSpec(validation_fraction=0.2, test_fraction=0.2, seed=3)


def texts(values: Sequence[str], categories: Sequence[str] | None = None) -> Rows:
    return Rows.in_memory(
        [Column(name="text", kind=ColumnKind.TEXT)],
        [np.array(values, dtype=object)],
        targets=np.array([f"class{len(value) % 3}" for value in values], dtype=object),
        categories=None if categories is None else np.array(categories, dtype=object),
        ids=np.array([str(n) for n in range(len(values))], dtype=object),
    )


def column(rows: Rows) -> list[str]:
    return [cell for chunk in rows.chunks() for cell in chunk[0]]


def sides(splits: Splits) -> dict[str, str]:
    named = (("train", splits.train), ("validation", splits.validation), ("test", splits.test))
    return {str(text): side for side, rows in named for text in column(rows)}


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(300)), st.integers(100, 300))
def test_a_row_keeps_its_side_when_the_file_is_sorted_anew_and_grows(order: list[int], few: int) -> None:
    before = sides(split_rows(texts([f"row {n}" for n in range(few)]), None, None, SPEC))
    after = sides(split_rows(texts([f"row {n}" for n in order]), None, None, SPEC))
    assert {text: after[text] for text in before} == before


def test_the_shares_are_about_those_asked_for_and_follow_the_seed() -> None:
    rows = texts([f"row {n}" for n in range(5000)])
    splits = split_rows(rows, None, None, SPEC)
    assert len(splits.validation) == pytest.approx(1000, rel=0.1)
    assert len(splits.test) == pytest.approx(1000, rel=0.1)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 5000
    other = split_rows(
        rows, None, None, spec_pb2.SplitSpec(validation_fraction=0.2, test_fraction=0.2, seed=4)
    )
    assert sides(other) != sides(splits)
    assert other.digest != splits.digest


def test_copies_of_a_row_are_on_one_side_and_counted() -> None:
    splits = split_rows(texts([f"row {n % 200}" for n in range(600)]), None, None, SPEC)
    assert splits.duplicate_rows == 400
    assert splits.leaked_rows == 0


def test_given_files_are_honoured_and_what_they_share_with_train_is_counted() -> None:
    train, test = texts([f"row {n}" for n in range(200)]), texts(["row 1", "row 2", "new"])
    splits = split_rows(train, None, test, SPEC)
    assert column(splits.test) == ["row 1", "row 2", "new"]
    kept = set(column(splits.train))
    assert splits.leaked_rows == sum(text in kept for text in ("row 1", "row 2"))
    whole = split_rows(train, texts(["a"]), texts(["b"]), SPEC)
    assert len(whole.train) == 200


def test_validation_is_the_same_whether_test_comes_as_a_file_or_not() -> None:
    train = texts([f"row {n}" for n in range(300)])
    split_off = split_rows(train, None, None, SPEC)
    given_one = split_rows(train, None, texts(["new"]), SPEC)
    assert list(given_one.validation.ids) == list(split_off.validation.ids)


def test_the_hash_is_the_documented_one() -> None:
    rows = Rows.in_memory(
        [Column(name=name, kind=ColumnKind.NUMBER) for name in ("b", "a")],
        [np.array([2.0, -0.0]), np.array([1.5, 0.0])],
        targets=np.array(["é", "x"], dtype=object),
        categories=np.array(["c", ""], dtype=object),
        ids=np.array(["1", "2"], dtype=object),
    )
    cells = [
        np.array([1.5, 2.0], "<f8").tobytes() + b"\x02\0\0\0" + "é".encode() + b"\x01\0\0\0c",
        np.array([0.0, 0.0], "<f8").tobytes() + b"\x01\0\0\0x" + b"\0\0\0\0",
    ]
    key = (7).to_bytes(8, "little")
    expected = [int.from_bytes(hashlib.blake2b(c, digest_size=8, key=key).digest(), "little") for c in cells]
    assert row_hashes(rows, 7).tolist() == expected


def test_too_few_rows_for_a_side_are_refused_with_what_to_do() -> None:
    with pytest.raises(TrainingFailed, match="left none for") as caught:
        split_rows(texts(["only one"]), None, None, SPEC)
    assert caught.value.error.field == "data.split"
