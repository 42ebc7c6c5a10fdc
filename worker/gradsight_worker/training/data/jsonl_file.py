"""JSON Lines: one object a line; numbers and booleans are fine as names of classes."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.json

from gradsight_worker.training.data.rows import Roles
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.plan import DataFile

_LARGEST_BLOCK = 2**31 - 2


def read_table(file: DataFile, roles: Roles) -> pa.Table | None:
    """The columns that the roles want, or None when the file is better walked. Raises pyarrow's errors."""
    size = file.path.stat().st_size
    if not size:
        raise TrainingFailed.by_data(f"{file.filename} is empty; one JSON object a line is expected")
    inferred = roles.numeric and not roles.inputs
    types = dict.fromkeys(roles.inputs, pa.float64()) | dict.fromkeys(roles.texts, pa.string())
    table = pa.json.read_json(
        pa.memory_map(str(file.path)),
        read_options=pa.json.ReadOptions(use_threads=False, block_size=min(size + 1, _LARGEST_BLOCK)),
        parse_options=pa.json.ParseOptions(
            explicit_schema=pa.schema(types.items()),
            unexpected_field_behavior="infer" if inferred else "ignore",
        ),
    )
    return _numeric_and_named(table, roles) if inferred else table


def walk(file: DataFile) -> Iterator[Mapping[str, Any]]:
    """Every row as values by column, blank lines left out. Raises TrainingFailed at a line that is no object."""
    number = 0
    with file.path.open("rb") as lines:
        for line in lines:
            if not line.strip(b"\xef\xbb\xbf \t\r\n"):
                continue
            number += 1
            yield _object_of(line, number, file)


def number(value: object) -> float | None:
    """The finite number that a value is, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def text(value: object) -> str | None:
    """A text as it is, a number or boolean as JSON writes it, else None."""
    if isinstance(value, str):
        return value if value.isascii() or _is_encodable(value) else None
    return json.dumps(value) if isinstance(value, (bool, int, float)) else None


def _is_encodable(value: str) -> bool:
    """False for half a surrogate pair, which JSON can write and UTF-8 cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _object_of(line: bytes, number: int, file: DataFile) -> Mapping[str, Any]:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise TrainingFailed.by_data(
            f"{file.filename}, row {number}: not UTF-8; save the file as UTF-8", row=number
        ) from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise TrainingFailed.by_data(
            f"{file.filename}, row {number}: not JSON ({error}); one object a line is expected", row=number
        ) from error
    if not isinstance(value, dict):
        raise TrainingFailed.by_data(
            f"{file.filename}, row {number}: got {type(value).__name__}, expected one JSON object a line",
            row=number,
        )
    return value


def _numeric_and_named(table: pa.Table, roles: Roles) -> pa.Table:
    kinds = {name: table.schema.field(name).type for name in table.column_names}
    numeric = {n for n, kind in kinds.items() if pa.types.is_integer(kind) or pa.types.is_floating(kind)}
    return table.select([name for name in kinds if name in numeric or name in roles.texts])
