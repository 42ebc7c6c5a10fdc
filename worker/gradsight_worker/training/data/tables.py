"""Files of records: what a reader of one format offers, and where its cells are kept."""

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from gradsight_worker.training.data.cells import ArrowTable
from gradsight_worker.training.data.mapped import MappedFile, scratch_file

FEW_WORDS = 64
"""Most different words of a column that is read without being named."""
_BATCH_BYTES = 2 << 20
_LONGEST_BATCH = 8192


class CellKind(enum.Enum):
    """What cells of a table become, and the Arrow type of their column."""

    NUMBER = "number"
    """float64; null or NaN where there is none."""
    WORD = "word"
    """string; null where there is none, an empty one included."""
    TEXT = "text"
    """string; null where there is none; an empty text is one."""
    LABELS = "labels"
    """string, or list of strings."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A column to read."""

    name: str
    kind: CellKind


@dataclass(kw_only=True)
class Survey:
    """What the cells of one column look like."""

    numbers: int = 0
    missing: int = 0
    others: int = 0
    """Neither numbers nor words: lists, say."""
    rows: int = 0
    words: set[Any] | None = field(default_factory=set)
    """Different words; None: more than `FEW_WORDS`, or not counted."""

    def add_numbers(self, numbers: int, missing: int) -> None:
        """A block without words."""
        self.rows += numbers + missing
        self.numbers += numbers
        self.missing += missing

    def add_words(self, words: pa.Array, *, numbers: int, missing: int) -> None:
        """A block with words: `words` are all its cells."""
        self.rows += len(words)
        self.missing += missing
        self.numbers += numbers
        if self.words is not None:
            self.words |= set(pc.unique(words).to_pylist()) - {None, ""}
            self.words = self.words if len(self.words) <= FEW_WORDS else None

    @property
    def is_numeric(self) -> bool:
        """Whether at least half of its values are numbers: one that is none is then a mistake, not a word."""
        return self.numbers > 0 and 2 * self.numbers >= self.rows - self.missing

    @property
    def has_few_words(self) -> bool:
        """Whether it reads as words without being named: few different ones, each of them twice on average."""
        return (
            not self.numbers
            and not self.others
            and bool(self.words)
            and 2 * len(self.words or ()) <= self.rows
        )


class TableFile(Protocol):
    """A file of records. Every method raises TrainingFailed with row and column."""

    def names(self, expected: Sequence[str]) -> Sequence[str]:
        """Names of the columns, in order; a format without a header may stop looking once `expected` were found."""
        ...

    def survey(self, names: Sequence[str]) -> dict[str, Survey]:
        """A pass over these columns."""
        ...

    def blocks(self, wanted: Sequence[Wanted]) -> Iterator[list[pa.Array]]:
        """A pass over the rows in order: some rows at a time, one array for each wanted column."""
        ...


class TableWriter:
    """Keeps blocks of rows: in memory, or in a mapped file once there are more than `memory_bytes` of them."""

    def __init__(self, scratch: Path, memory_bytes: int) -> None:
        self._scratch = scratch
        self._memory_bytes = memory_bytes
        self._length = 0
        self._pending: list[pa.RecordBatch] = []
        self._batches: list[pa.RecordBatch] = []
        self._bytes = 0
        self._file: BinaryIO | None = None
        self._write: Callable[[pa.RecordBatch], None] = self._keep
        self._close: Callable[[], None] = lambda: None

    def add(self, columns: Sequence[pa.Array]) -> None:
        """One more block."""
        block = pa.RecordBatch.from_arrays(list(columns), [str(n) for n in range(len(columns))])
        if not block.num_rows:
            return
        if not self._length:
            # By the first block, which is the same whatever memory there is: so are all batches.
            row_bytes = max(1, block.nbytes // block.num_rows)
            self._length = max(1, min(_LONGEST_BATCH, _BATCH_BYTES // row_bytes))
        self._pending.append(block)
        if sum(batch.num_rows for batch in self._pending) >= self._length:
            self._flush(whole=False)

    def finish(self) -> ArrowTable:
        """The table of all blocks."""
        self._flush(whole=True)
        self._close()
        if self._file is None:
            return ArrowTable(self._batches)
        self._file.flush()
        return ArrowTable(MappedFile(self._file))

    def _flush(self, *, whole: bool) -> None:
        if not self._pending:
            return
        table = pa.Table.from_batches(self._pending)
        kept = 0 if whole else table.num_rows % self._length
        full = table.slice(0, table.num_rows - kept).combine_chunks()
        for batch in full.to_batches(max_chunksize=self._length):
            self._write(batch)
        self._pending = table.slice(table.num_rows - kept).to_batches()

    def _keep(self, batch: pa.RecordBatch) -> None:
        self._batches.append(batch)
        self._bytes += batch.nbytes
        if self._bytes > self._memory_bytes:
            self._spill()

    def _spill(self) -> None:
        self._file = scratch_file(self._scratch)
        writer = pa.ipc.new_file(self._file, self._batches[0].schema)
        for batch in self._batches:
            writer.write_batch(batch)
        self._batches = []
        self._write, self._close = writer.write_batch, writer.close
