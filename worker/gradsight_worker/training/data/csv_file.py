"""Comma-separated values with a header line; quoted cells may span lines; a byte order mark and CRLF are fine."""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from io import TextIOWrapper

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from gradsight_worker.training.data.rows import Roles
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.plan import DataFile

_LONGEST_CELL = 128 * 1024 * 1024
_LARGEST_BLOCK = 2**31 - 2
_NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"


def read_table(file: DataFile, roles: Roles) -> pa.Table | None:
    """The columns that the roles want, or None when the file is better walked. Raises pyarrow's errors."""
    size = file.path.stat().st_size
    header = read_header(file)
    if not {name for name, _ in roles.named} <= set(header):
        return None
    inferred = roles.numeric and not roles.inputs
    types = dict.fromkeys(roles.inputs, pa.float64()) | dict.fromkeys(roles.texts, pa.string())
    table = pa.csv.read_csv(
        pa.memory_map(str(file.path)),
        # One block: pyarrow infers types from the first one only.
        read_options=pa.csv.ReadOptions(use_threads=False, block_size=min(size + 1, _LARGEST_BLOCK)),
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(
            null_values=[],
            strings_can_be_null=False,
            column_types=types,
            include_columns=None if inferred else list(types),
        ),
    )
    return _numeric_and_named(table, roles) if inferred else table


def read_header(file: DataFile) -> list[str]:
    """Names of the columns. Raises TrainingFailed when there are none or one occurs twice."""
    for header in _records(file):
        for index, name in enumerate(header):
            if name in header[:index]:
                raise TrainingFailed.by_data(f"{file.filename}: column {json.dumps(name)} occurs twice")
        return header
    raise TrainingFailed.by_data(f"{file.filename} is empty; a header line and rows are expected")


def walk(file: DataFile) -> Iterator[Mapping[str, str]]:
    """Every row as cells by column. Raises TrainingFailed at the first row that is ragged or not UTF-8."""
    header = read_header(file)
    records = _records(file)
    next(records)
    for number, record in enumerate(records, start=1):
        if len(record) != len(header):
            raise TrainingFailed.by_data(
                f"{file.filename}, row {number}: got {len(record)} columns, expected {len(header)}",
                row=number,
            )
        yield dict(zip(header, record, strict=True))


def number(cell: str | None) -> float | None:
    """The finite number in a cell, or None."""
    try:
        value = float(cell or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in (cell or "") else None


def text(cell: str | None) -> str | None:
    """The text in a cell, or None."""
    return cell


def _records(file: DataFile) -> Iterator[list[str]]:
    """Header and rows, blank lines left out."""
    csv.field_size_limit(_LONGEST_CELL)
    # Undecodable bytes come out as lone surrogates, so that the row of the first one is known.
    with file.path.open("rb") as raw, TextIOWrapper(raw, "utf-8-sig", "surrogateescape", newline="") as lines:
        found = 0
        try:
            for record in csv.reader(lines, strict=False):
                if not record:
                    continue
                _require_utf8(record, found, file)
                yield record
                found += 1
        except csv.Error as error:
            raise TrainingFailed.by_data(f"{file.filename}, row {found}: {error}", row=found) from error


def _require_utf8(record: list[str], row: int, file: DataFile) -> None:
    for cell in record:
        if any("\udc80" <= character <= "\udcff" for character in cell):
            where = f"row {row}" if row else "header"
            raise TrainingFailed.by_data(
                f"{file.filename}, {where}: not UTF-8; save the file as UTF-8", row=row
            )


def _numeric_and_named(table: pa.Table, roles: Roles) -> pa.Table | None:
    """Columns with a role and all numeric ones; None when a column is meant to be numeric and is not."""
    wanted = []
    for name in table.column_names:
        kind = table.schema.field(name).type
        if name in roles.texts or pa.types.is_integer(kind) or pa.types.is_floating(kind):
            wanted.append(name)
        elif pa.types.is_string(kind) and _looks_numeric(table.column(name)):
            return None
    return table.select(wanted)


def _looks_numeric(column: pa.ChunkedArray) -> bool:
    return bool(pa.compute.any(pa.compute.match_substring_regex(column, _NUMBER)).as_py())
