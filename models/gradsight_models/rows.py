"""Rows as a caller of `predict` has them, to a chunk of columns as training had them."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradsight_models.columns import Chunk, Column, ColumnKind
from gradsight_models.images import decode_image

Row = Mapping[str, Any] | Any
"""The input columns by name; or, where the model reads one column, its value."""


def chunk_of(rows: Sequence[Row], columns: Sequence[Column], *, optional: frozenset[str]) -> Chunk:
    """One array for each column. Columns that are `optional` may be left out of a row; any cell may be None.

    Raises ValueError that names row (from 1) and column.
    """
    cells: list[list[Any]] = [[] for _ in columns]
    for number, row in enumerate(rows, start=1):
        fields = _fields(row, number, columns)
        for of_column, column in zip(cells, columns, strict=True):
            if column.name not in fields and column.name not in optional:
                names = ", ".join(known.name for known in columns)
                raise ValueError(f"row {number}: no {column.name!r}; the model reads {names}")
            try:
                of_column.append(_CELLS[column.kind](fields.get(column.name), column))
            except (TypeError, ValueError, OSError) as error:
                raise ValueError(f"row {number}, column {column.name!r}: {error}") from None
    return [_array(of_column, column) for of_column, column in zip(cells, columns, strict=True)]


def example_chunk(columns: Sequence[Column], rows: int = 2) -> Chunk:
    """Rows that say nothing, of the right shapes: what a model is traced with."""
    empty: Mapping[ColumnKind, Any] = {ColumnKind.NUMBER: 0.0, ColumnKind.TEXT: ""}
    return [
        np.zeros((rows, *column.shape), dtype=column.dtype)
        if column.kind is ColumnKind.TENSOR
        else _array([empty[column.kind]] * rows, column)
        for column in columns
    ]


def _fields(row: Row, number: int, columns: Sequence[Column]) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return row
    if len(columns) != 1:
        names = ", ".join(column.name for column in columns)
        raise ValueError(f"row {number}: got {type(row).__name__}, allowed: a dict with the columns {names}")
    return {columns[0].name: row}


def _number(cell: Any, column: Column) -> float:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return float("nan")
    try:
        return float(cell)
    except (TypeError, ValueError):
        raise ValueError(f"got {cell!r}, allowed: a number, or None where there is none") from None


def _text(cell: Any, column: Column) -> str | None:
    if cell is None or isinstance(cell, str):
        return cell
    raise ValueError(f"got {cell!r}, allowed: a text, or None where there is none")


def _tensor(cell: Any, column: Column) -> npt.NDArray[Any]:
    if isinstance(cell, str | os.PathLike):
        cell = Path(cell).read_bytes()
    if isinstance(cell, bytes | bytearray):
        if len(column.shape) not in (2, 3) or column.dtype != "uint8":
            raise ValueError("got an image file, allowed: an array, for training had no image files")
        channels, height, width = column.shape if len(column.shape) == 3 else (1, *column.shape)
        cell = decode_image(bytes(cell), channels=channels, height=height, width=width).reshape(column.shape)
    array = np.asarray(cell)
    if array.shape != column.shape or array.dtype.kind not in "biuf":
        shape = " × ".join(map(str, column.shape)) or "one number"
        raise ValueError(f"got {array.dtype} of shape {array.shape}, allowed: {column.dtype}, {shape}")
    with np.errstate(invalid="ignore", over="ignore"):
        converted = array.astype(column.dtype)
    if np.dtype(column.dtype).kind != "f" and not np.array_equal(converted, array):
        raise ValueError(
            f"got numbers that {column.dtype} cannot hold, allowed: whole numbers within its range"
        )
    return converted


_CELLS: Mapping[ColumnKind, Callable[[Any, Column], Any]] = {
    ColumnKind.NUMBER: _number,
    ColumnKind.TEXT: _text,
    ColumnKind.TENSOR: _tensor,
}


def _array(cells: Sequence[Any], column: Column) -> npt.NDArray[Any]:
    if column.kind is ColumnKind.NUMBER:
        return np.array(cells, dtype=np.float64)
    if column.kind is ColumnKind.TENSOR:
        return np.stack(cells) if cells else np.zeros((0, *column.shape), dtype=column.dtype)
    return np.array(cells, dtype=object)
