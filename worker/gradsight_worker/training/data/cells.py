"""Where the cells of a column lie: in memory, in a table of Arrow batches, or in a file of tensors."""

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gradsight_worker.training.data.mapped import MappedFile

Indices = npt.NDArray[np.int64]
Selection = slice | Indices
"""Rows by their place in the file, from 0."""


class Cells(Protocol):
    """The cells of one column."""

    def __len__(self) -> int: ...

    @property
    def batch_length(self) -> int:
        """Rows that are about as many bytes as are fit to be gathered at once."""
        ...

    def gather(self, rows: Selection) -> npt.NDArray[Any]:
        """The cells of these rows, in an array of their own."""
        ...

    def release(self) -> None:
        """Let go of what only the last `gather` needed in memory."""
        ...


@dataclass(frozen=True)
class ArrayCells:
    """Cells in memory."""

    values: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def batch_length(self) -> int:
        """Any number: rows of tensors are as long as their column says."""
        return sys.maxsize

    def gather(self, rows: Selection) -> npt.NDArray[Any]:
        """As `Cells.gather`."""
        return self.values[rows].copy() if isinstance(rows, slice) else self.values[rows]

    def release(self) -> None:
        """Nothing to let go of."""


@dataclass(frozen=True, kw_only=True)
class TensorCells:
    """Rows of one tensor in a mapped file."""

    values: npt.NDArray[Any]
    """A view of the file's bytes, rows first."""
    file: MappedFile
    convert: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] = np.array
    """From a part of `values` to cells that are a copy."""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def batch_length(self) -> int:
        """Any number: rows of tensors are as long as their column says."""
        return sys.maxsize

    def gather(self, rows: Selection) -> npt.NDArray[Any]:
        """As `Cells.gather`."""
        return self.convert(self.values[rows])

    def release(self) -> None:
        """Let go of the file's pages."""
        self.file.release()


class ArrowTable:
    """Record batches of the same length, the last one aside; in memory or in a mapped file."""

    def __init__(self, batches: Sequence[pa.RecordBatch] | MappedFile) -> None:
        if isinstance(batches, MappedFile):
            reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(batches.bytes)))
            self._batch: Callable[[int], pa.RecordBatch] = reader.get_batch
            count = reader.num_record_batches
        else:
            self._batch = batches.__getitem__
            count = len(batches)
        self._file = batches if isinstance(batches, MappedFile) else None
        self.batch_length = max(self._batch(0).num_rows, 1) if count else 1
        self._rows = (count - 1) * self.batch_length + self._batch(count - 1).num_rows if count else 0

    def __len__(self) -> int:
        return self._rows

    def parts(self, column: int, rows: Selection) -> Iterator[tuple[pa.Array, Selection]]:
        """Whole columns of the batches that these rows lie in, and the places of the rows there."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(self._rows)
            while start < stop:
                number, place = divmod(start, self.batch_length)
                taken = min(stop - start, self.batch_length - place)
                yield self._batch(number).column(column), slice(place, place + taken)
                start += taken
            return
        if self._rows <= self.batch_length:
            yield self._batch(0).column(column), rows
            return
        numbers, places = np.divmod(rows, self.batch_length)
        cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(rows)]
        for start, stop in itertools.pairwise(cuts):
            if start < stop:
                yield self._batch(int(numbers[start])).column(column), places[start:stop]

    def release(self) -> None:
        """Let go of the file's pages."""
        if self._file is not None:
            self._file.release()


@dataclass(frozen=True, kw_only=True)
class ArrowCells:
    """One column of a table: numbers with NaN where there is none, texts or lists of texts with None."""

    table: ArrowTable
    column: int

    def __len__(self) -> int:
        return len(self.table)

    @property
    def batch_length(self) -> int:
        """That of the table's batches, which follows from what its first rows take."""
        return self.table.batch_length

    def gather(self, rows: Selection) -> npt.NDArray[Any]:
        """As `Cells.gather`."""
        parts = [_to_numpy(cells, places) for cells, places in self.table.parts(self.column, rows)]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=object)

    def release(self) -> None:
        """Let go of the table's pages."""
        self.table.release()


def _to_numpy(cells: pa.Array, places: Selection) -> npt.NDArray[Any]:
    if pa.types.is_floating(cells.type):
        numbers: npt.NDArray[Any] = cells.to_numpy(zero_copy_only=False)[places]
        # A slice may be a view of the table.
        return numbers.copy() if isinstance(places, slice) else numbers
    if isinstance(places, slice):
        cells = cells.slice(places.start, places.stop - places.start)
    else:
        cells = cells.take(pa.array(places))
    if not pa.types.is_list(cells.type):
        texts: npt.NDArray[Any] = cells.to_numpy(zero_copy_only=False)
        return texts
    lists = np.empty(len(cells), dtype=object)
    lists[:] = [None if cell is None else tuple(cell) for cell in cells.to_pylist()]
    return lists
