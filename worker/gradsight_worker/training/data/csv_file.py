"""Comma-separated values with a header line; quoted cells may span lines; a byte order mark and CRLF are fine.

pyarrow cuts the file into texts, on one thread: a forked process must not lean on a thread pool. Whatever it refuses is
walked row by row, which is slow and knows the row at fault.
"""

import csv
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from io import TextIOWrapper

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from gradsight_worker.training.data.faults import NUMBER_EXPECTED, bad_cell
from gradsight_worker.training.data.tables import CellKind, Survey, Wanted
from gradsight_worker.training.data.text_file import LONGEST_LINE, require_lines
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.plan import DataFile

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "None")
"""Cells of a column of numbers that have no value."""
_SMALL = 4 << 20
_BLOCK = 512 << 10
_WALKED = 2048
_PIECE = 1 << 20
_NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"


class CsvFile:
    """A `TableFile`."""

    def __init__(self, file: DataFile) -> None:
        require_lines(file, header=True)
        self._file = file
        self._header = _header(file)
        _require_closed_quotes(file)
        self._block: pa.RecordBatch | None = None
        """All texts of a small file, once they were cut."""
        self._numbers: dict[str, pa.Array] = {}
        """Its columns of numbers, once they were looked at."""

    def names(self, expected: Sequence[str]) -> Sequence[str]:
        """The header."""
        return self._header

    def survey(self, names: Sequence[str]) -> dict[str, Survey]:
        """As `TableFile.survey`."""
        surveys = {name: Survey() for name in names}
        for _, columns in self._texts(names):
            for name, cells in zip(names, columns, strict=True):
                numbers = _look(cells, surveys[name])
                if numbers is not None and self._block is not None:
                    self._numbers[name] = numbers
        return surveys

    def blocks(self, wanted: Sequence[Wanted]) -> Iterator[list[pa.Array]]:
        """As `TableFile.blocks`."""
        for first, columns in self._texts([column.name for column in wanted]):
            yield [
                self._converted(column, cells, first) for column, cells in zip(wanted, columns, strict=True)
            ]

    def _converted(self, column: Wanted, cells: pa.Array, first: int) -> pa.Array:
        if column.kind is CellKind.WORD:
            return pc.if_else(pc.equal(cells, ""), None, cells)
        if column.kind is not CellKind.NUMBER:
            return cells
        numbers = self._numbers.get(column.name)
        numbers = _numbers(cells) if numbers is None else numbers
        bad = _first_word(cells) if numbers is None else _first_infinite(numbers)
        if bad is not None:
            raise bad_cell(self._file, first + bad + 1, column.name, cells[bad].as_py(), NUMBER_EXPECTED)
        return numbers

    def _texts(self, names: Sequence[str]) -> Iterator[tuple[int, list[pa.Array]]]:
        """The place of each block's first row, and its columns as texts."""
        done = 0
        try:
            for block in self._fast(names):
                yield done, [block.column(name) for name in names]
                done += block.num_rows
        except (pa.ArrowException, UnicodeDecodeError):
            yield from self._walked(names, done)

    def _fast(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Blocks by pyarrow. Raises its errors."""
        if self._block is not None and set(names) <= set(self._block.schema.names):
            yield self._block
            return
        size = self._file.path.stat().st_size
        small = size <= _SMALL
        types = dict.fromkeys(self._header if small else names, pa.string())
        options = {
            "read_options": pa.csv.ReadOptions(use_threads=False, block_size=size + 1 if small else _BLOCK),
            "parse_options": pa.csv.ParseOptions(newlines_in_values=True),
            "convert_options": pa.csv.ConvertOptions(
                null_values=[], strings_can_be_null=False, column_types=types, include_columns=list(types)
            ),
        }
        with pa.OSFile(str(self._file.path)) as data:
            if small:
                yield from self._kept(pa.csv.read_csv(data, **options))
            else:
                yield from pa.csv.open_csv(data, **options)

    def _kept(self, table: pa.Table) -> Sequence[pa.RecordBatch]:
        batches: list[pa.RecordBatch] = table.combine_chunks().to_batches()
        self._block = batches[0] if len(batches) == 1 else None
        return batches

    def _walked(self, names: Sequence[str], done: int) -> Iterator[tuple[int, list[pa.Array]]]:
        """Blocks by walking on after `done` rows. Raises TrainingFailed at a row that is ragged or not UTF-8."""
        rows = itertools.islice(_walk(self._file, self._header), done, None)
        while block := list(itertools.islice(rows, _WALKED)):
            yield done, [pa.array([row[name] for row in block], pa.string()) for name in names]
            done += len(block)


def _header(file: DataFile) -> list[str]:
    """Names of the columns. Raises TrainingFailed when there are none or one occurs twice."""
    for header in _records(file):
        seen: set[str] = set()
        for name in header:
            if name in seen:
                raise TrainingFailed.by_data(f"{file.filename}: column {json.dumps(name)} occurs twice")
            seen.add(name)
        return header
    raise TrainingFailed.by_data(f"{file.filename} is empty; a header line and rows are expected")


def _walk(file: DataFile, header: Sequence[str]) -> Iterator[Mapping[str, str]]:
    """Every row as cells by column."""
    for number, record in enumerate(itertools.islice(_records(file), 1, None), start=1):
        if len(record) != len(header):
            raise TrainingFailed.by_data(
                f"{file.filename}, row {number}: got {len(record)} columns, expected {len(header)}",
                row=number,
            )
        yield dict(zip(header, record, strict=True))


def _records(file: DataFile) -> Iterator[list[str]]:
    """Header and rows, blank lines left out."""
    csv.field_size_limit(LONGEST_LINE)
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


def _require_closed_quotes(file: DataFile) -> None:
    """Raise TrainingFailed where a quote takes the rest of the file into one cell, which no parser minds."""
    with file.path.open("rb") as data:
        quotes = sum(piece.count(b'"') for piece in iter(lambda: data.read(_PIECE), b""))
    if quotes % 2 == 0:
        return
    with file.path.open("r", encoding="utf-8-sig", errors="replace", newline="") as lines:
        row = -1
        try:
            for record in csv.reader(lines, strict=True):
                row += bool(record)
        except csv.Error as error:
            # A quote within a cell is odd, too, and taken as it stands.
            if "unexpected end" in str(error):
                raise TrainingFailed.by_data(
                    f"{file.filename}, row {row + 1}: a quote is opened and never closed", row=row + 1
                ) from error


def _require_utf8(record: list[str], row: int, file: DataFile) -> None:
    for cell in record:
        if not cell.isascii() and any("\udc80" <= character <= "\udcff" for character in cell):
            where = f"row {row}" if row else "header"
            raise TrainingFailed.by_data(
                f"{file.filename}, {where}: not UTF-8; save the file as UTF-8", row=row
            )


def _look(cells: pa.Array, survey: Survey) -> pa.Array | None:
    """Survey them; their numbers, where they are nothing else."""
    numbers = _numbers(cells)
    if numbers is not None:
        survey.add_numbers(len(cells) - numbers.null_count, numbers.null_count)
        return numbers
    survey.add_words(
        cells,
        numbers=int(pc.sum(pc.match_substring_regex(cells, _NUMBER)).as_py() or 0),
        missing=int(pc.sum(_is_missing(cells)).as_py() or 0),
    )
    return None


def _numbers(cells: pa.Array) -> pa.Array | None:
    """float64 with nulls, or None when a cell is neither number nor missing."""
    for prepare in (_as_they_are, _without_missing, _trimmed):
        try:
            return pc.cast(prepare(cells), pa.float64())
        except pa.ArrowInvalid:
            continue
    return None


def _as_they_are(cells: pa.Array) -> pa.Array:
    return cells


def _without_missing(cells: pa.Array) -> pa.Array:
    return pc.if_else(_is_missing(cells), None, cells)


def _trimmed(cells: pa.Array) -> pa.Array:
    return _without_missing(pc.utf8_trim_whitespace(cells))


def _is_missing(cells: pa.Array) -> pa.Array:
    return pc.is_in(cells, value_set=pa.array(MISSING))


def _first_word(cells: pa.Array) -> int | None:
    for place, cell in enumerate(cells.to_pylist()):
        if _numbers(pa.array([cell])) is None:
            return place
    return None


def _first_infinite(numbers: pa.Array) -> int | None:
    found = np.flatnonzero(np.isinf(numbers.to_numpy(zero_copy_only=False)))
    return int(found[0]) if len(found) else None
