"""JSON Lines: one object a line; numbers and booleans are fine as names of classes.

Some lines at a time go to pyarrow; those that it refuses are read one by one, which is slow and knows the row at fault.
"""

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from gradsight_worker.training.data.faults import NUMBER_EXPECTED, TEXT_EXPECTED, bad_cell
from gradsight_worker.training.data.tables import CellKind, Survey, Wanted
from gradsight_worker.training.data.text_file import require_lines
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.plan import DataFile

_BLOCK = 1 << 20
_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Whole lines of the file."""

    lines: bytes
    first: int
    """Place of its first row, from 0."""
    rows: int


class JsonlFile:
    """A `TableFile`."""

    def __init__(self, file: DataFile) -> None:
        if not file.path.stat().st_size:
            raise TrainingFailed.by_data(f"{file.filename} is empty; one JSON object a line is expected")
        require_lines(file, header=False)
        self._file = file

    def names(self, expected: Sequence[str]) -> Sequence[str]:
        """Names in the order in which they come; a file may bring new ones to its end."""
        names: dict[str, None] = {}
        for piece in self._pieces():
            table = _parse(piece)
            found = list(_objects(piece, self._file)) if table is None else [table.column_names]
            names.update((name, None) for row in found for name in row)
            if expected and set(expected) <= set(names):
                break
        return list(names)

    def survey(self, names: Sequence[str]) -> dict[str, Survey]:
        """As `TableFile.survey`."""
        surveys = {name: Survey() for name in names}
        for piece in self._pieces():
            table = _parse(piece)
            rows = None if table is not None else list(_objects(piece, self._file))
            for name, survey in surveys.items():
                if table is not None:
                    _look_at_column(table, name, survey)
                else:
                    _look_at_cells([row.get(name) for row in rows or ()], survey)
        return surveys

    def blocks(self, wanted: Sequence[Wanted]) -> Iterator[list[pa.Array]]:
        """As `TableFile.blocks`."""
        lists = self._lists_of_labels(wanted)
        for piece in self._pieces():
            columns = None if lists else _typed(piece, wanted)
            if columns is None:
                rows = list(_objects(piece, self._file))
                columns = [
                    self._converted(rows, column, piece.first, column.name in lists) for column in wanted
                ]
            yield columns

    def _converted(
        self, rows: Sequence[Mapping[str, Any]], column: Wanted, first: int, is_list: bool
    ) -> pa.Array:
        cells = []
        convert, expected = _conversion(column.kind, is_list)
        for number, row in enumerate(rows, start=first + 1):
            got = row.get(column.name)
            cell = None if got is None else convert(got)
            if cell is None and got is not None:
                raise bad_cell(self._file, number, column.name, got, expected)
            cells.append(None if cell == "" and column.kind is CellKind.WORD else cell)
        text = pa.list_(pa.string()) if is_list else pa.string()
        return pa.array(cells, pa.float64() if column.kind is CellKind.NUMBER else text)

    def _lists_of_labels(self, wanted: Sequence[Wanted]) -> frozenset[str]:
        """Columns of labels whose first value is a list."""
        names = {column.name for column in wanted if column.kind is CellKind.LABELS}
        lists = set()
        for piece in self._pieces() if names else ():
            for row in _objects(piece, self._file):
                found = {name for name in names if row.get(name) is not None}
                lists |= {name for name in found if isinstance(row[name], list)}
                names -= found
                if not names:
                    return frozenset(lists)
        return frozenset(lists)

    def _pieces(self) -> Iterator[_Piece]:
        """The file in pieces that are not empty."""
        done = 0
        with self._file.path.open("rb") as data:
            if data.read(len(_MARK)) != _MARK:
                data.seek(0)
            while block := data.read(_BLOCK):
                lines = block if block.endswith(b"\n") else block + data.readline()
                if rows := sum(1 for _ in _filled(lines)):
                    yield _Piece(lines=lines, first=done, rows=rows)
                    done += rows


def _parse(piece: _Piece, types: Mapping[str, pa.DataType] | None = None) -> pa.Table | None:
    """A table by pyarrow, of all columns or of those with a type; None where it finds anything odd."""
    try:
        table = pa.json.read_json(
            pa.BufferReader(piece.lines),
            read_options=pa.json.ReadOptions(use_threads=False, block_size=len(piece.lines) + 1),
            parse_options=pa.json.ParseOptions(
                explicit_schema=None if types is None else pa.schema(types.items()),
                unexpected_field_behavior="infer" if types is None else "ignore",
            ),
        ).combine_chunks()
        # Nobody else looks whether texts are UTF-8.
        table.validate(full=True)
    except (pa.ArrowException, UnicodeDecodeError):
        return None
    # Two objects on one line are two rows to pyarrow.
    return table if table.num_rows == piece.rows else None


def _typed(piece: _Piece, wanted: Sequence[Wanted]) -> list[pa.Array] | None:
    """The wanted columns by pyarrow, or None."""
    numbers = {column.name: pa.float64() for column in wanted if column.kind is CellKind.NUMBER}
    texts = {column.name: pa.string() for column in wanted if column.kind is not CellKind.NUMBER}
    if numbers.keys() & texts.keys():
        return None
    table = _parse(piece, numbers | texts)
    if table is None:
        # Whole numbers and booleans as names of classes.
        table = _parse(piece)
    if table is None:
        return None
    columns = []
    for column in wanted:
        cells = _column(table, column.name)
        cells = _as_numbers(cells) if column.kind is CellKind.NUMBER else _as_texts(cells)
        if cells is None:
            return None
        columns.append(
            pc.if_else(pc.equal(cells, ""), None, cells) if column.kind is CellKind.WORD else cells
        )
    return columns


def _column(table: pa.Table, name: str) -> pa.Array:
    if name not in table.column_names:
        return pa.nulls(table.num_rows)
    column = table.column(name)
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


def _as_numbers(cells: pa.Array) -> pa.Array | None:
    if pa.types.is_floating(cells.type):
        return None if pc.any(pc.is_inf(cells)).as_py() else cells
    kinds = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_null)
    # A number beyond 2^53 is rounded, as it is everywhere else.
    return pc.cast(cells, pa.float64(), safe=False) if any(kind(cells.type) for kind in kinds) else None


def _as_texts(cells: pa.Array) -> pa.Array | None:
    kinds = (pa.types.is_string, pa.types.is_integer, pa.types.is_boolean, pa.types.is_null)
    return pc.cast(cells, pa.string()) if any(kind(cells.type) for kind in kinds) else None


def _conversion(kind: CellKind, is_list: bool) -> tuple[Any, str]:
    if kind is CellKind.NUMBER:
        return _number, NUMBER_EXPECTED
    return (_texts, "a list of texts, as in the first row") if is_list else (_text, TEXT_EXPECTED)


def _number(value: object) -> float | None:
    """The number that a value is; NaN, which JSON does not have and Python writes, is a missing one."""
    if not isinstance(value, (int, float)):
        return None
    try:
        return None if math.isinf(value) else float(value)
    except OverflowError:
        return None


def _text(value: object) -> str | None:
    """A text as it is, a number or boolean as JSON writes it, else None."""
    if isinstance(value, str):
        return value if value.isascii() or _is_encodable(value) else None
    return json.dumps(value) if isinstance(value, (bool, int, float)) else None


def _texts(value: object) -> list[str] | None:
    texts = [_text(part) for part in value] if isinstance(value, list) else [None]
    return None if None in texts else [text for text in texts if text is not None]


def _is_encodable(value: str) -> bool:
    """False for half a surrogate pair, which JSON can write and UTF-8 cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _look_at_column(table: pa.Table, name: str, survey: Survey) -> None:
    cells = _column(table, name)
    if _as_numbers(cells) is not None or pa.types.is_floating(cells.type):
        survey.add_numbers(len(cells) - cells.null_count, cells.null_count)
    elif pa.types.is_string(cells.type) or pa.types.is_temporal(cells.type):
        survey.add_words(cells, numbers=0, missing=cells.null_count)
    else:
        survey.rows += len(cells)
        survey.others += len(cells) - cells.null_count
        survey.missing += cells.null_count


def _look_at_cells(cells: Sequence[Any], survey: Survey) -> None:
    missing = sum(cell is None or cell != cell for cell in cells)
    numbers = sum(_number(cell) is not None for cell in cells if cell == cell)
    words = [cell for cell in cells if isinstance(cell, str)]
    others = len(cells) - missing - numbers - len(words)
    survey.others += others
    if words:
        survey.add_words(
            pa.array([w if _is_encodable(w) else "" for w in words]), numbers=numbers, missing=missing
        )
        survey.rows += len(cells) - len(words)
    else:
        survey.add_numbers(numbers, missing)
        survey.rows += others


def _filled(lines: bytes) -> Iterator[bytes]:
    return (line for line in io.BytesIO(lines) if line.strip())


def _objects(piece: _Piece, file: DataFile) -> Iterator[Mapping[str, Any]]:
    """Every row as values by column, blank lines left out. Raises TrainingFailed at a line that is no object."""
    for number, line in enumerate(_filled(piece.lines), start=piece.first + 1):
        yield _object_of(line, number, file)


def _object_of(line: bytes, number: int, file: DataFile) -> Mapping[str, Any]:
    try:
        value = json.loads(line.decode("utf-8"))
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
