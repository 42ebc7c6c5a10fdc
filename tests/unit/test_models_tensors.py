"""Tensors for programs and recipes: which column feeds which input, and what is refused."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from gradsight_models import (
    Chunk,
    Column,
    ColumnKind,
    InputTensor,
    TensorPreprocessing,
    preprocessing_from_json,
)


def number(name: str) -> Column:
    return Column(name=name, kind=ColumnKind.NUMBER)


def tensor(name: str, dtype: str, *shape: int) -> Column:
    return Column(name=name, kind=ColumnKind.TENSOR, dtype=dtype, shape=shape)


def wanted(name: str, dtype: str, *shape: int | None) -> InputTensor:
    return InputTensor(name=name, dtype=dtype, shape=shape)


def fitted(columns: list[Column], *inputs: InputTensor) -> TensorPreprocessing:
    return TensorPreprocessing.fit(columns, lambda: iter(()), inputs=inputs)


def test_inputs_take_the_columns_of_their_names_in_the_dtype_they_want() -> None:
    columns = [tensor("mask", "uint8", 3), tensor("ids", "int32", 3)]
    preprocessing = fitted(columns, wanted("ids", "int64", 3), wanted("mask", "bool", None))
    ids, mask = preprocessing.encode(
        [np.array([[1, 0, 1]], dtype=np.uint8), np.array([[7, 8, 9]], dtype=np.int32)]
    ).inputs
    assert ids.dtype == torch.int64
    assert ids.tolist() == [[7, 8, 9]]
    assert mask.tolist() == [[True, False, True]]


def test_numbers_stand_side_by_side_in_one_input() -> None:
    preprocessing = fitted([number("a"), number("b")], wanted("x", "float32", 2))
    (values,) = preprocessing.encode([np.array([1.0, 2.0]), np.array([3.0, 4.0])]).inputs
    assert values.dtype == torch.float32
    assert values.tolist() == [[1.0, 3.0], [2.0, 4.0]]


def test_a_number_a_row_feeds_an_input_of_whole_numbers() -> None:
    preprocessing = fitted(
        [number("shop"), number("price")], wanted("price", "float32", 1), wanted("shop", "int64")
    )
    price, shop = preprocessing.encode([np.array([5.0]), np.array([2.5])]).inputs
    assert price.tolist() == [[2.5]]
    assert shop.tolist() == [5]


def test_as_many_columns_as_inputs_are_taken_in_order() -> None:
    preprocessing = fitted(
        [tensor("a", "float32", 2), tensor("b", "float32", 3)],
        wanted("x", "float32", 2),
        wanted("y", "float32", 3),
    )
    assert preprocessing.sources == ((0,), (1,))


def test_without_inputs_tensors_keep_their_dtype() -> None:
    assert fitted([tensor("a", "int16", 2)]).inputs == (wanted("a", "int16", 2),)
    assert fitted([number("a"), number("b")]).inputs == (wanted("values", "float32", 2),)


@pytest.mark.parametrize(
    ("columns", "inputs", "message"),
    [
        (
            [number("a")],
            [wanted("x", "float32", 1), wanted("y", "float32", 1)],
            "got the columns a, allowed: one for each input",
        ),
        (
            [tensor("x", "float32", 3)],
            [wanted("x", "float32", 4)],
            "column 'x': got 3 a row, allowed for input 'x': 4",
        ),
        (
            [tensor("x", "float32", 3)],
            [wanted("x", "int64", 3)],
            "column 'x': got float32, allowed for input 'x': integers",
        ),
        ([Column(name="x", kind=ColumnKind.TEXT)], [wanted("x", "int64", 3)], "column 'x': got text"),
        ([number("a"), number("b")], [wanted("x", "float32", 3)], "got 2 a row, allowed for input 'x': 3"),
    ],
)
def test_columns_that_do_not_fit_are_named(
    columns: list[Column], inputs: list[InputTensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(columns, *inputs)


@pytest.mark.parametrize(
    ("dtype", "cells", "message"),
    [
        ("float32", np.array([1.0, np.nan]), "column 'a': row 2: got nan, allowed: a finite number"),
        ("float32", np.array([1.0, 1e300]), "column 'a': row 2: got 1e"),
        (
            "int64",
            np.array([1.0, 1.5]),
            "column 'a': row 2: got 1.5, allowed: a whole number that fits int64",
        ),
        ("uint8", np.array([256.0]), "column 'a': row 1: got 256.0"),
        ("int64", np.array([np.nan]), "column 'a': row 1: got nan"),
    ],
)
def test_a_value_that_the_dtype_cannot_hold_names_row_and_column(
    dtype: str, cells: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fitted([number("a")], wanted("x", dtype)).encode([cells])


def test_encoding_copies() -> None:
    rows: Chunk = [np.ones((2, 3), dtype=np.float32)]
    (values,) = fitted([tensor("x", "float32", 3)], wanted("x", "float32", 3)).encode(rows).inputs
    values.zero_()
    assert rows[0].all()


def test_tensors_survive_json() -> None:
    columns = [number("a"), number("b")]
    for preprocessing in (
        fitted(columns, wanted("x", "float32", None)),
        fitted(columns, wanted("b", "int64"), wanted("a", "bool")),
    ):
        assert preprocessing_from_json(json.loads(json.dumps(preprocessing.to_json()))) == preprocessing
