"""Tables: numbers standardised, words as places, what is missing and what is new."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradsight_models import Chunk, Chunks, Column, ColumnKind, TablePreprocessing, preprocessing_from_json
from gradsight_models.table_preprocessing import FARTHEST, MOST_WORDS


def number(name: str = "n") -> Column:
    return Column(name=name, kind=ColumnKind.NUMBER)


def words(name: str = "w") -> Column:
    return Column(name=name, kind=ColumnKind.TEXT)


def cells(column: Column, values: Sequence[Any]) -> Any:
    if column.kind is ColumnKind.TENSOR:
        return np.array(values, dtype=column.dtype)
    return np.array(values, dtype=np.float64 if column.kind is ColumnKind.NUMBER else object)


def chunks_of(chunk: Chunk, size: int = 3) -> Chunks:
    def chunks() -> Iterator[Chunk]:
        for start in range(0, len(chunk[0]), size):
            yield [column[start : start + size] for column in chunk]

    return chunks


def fitted(*parts: tuple[Column, Sequence[Any]]) -> TablePreprocessing:
    columns = [column for column, _ in parts]
    return TablePreprocessing.fit(columns, chunks_of([cells(column, values) for column, values in parts]))


def encoded(table: TablePreprocessing, *parts: tuple[Column, Sequence[Any]]) -> list[list[float]]:
    (values,) = table.encode([cells(column, values) for column, values in parts]).inputs
    rows: list[list[float]] = values.tolist()
    return rows


def test_numbers_are_standardised_by_train() -> None:
    table = fitted((number(), [1.0, 2.0, 3.0, 4.0]))
    rows = np.array(encoded(table, (number(), [1.0, 2.0, 3.0, 4.0])))
    assert rows.mean() == pytest.approx(0.0, abs=1e-6)
    assert rows.std() == pytest.approx(1.0, abs=1e-6)


def test_a_missing_number_is_the_mean_and_marked_where_train_has_missing_ones() -> None:
    table = fitted((number(), [1.0, np.nan, 3.0]), (number("m"), [1.0, 2.0, 3.0]))
    assert table.size == 3
    assert encoded(table, (number(), [np.nan]), (number("m"), [np.nan])) == [[0.0, 1.0, 0.0]]
    assert table.optional == {"n"}


def test_a_constant_column_is_zero_everywhere() -> None:
    for constant in (7.1, 0.0, -1e300, 1e-300):
        table = fitted((number(), [constant] * 5))
        assert encoded(table, (number(), [constant, 5e8])) == [[0.0], [0.0]]


def test_a_column_without_any_value_is_zero() -> None:
    table = fitted((number(), [np.nan] * 4), (words(), [None] * 4))
    assert encoded(table, (number(), [3.0]), (words(), ["a"]))[0][0] == 0.0


def test_a_small_column_is_not_taken_for_a_constant_one() -> None:
    table = fitted((number(), [1e-20, 2e-20, 3e-20]))
    assert encoded(table, (number(), [3e-20]))[0][0] == pytest.approx(1.2247, abs=1e-3)


def test_the_deviation_survives_a_large_mean() -> None:
    values = 1e9 + np.array([0.0, 1.0, 2.0] * 1000)
    table = fitted((number(), values.tolist()))
    assert np.array(encoded(table, (number(), values.tolist()))).std() == pytest.approx(1.0, rel=1e-4)


def test_words_have_places_in_order_of_frequency_then_name() -> None:
    table = fitted((words(), ["b", "a", "c", "b"]))
    assert encoded(table, (words(), ["b", "a", " c "])) == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_a_missing_word_is_a_word_of_its_own_and_a_new_one_is_none() -> None:
    table = fitted((words(), ["a", None, ""]))
    assert encoded(table, (words(), ["a", None, "", "new"])) == [[1, 0], [0, 1], [0, 1], [0, 0]]
    assert encoded(fitted((words(), ["a"])), (words(), [None])) == [[0]]


def test_rare_words_beyond_the_limit_share_a_place_with_new_ones() -> None:
    frequent = [f"word{n:04d}" for n in range(MOST_WORDS)]
    table = fitted((words(), [*frequent, *frequent, "zz-rare"]))
    assert table.size == MOST_WORDS + 1
    rows = encoded(table, (words(), ["zz-rare", "new", frequent[0]]))
    assert rows[0] == rows[1] != rows[2]
    assert rows[0][-1] == 1


def test_a_tensor_of_numbers_is_as_many_columns() -> None:
    tensor = Column(name="t", kind=ColumnKind.TENSOR, dtype="int16", shape=(2, 2))
    table = fitted((tensor, [[[1, 2], [3, 4]], [[3, 2], [5, 6]]]))
    assert encoded(table, (tensor, [[[1, 2], [3, 4]]])) == [[-1.0, 0.0, -1.0, -1.0]]


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_a_number_that_the_model_could_not_see_names_row_and_column(bad: float) -> None:
    table = fitted((number("width"), [1.0, 2.0]))
    with pytest.raises(ValueError, match=r"column 'width': row 2: got .*, allowed: a finite number"):
        encoded(table, (number("width"), [1.0, bad]))


def test_a_number_far_off_is_cut_and_never_overflows() -> None:
    table = fitted((number(), [1.0, 2.0, 3.0]))
    assert encoded(table, (number(), [1e300, -1e9, 3.0]))[:2] == [[FARTHEST], [-FARTHEST]]


def test_an_infinite_number_in_train_names_its_column() -> None:
    with pytest.raises(ValueError, match="column 'width': row 2: got inf"):
        fitted((number("width"), [1.0, np.inf]))


def test_another_number_of_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="got 2 columns, allowed: the 1 of training"):
        encoded(fitted((number(), [1.0])), (number(), [1.0]), (number(), [1.0]))


def test_a_column_of_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="column 'l': got labels, allowed: numbers, words"):
        TablePreprocessing.fit([Column(name="l", kind=ColumnKind.LABELS)], lambda: iter(()))


numbers = st.one_of(st.none(), st.floats(-1e30, 1e30))
texts = st.one_of(st.none(), st.text(max_size=3))


@given(
    st.lists(st.tuples(numbers, texts), min_size=1, max_size=20),
    st.lists(st.tuples(numbers, texts), min_size=1, max_size=20),
)
def test_any_rows_encode_to_finite_numbers_and_the_same_after_json(
    train: list[tuple[float | None, str | None]], held_out: list[tuple[float | None, str | None]]
) -> None:
    columns = [number(), words()]
    table = TablePreprocessing.fit(columns, chunks_of(rows(train)))
    again = preprocessing_from_json(json.loads(json.dumps(table.to_json(), allow_nan=False)))
    assert again == table
    for part in (train, held_out):
        (values,) = again.encode(rows(part)).inputs
        assert values.shape == (len(part), table.size)
        assert (values.abs() <= FARTHEST).all()


def rows(pairs: list[tuple[float | None, str | None]]) -> Chunk:
    return [
        np.array([np.nan if value is None else value for value, _ in pairs], dtype=np.float64),
        cells(words(), [text for _, text in pairs]),
    ]
