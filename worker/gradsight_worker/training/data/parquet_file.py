"""Apache Parquet: the types are the file's own; dates and times read as texts, lists of texts as labels."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gradsight_worker.training.data.faults import NUMBER_EXPECTED, bad_cell
from gradsight_worker.training.data.tables import CellKind, Survey, Wanted
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.plan import DataFile

_BLOCK = 1 << 20
_LONGEST_BLOCK = 8192
_INFLATED_BYTES = 1 << 30
_INFLATED_RATIO = 1000
"""A file may become so many bytes, or so many times its size; beyond it is made to fill a disk."""


class ParquetFile:
    """A `TableFile`."""

    def __init__(self, file: DataFile) -> None:
        self._file = file
        try:
            self._reader = pq.ParquetFile(pa.OSFile(str(file.path)), pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error
        self._types = {field.name: field.type for field in self._reader.schema_arrow}
        if len(self._types) < len(self._reader.schema_arrow):
            raise TrainingFailed.by_data(f"{file.filename}: a column occurs twice")

    def names(self, expected: Sequence[str]) -> Sequence[str]:
        """Those of the schema."""
        return list(self._types)

    def survey(self, names: Sequence[str]) -> dict[str, Survey]:
        """As `TableFile.survey`; reads columns of texts only."""
        rows = self._reader.metadata.num_rows
        surveys = {name: Survey() for name in names}
        texts = [name for name in names if _is_text(self._types[name])]
        for name in set(names) - set(texts):
            if _is_number(self._types[name]):
                surveys[name].add_numbers(rows, 0)
            else:
                surveys[name].rows, surveys[name].others = rows, rows
        for _, columns in self._columns(texts):
            for name, cells in zip(texts, columns, strict=True):
                cells = pc.cast(cells, pa.string())
                surveys[name].add_words(cells, numbers=0, missing=cells.null_count)
        return surveys

    def blocks(self, wanted: Sequence[Wanted]) -> Iterator[list[pa.Array]]:
        """As `TableFile.blocks`."""
        for column in wanted:
            self._require_readable(column)
        for first, columns in self._columns([column.name for column in wanted]):
            yield [
                self._converted(column, cells, first) for column, cells in zip(wanted, columns, strict=True)
            ]

    def _require_readable(self, column: Wanted) -> None:
        kind = self._types[column.name]
        is_list = column.kind is CellKind.LABELS and _is_list_of_texts(kind)
        fits = _is_number(kind) if column.kind is CellKind.NUMBER else _is_word(kind) or is_list
        if not fits and not pa.types.is_null(kind):
            expected = "numbers" if column.kind is CellKind.NUMBER else "texts"
            raise TrainingFailed.by_data(
                f'{self._file.filename}, column "{column.name}": got {kind}, expected {expected}'
            )

    def _converted(self, column: Wanted, cells: pa.Array, first: int) -> pa.Array:
        if column.kind is not CellKind.NUMBER:
            texts = _texts(cells)
            return pc.if_else(pc.equal(texts, ""), None, texts) if column.kind is CellKind.WORD else texts
        # A number beyond 2^53 is rounded, as it is everywhere else.
        numbers = pc.cast(cells, pa.float64(), safe=False)
        bad = pc.index(pc.is_inf(numbers), True).as_py()
        if bad >= 0:
            raise bad_cell(self._file, first + bad + 1, column.name, str(cells[bad]), NUMBER_EXPECTED)
        return numbers

    def _columns(self, names: Sequence[str]) -> Iterator[tuple[int, list[pa.Array]]]:
        """The place of each block's first row, and its columns."""
        metadata = self._reader.metadata
        size = sum(metadata.row_group(n).total_byte_size for n in range(metadata.num_row_groups))
        rows = max(1, min(_LONGEST_BLOCK, _BLOCK // max(1, size // max(1, metadata.num_rows))))
        done = inflated = 0
        packed = self._file.path.stat().st_size
        most = max(_INFLATED_BYTES, _INFLATED_RATIO * packed)
        try:
            for block in self._reader.iter_batches(
                batch_size=rows, columns=list(dict.fromkeys(names)), use_threads=False
            ):
                columns = [_plain(block.column(name)) for name in names]
                inflated += sum(column.nbytes for column in columns)
                if inflated > most:
                    raise TrainingFailed.by_data(
                        f"{self._file.filename}, row {done + 1}: a Parquet file of {packed} bytes inflates beyond "
                        f"{most} bytes",
                        row=done + 1,
                    )
                yield done, columns
                done += block.num_rows
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> TrainingFailed:
        reason = str(error).splitlines()[0][:200] if str(error) else "damaged"
        return TrainingFailed.by_data(f"{self._file.filename} cannot be read as Parquet: {reason}")


def _plain(cells: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    # Nobody else looks whether texts are UTF-8.
    cells.validate(full=True)
    return cells


def _texts(cells: pa.Array) -> pa.Array:
    kind = cells.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pc.cast(cells, pa.list_(pa.string()))
    if pa.types.is_floating(kind):
        return pa.array([_name_of(cell) for cell in cells.to_pylist()], pa.string())
    return pc.cast(cells, pa.string())


def _name_of(number: float | None) -> str | None:
    """3.0 and 3 are one class, whatever the format of the file; NaN is no value."""
    if number is None or number != number:
        return None
    return str(int(number)) if number.is_integer() else repr(number)


def _value_type(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_number(kind: Any) -> bool:
    kind = _value_type(kind)
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    )


def _is_text(kind: Any) -> bool:
    kind = _value_type(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_word(kind: Any) -> bool:
    return _is_text(kind) or _is_number(kind) or bool(pa.types.is_temporal(_value_type(kind)))


def _is_list_of_texts(kind: Any) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return is_list and (_is_text(kind.value_type) or pa.types.is_integer(kind.value_type))
