"""From arrays in a file to rows: which are read as what, and what no number may be."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gradsight_models.columns import Column, ColumnKind, Reading
from gradsight_worker.training.data.cells import ArrayCells, Cells, TensorCells
from gradsight_worker.training.data.faults import (
    CLASS_EXPECTED,
    NUMBER_EXPECTED,
    TEXT_EXPECTED,
    bad_cell,
    lost_column,
    names_of,
)
from gradsight_worker.training.data.mapped import MappedFile
from gradsight_worker.training.data.rows import NO_CATEGORY, Roles, Rows, TargetKind
from gradsight_worker.training.data.tables import Survey
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.plan import DataFile

Array = npt.NDArray[Any]

_CHECKED_BYTES = 2 << 20
_ZERO_OR_ONE = "0 or 1"


@dataclass(frozen=True, kw_only=True)
class RawColumn:
    """One array of a file, rows first: of numbers, booleans or texts."""

    values: Array
    """A view of the mapped file; in memory where there is none."""
    file: MappedFile | None = None
    decode: Callable[[Array], Array] = np.array
    """From a part of `values` to a native copy: numbers and booleans as they are, texts as objects."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the decoded cells."""
        return self.decode(self.values[:0]).dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return tuple(self.values.shape[1:])

    @property
    def is_text(self) -> bool:
        """Whether its cells are texts."""
        return self.dtype == np.object_

    def cells(self, convert: Callable[[Array], Array]) -> Cells:
        """Its cells, decoded and converted when they are gathered."""
        if self.file is None:
            return ArrayCells(convert(self.decode(self.values)))
        return TensorCells(
            values=self.values, file=self.file, convert=lambda part: convert(self.decode(part))
        )


def read_arrays(arrays: Mapping[str, RawColumn], file: DataFile, roles: Roles) -> Rows:
    """Every row of the arrays, checked. Raises TrainingFailed with row and column."""
    rows = _require_equal_lengths(arrays, file)
    names = _input_names(arrays, file, roles, rows)
    for name, field in [*((name, "data.input_columns") for name in names), *roles.others]:
        if name not in arrays:
            raise lost_column(file, name, list(arrays), field)
    columns = tuple(_column(name, arrays[name]) for name in names)
    for column, expected in zip(columns, roles.columns, strict=False):
        _require_as_before(column, expected, file)
    inputs = tuple(_input(column, arrays[column.name], file) for column in columns)
    used = {*names, *(name for name, _ in roles.others)}
    return Rows(
        columns=columns,
        inputs=inputs,
        target=_target(arrays, file, roles),
        category=_text_role(arrays, roles.category, file, missing=NO_CATEGORY),
        id=_text_role(arrays, roles.id, file),
        filename=file.filename,
        left_out=tuple(name for name in arrays if name not in used),
    )


def _require_equal_lengths(arrays: Mapping[str, RawColumn], file: DataFile) -> int:
    lengths: dict[int, str] = {}
    for name, column in arrays.items():
        if column.values.ndim == 0:
            raise TrainingFailed.by_data(
                f"{file.filename}: tensor {json.dumps(name)} is a single number; rows come first"
            )
        lengths.setdefault(len(column.values), name)
    if len(lengths) > 1:
        (first, one), (second, other) = list(lengths.items())[:2]
        raise TrainingFailed.by_data(
            f"{file.filename}: tensor {json.dumps(one)} has {first} rows and {json.dumps(other)} has {second}; all "
            f"must have the same number"
        )
    if not sum(lengths):
        raise TrainingFailed.by_data(f"{file.filename} has no rows")
    return next(iter(lengths))


def _input_names(arrays: Mapping[str, RawColumn], file: DataFile, roles: Roles, rows: int) -> tuple[str, ...]:
    if named := tuple(column.name for column in roles.columns) or roles.inputs:
        return named
    one = {
        Reading.TEXT: ("text",),
        Reading.IMAGES: ("image",),
        Reading.TOKENS: tuple(name for name in ("text", "tokens") if name in arrays)[:1] or ("tokens",),
    }
    if roles.reading in one:
        return one[roles.reading]
    if roles.input_names and set(roles.input_names) <= set(arrays):
        return roles.input_names
    found = tuple(
        name
        for name, column in arrays.items()
        if name not in roles.reserved
        and (not column.is_text or (roles.reading is Reading.TABLE and _has_few_words(column, rows)))
    )
    if not found:
        raise TrainingFailed.by_data(
            f"{file.filename} has no numeric column beside the target; name the columns to read of "
            f"{names_of(list(arrays))}",
            field="data.input_columns",
        )
    return found


def _has_few_words(column: RawColumn, rows: int) -> bool:
    survey = Survey()
    for _, part in _parts(column):
        survey.add_words(pa.array(part, pa.string()), numbers=0, missing=0)
    return survey.has_few_words


def _column(name: str, raw: RawColumn) -> Column:
    if raw.is_text:
        return Column(name=name, kind=ColumnKind.TEXT)
    if not raw.shape:
        return Column(name=name, kind=ColumnKind.NUMBER)
    return Column(name=name, kind=ColumnKind.TENSOR, dtype=raw.dtype.name, shape=raw.shape)


def _require_as_before(column: Column, expected: Column, file: DataFile) -> None:
    if column != expected:
        raise TrainingFailed.by_data(
            f"{file.filename}, column {json.dumps(column.name)}: got {_described(column)}, expected "
            f"{_described(expected)} as in train"
        )


def _described(column: Column) -> str:
    if column.kind is ColumnKind.TENSOR:
        return f"tensors of {column.dtype}, shape {list(column.shape)} a row"
    return "numbers" if column.kind is ColumnKind.NUMBER else "texts"


def _input(column: Column, raw: RawColumn, file: DataFile) -> Cells:
    if column.kind is ColumnKind.TEXT:
        _require(raw, _encodable, column.name, TEXT_EXPECTED, file)
        return raw.cells(_same)
    if raw.dtype.kind == "f":
        # A lone number may be missing; in a tensor there is no place for that.
        fits = _not_infinite if column.kind is ColumnKind.NUMBER else np.isfinite
        _require(raw, fits, column.name, NUMBER_EXPECTED, file)
    return raw.cells(_same if column.kind is ColumnKind.TENSOR else _as_float64)


def _target(arrays: Mapping[str, RawColumn], file: DataFile, roles: Roles) -> Cells | None:
    if not roles.target or not roles.target_kind:
        return None
    raw, name = arrays[roles.target], roles.target
    if roles.target_kind is TargetKind.NUMBER:
        if raw.is_text or raw.values.ndim > 2:
            raise _bad_target(file, name, raw, "a number a row, or a list of them")
        if raw.dtype.kind == "f":
            _require(raw, np.isfinite, name, NUMBER_EXPECTED, file)
        return raw.cells(_as_float64)
    if roles.target_kind is TargetKind.LABELS and raw.shape:
        if raw.values.ndim > 2 or raw.is_text:
            raise _bad_target(file, name, raw, "a list of 0 and 1 a row")
        _require(raw, lambda part: (part == 0) | (part == 1), name, _ZERO_OR_ONE, file)
        return raw.cells(_as_label_lists)
    if raw.shape:
        raise _bad_target(file, name, raw, "one class a row")
    _require_names(raw, name, file)
    return raw.cells(_as_names)


def _bad_target(file: DataFile, name: str, raw: RawColumn, expected: str) -> TrainingFailed:
    return TrainingFailed.by_data(
        f"{file.filename}, column {json.dumps(name)}: got {_described(_column(name, raw))}, expected {expected}",
        field="data.target_column",
    )


def _text_role(
    arrays: Mapping[str, RawColumn], name: str | None, file: DataFile, missing: str | None = None
) -> Cells | None:
    if name is None:
        return None
    raw = arrays[name]
    if raw.shape:
        raise TrainingFailed.by_data(
            f"{file.filename}, column {json.dumps(name)}: got {_described(_column(name, raw))}, expected one text or "
            f"number a row"
        )
    if missing is None:
        _require_names(raw, name, file)
        return raw.cells(_as_names)
    if raw.is_text:
        _require(raw, _encodable, name, TEXT_EXPECTED, file)
    return raw.cells(lambda part: np.array([cell or missing for cell in _as_names(part)], dtype=object))


def _require_names(raw: RawColumn, name: str, file: DataFile) -> None:
    if raw.is_text:
        _require(raw, _encodable, name, TEXT_EXPECTED, file)
        _require(raw, lambda part: part != "", name, CLASS_EXPECTED, file)
    elif raw.dtype.kind == "f":
        _require(raw, np.isfinite, name, CLASS_EXPECTED, file)


def _require(
    raw: RawColumn, fits: Callable[[Array], Array], name: str, expected: str, file: DataFile
) -> None:
    """Raise TrainingFailed at the first cell that does not fit."""
    for first, part in _parts(raw):
        good = np.asarray(fits(part), dtype=bool)
        if not good.all():
            place = np.argwhere(~good)[0]
            got = part[tuple(place)]
            # JSON has no word for what is not finite.
            shown = (
                str(got)
                if isinstance(got, np.floating)
                else got.item()
                if isinstance(got, np.generic)
                else got
            )
            raise bad_cell(file, first + int(place[0]) + 1, name, shown, expected)


def _parts(raw: RawColumn) -> Iterator[tuple[int, Array]]:
    """The place of each part's first row, and its decoded cells; the file's pages are let go of in between."""
    row_bytes = max(1, raw.values[:1].nbytes)
    length = max(1, _CHECKED_BYTES // row_bytes)
    for start in range(0, len(raw.values), length):
        part = raw.decode(raw.values[start : start + length])
        if raw.file is not None:
            raw.file.release()
        yield start, part


def _encodable(texts: Array) -> Array:
    return np.array([not any("\ud800" <= c <= "\udfff" for c in text) for text in texts.tolist()], dtype=bool)


def _not_infinite(numbers: Array) -> Array:
    return np.asarray(~np.isinf(numbers))


def _same(part: Array) -> Array:
    return part


def _as_float64(part: Array) -> Array:
    return part.astype(np.float64, copy=False)


def _as_names(part: Array) -> Array:
    """Texts as they are, numbers as JSON writes them; 3.0 and 3 are one class, NaN is no value."""
    return np.array([_name_of(cell) for cell in part.tolist()], dtype=object)


def _name_of(cell: Any) -> str:
    if isinstance(cell, str):
        return cell
    if isinstance(cell, float):
        return "" if cell != cell else str(int(cell)) if cell.is_integer() else repr(cell)
    return json.dumps(cell)


def _as_label_lists(part: Array) -> Array:
    lists = np.empty(len(part), dtype=object)
    lists[:] = [tuple(str(place) for place in np.flatnonzero(row)) for row in part]
    return lists
