"""The beginning of a data file: which columns it has. Read at Create, so that a misspelt column is refused at once."""

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from gradsight._data_formats import MAGIC_BYTES, unwanted_kind
from gradsight.v1 import spec_pb2
from gradsight_service.binary_headers import npy_columns, parquet_columns, safetensors_columns, tar_columns

MOST_BYTES = 1 << 20
_LONGEST_NAME = 4096

_BINARY: Mapping[int, Callable[[BinaryIO, int], tuple[str, ...] | None]] = {
    spec_pb2.DATA_FORMAT_PARQUET: parquet_columns,
    spec_pb2.DATA_FORMAT_NPY: npy_columns,
    spec_pb2.DATA_FORMAT_SAFETENSORS: safetensors_columns,
    spec_pb2.DATA_FORMAT_TAR: tar_columns,
}


@dataclass(frozen=True)
class Header:
    """The columns of a file, in its order, or what is wrong with its beginning."""

    columns: tuple[str, ...] | None = ()
    """None: the beginning does not tell them."""
    problem: str = ""


def read_header(file: BinaryIO, data_format: spec_pb2.DataFormat.ValueType) -> Header:
    """Read the beginning of a file and tell its columns. Never raises for what the file holds."""
    if kind := unwanted_kind(file.read(MAGIC_BYTES), data_format):
        return Header(problem=f"got {kind}")
    file.seek(0)
    if data_format not in _BINARY:
        return _text_header(file, data_format)
    try:
        return Header(_BINARY[data_format](file, file.seek(0, io.SEEK_END)))
    except ValueError as error:
        return Header(problem=str(error))


def _text_header(file: BinaryIO, data_format: int) -> Header:
    beginning = file.read(MOST_BYTES)
    try:
        text = _whole_lines(beginning).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Header(problem=f"byte {error.start + 1} is not UTF-8, allowed text in UTF-8")
    if data_format == spec_pb2.DATA_FORMAT_CSV:
        return _csv_header(text)
    return _jsonl_header(text)


def _whole_lines(beginning: bytes) -> bytes:
    # A cut through the middle of a character must not count as bad UTF-8, nor half a line as a line.
    if len(beginning) < MOST_BYTES:
        return beginning
    return beginning[: beginning.rfind(b"\n") + 1]


def _csv_header(text: str) -> Header:
    try:
        columns = next(csv.reader(io.StringIO(text, newline=""), strict=True), [])
    except csv.Error as error:
        return Header(problem=f"the header line cannot be read: {error}")
    if not columns:
        return Header(problem=f"no header line within {MOST_BYTES} bytes, allowed a line of column names")
    longest = max(columns, key=len)
    if len(longest) > _LONGEST_NAME:
        place = columns.index(longest) + 1
        return Header(
            problem=f"column {place} has a name of {len(longest)} characters, allowed {_LONGEST_NAME}"
        )
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        return Header(problem=f"the header has the column {json.dumps(twice[:80])} twice, allowed once")
    return Header(tuple(columns))


def _jsonl_header(text: str) -> Header:
    line = next((line for line in text.split("\n") if line.strip()), "")
    if not line:
        return Header(problem=f"no line within {MOST_BYTES} bytes, allowed one JSON object a line")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return Header(problem="the first line is not JSON, allowed one JSON object a line")
    if not isinstance(row, dict):
        return Header(problem="the first line is not a JSON object, allowed one JSON object a line")
    return Header(tuple(row))
