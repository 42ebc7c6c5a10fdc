"""The beginning of a data file: which columns it has. Read at Create, so that a misspelt column is refused at once."""

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from gradsight._tensor_headers import looks_pickled
from gradsight.v1 import spec_pb2
from gradsight_service.binary_headers import npy_columns, parquet_columns, safetensors_columns, tar_columns

MOST_BYTES = 1 << 20
MAGIC_BYTES = 4096
_LONGEST_NAME = 4096

FORMATS_BY_ENDING = {
    ".csv": spec_pb2.DATA_FORMAT_CSV,
    ".jsonl": spec_pb2.DATA_FORMAT_JSONL,
    ".ndjson": spec_pb2.DATA_FORMAT_JSONL,
    ".parquet": spec_pb2.DATA_FORMAT_PARQUET,
    ".npy": spec_pb2.DATA_FORMAT_NPY,
    ".safetensors": spec_pb2.DATA_FORMAT_SAFETENSORS,
    ".tar": spec_pb2.DATA_FORMAT_TAR,
}
DATA_FORMATS = tuple(
    spec_pb2.DataFormat.Name(known).removeprefix("DATA_FORMAT_").lower()
    for known in dict.fromkeys(FORMATS_BY_ENDING.values())
)

_BINARY: Mapping[int, Callable[[BinaryIO, int], tuple[str, ...] | None]] = {
    spec_pb2.DATA_FORMAT_PARQUET: parquet_columns,
    spec_pb2.DATA_FORMAT_NPY: npy_columns,
    spec_pb2.DATA_FORMAT_SAFETENSORS: safetensors_columns,
    spec_pb2.DATA_FORMAT_TAR: tar_columns,
}
# What files begin with that are easily taken for another kind.
_MAGIC = {
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"(\xb5/\xfd": "a zstandard file",
    b"PAR1": "a parquet file",
    b"\x93NUMPY": "an npy file",
    b"\x89HDF": "an HDF5 file",
}


@dataclass(frozen=True)
class Header:
    """The columns of a file, in its order, or what is wrong with its beginning."""

    columns: tuple[str, ...] | None = ()
    """None: the beginning does not tell them."""
    problem: str = ""


def read_header(file: BinaryIO, data_format: spec_pb2.DataFormat.ValueType) -> Header:
    """Read the beginning of a file and tell its columns. Never raises for what the file holds."""
    name = spec_pb2.DataFormat.Name(data_format).removeprefix("DATA_FORMAT_").lower()
    beginning = file.read(MAGIC_BYTES)
    if problem := content_problem(beginning):
        return Header(problem=problem)
    kind = next((kind for magic, kind in _MAGIC.items() if beginning.startswith(magic)), "")
    if kind and kind.split()[1] != name:
        return Header(problem=f"got {kind}, allowed {name}: convert it, or say its format")
    file.seek(0)
    if data_format not in _BINARY:
        return _text_header(file, data_format)
    try:
        return Header(_BINARY[data_format](file, file.seek(0, io.SEEK_END)))
    except ValueError as error:
        return Header(problem=str(error))


def content_problem(beginning: bytes) -> str:
    """Why a file that begins like this is never taken, whatever it is called; empty for all others."""
    kind = looks_pickled(beginning)
    return (
        f"got {kind}, which can run code when it is loaded; allowed {', '.join(DATA_FORMATS)}" if kind else ""
    )


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
