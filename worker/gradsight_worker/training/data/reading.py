"""Files to checked columns: CSV and JSON Lines in UTF-8.

The fast way hands the whole file to pyarrow, on one thread: a forked process must not lean on a thread pool. Whatever
pyarrow refuses or finds odd is walked row by row, which is slow and knows the row and the column at fault.
"""

import json
import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa

from gradsight.v1 import spec_pb2
from gradsight_worker.training.data import csv_file, jsonl_file
from gradsight_worker.training.data.rows import NumberColumn, Roles, Rows, TextColumn
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.plan import DataFile

Cells = Mapping[str, Sequence[Any] | NumberColumn | TextColumn]
"""Columns by name, in the file's order."""

_NO_CATEGORY = "(none)"
_MOSTLY = 0.5
"""A column with at least this share of numbers is meant to be numeric."""


def read_rows(file: DataFile, roles: Roles, *, field: str) -> Rows:
    """Every row of the file, checked. Raises TrainingFailed with row and column; `field` names the file's source."""
    reader = _reader_of(file)
    try:
        columns = _read_fast(reader, file, roles)
        if columns is None:
            columns = _read_slowly(reader, file, roles)
        return _rows_of(columns, roles, file)
    except TrainingFailed as failure:
        failure.error.field = failure.error.field or field
        raise


def _reader_of(file: DataFile) -> ModuleType:
    name = file.filename.lower()
    if file.format == spec_pb2.DATA_FORMAT_CSV or (not file.format and name.endswith(".csv")):
        return csv_file
    if file.format == spec_pb2.DATA_FORMAT_JSONL or (
        not file.format and name.endswith((".jsonl", ".ndjson"))
    ):
        return jsonl_file
    raise TrainingFailed.by_data(
        f"{file.filename}: unknown format; name the file *.csv, *.jsonl or *.ndjson, or set the format"
    )


def _read_fast(reader: ModuleType, file: DataFile, roles: Roles) -> Cells | None:
    """The columns, or None when anything is odd."""
    try:
        table: pa.Table | None = reader.read_table(file, roles)
        if table is None or any(column.null_count for column in table.columns):
            return None
        return {name: table.column(name).to_numpy() for name in table.column_names}
    except (pa.ArrowException, UnicodeDecodeError):
        return None


def _read_slowly(reader: ModuleType, file: DataFile, roles: Roles) -> Cells:
    """The columns by walking the file; raises at the first row that cannot be used."""
    rows = list(reader.walk(file))
    names = {name: None for row in rows for name in row}
    _require(roles, tuple(names), file)
    numeric = roles.inputs if roles.numeric else ()
    if roles.numeric and not roles.inputs:
        others = [name for name in names if name not in roles.texts]
        numeric = tuple(name for name in others if _is_mostly_numeric(name, rows, reader))
    wanted = [name for name in names if name in roles.texts or name in numeric]
    columns: dict[str, Any] = {name: [] for name in wanted}
    for number, row in enumerate(rows, start=1):
        for name in wanted:
            convert = reader.number if name in numeric else reader.text
            value = convert(row.get(name))
            if value is None and name == roles.category:
                value = ""
            if value is None:
                expected = "a finite number" if name in numeric else "text"
                raise _bad_cell(file, number, name, row.get(name), expected)
            columns[name].append(value)
    return {
        name: np.array(values, dtype=np.float64 if name in numeric else object)
        for name, values in columns.items()
    }


def _is_mostly_numeric(name: str, rows: Sequence[Mapping[str, Any]], reader: ModuleType) -> bool:
    found = sum(reader.number(row.get(name)) is not None for row in rows)
    return found > 0 and found >= _MOSTLY * len(rows)


def _rows_of(columns: Cells, roles: Roles, file: DataFile) -> Rows:
    names = roles.inputs or tuple(name for name in columns if name not in roles.texts)
    if not names:
        raise TrainingFailed.by_data(
            f"{file.filename} has no numeric column beside the target; name the columns to read",
            field="data.input_columns",
        )
    targets = np.asarray(columns[roles.target], dtype=object)
    if len(targets) == 0:
        raise TrainingFailed.by_data(f"{file.filename} has no rows")
    empty = np.flatnonzero(targets == "")
    if len(empty):
        raise _bad_cell(file, int(empty[0]) + 1, roles.target, "", "the name of a class")
    return Rows(
        input_names=names,
        inputs=tuple(_finite(columns[n], n, file) if roles.numeric else _texts(columns[n]) for n in names),
        targets=targets,
        categories=_categories(columns[roles.category]) if roles.category else None,
        ids=_texts(columns[roles.id]) if roles.id else _texts([str(n) for n in range(1, len(targets) + 1)]),
    )


def _finite(column: Any, name: str, file: DataFile) -> NumberColumn:
    numbers: NumberColumn = np.asarray(column, dtype=np.float64)
    # The sum is finite when all are; only an overflow needs the closer look.
    if not math.isfinite(float(numbers.sum())):
        bad = np.flatnonzero(~np.isfinite(numbers))
        if len(bad):
            row = int(bad[0])
            raise _bad_cell(file, row + 1, name, str(numbers[row]), "a finite number")
    return numbers


def _texts(column: Any) -> TextColumn:
    return np.asarray(column, dtype=object)


def _categories(column: Any) -> TextColumn:
    categories = _texts(column)
    return np.where(categories == "", _NO_CATEGORY, categories)


def _require(roles: Roles, names: tuple[str, ...], file: DataFile) -> None:
    for name, field in roles.named:
        if name not in names:
            raise TrainingFailed.by_data(
                f"{file.filename} has no column {json.dumps(name)}; it has {', '.join(map(json.dumps, names[:20]))}",
                field=field,
            )


def _bad_cell(file: DataFile, row: int, column: str, got: object, expected: str) -> TrainingFailed:
    shown = "nothing" if got is None else json.dumps(got, ensure_ascii=False, default=str)
    shown = shown.encode(errors="backslashreplace").decode()
    shown = shown if len(shown) <= 80 else shown[:79] + "…"
    return TrainingFailed.by_data(
        f"{file.filename}, row {row}, column {json.dumps(column)}: got {shown}, expected {expected}", row=row
    )
