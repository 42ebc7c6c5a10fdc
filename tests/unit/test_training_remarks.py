"""Remarks: what stands out in a column is counted, and what does not is not mentioned."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradsight.v1 import event_pb2
from gradsight_models.columns import Column, ColumnKind, Reading
from gradsight_worker.training.data.remarks import column_remarks, imbalance_ratio
from gradsight_worker.training.data.rows import Rows
from gradsight_worker.training.data.splits import Splits

COLUMNS = [
    Column(name="plain", kind=ColumnKind.NUMBER),
    Column(name="gaps", kind=ColumnKind.NUMBER),
    Column(name="same", kind=ColumnKind.NUMBER),
    Column(name="size", kind=ColumnKind.TEXT),
    Column(name="image", kind=ColumnKind.TENSOR, dtype="uint8", shape=(2,)),
]


def side(gaps: Sequence[float], same: Sequence[float], size: Sequence[Any]) -> Rows:
    count = len(gaps)
    return Rows.in_memory(
        COLUMNS,
        [
            np.arange(count, dtype=np.float64),
            np.array(gaps, dtype=np.float64),
            np.array(same, dtype=np.float64),
            np.array(size, dtype=object),
            np.zeros((count, 2), dtype=np.uint8),
        ],
        targets=np.array(["x"] * count, dtype=object),
    )


def splits() -> Splits:
    return Splits(
        train=side([1, np.nan, 2], [5, 5, 5], ["S", None, "M"]),
        validation=side([np.nan, 2], [5, 6], ["S", "XL"]),
        test=side([1, 2], [7, 7], ["L", None]),
        duplicate_rows=0,
        leaked_rows=0,
        digest="0" * 64,
    )


def test_gaps_constants_and_unseen_words_are_counted_over_the_splits() -> None:
    assert column_remarks(splits(), Reading.TABLE) == [
        event_pb2.ColumnRemark(column="gaps", missing_rows=2),
        event_pb2.ColumnRemark(column="same", constant=True),
        event_pb2.ColumnRemark(column="size", missing_rows=2, unseen_rows=2),
    ]


def test_texts_are_not_compared_word_by_word() -> None:
    remarks = {remark.column: remark for remark in column_remarks(splits(), Reading.TEXT)}
    assert remarks["size"].unseen_rows == 0
    assert remarks["size"].missing_rows == 2


def test_a_column_without_any_value_in_train_is_constant() -> None:
    rows = side([np.nan] * 3, [1, np.nan, 1], ["S", "S", None])
    all_alike = Splits(
        train=rows, validation=rows, test=rows, duplicate_rows=0, leaked_rows=0, digest="0" * 64
    )
    constant = {r.column: r.constant for r in column_remarks(all_alike, Reading.TABLE)}
    assert constant == {"gaps": True, "same": False, "size": False}


def test_imbalance_is_worth_a_word_beyond_ten_to_one() -> None:
    assert imbalance_ratio(np.array([100, 10])) is None
    assert imbalance_ratio(np.array([101, 0, 10, 50])) == 10.1
    assert imbalance_ratio(np.array([0])) is None
