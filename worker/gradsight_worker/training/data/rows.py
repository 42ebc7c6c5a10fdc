"""Rows of one file or one split, as columns."""

import enum
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from gradsight_models.columns import Chunk, Column, ColumnKind, Reading
from gradsight_worker.training.data.cells import ArrayCells, Cells, Indices, Selection
from gradsight_worker.training.errors import TrainingFailed

TextColumn = npt.NDArray[np.object_]
"""Of `str`."""

NO_CATEGORY = "(none)"
"""Category of a row whose cell is empty."""
_CHUNK_BYTES = 2 << 20
_TEXT_BYTES = 64
"""What a text is taken to need when a chunk's length is chosen."""


class TargetKind(enum.StrEnum):
    """What the target column is read as."""

    CLASS = "class"
    """object [rows] of names of classes, never empty."""
    NUMBER = "number"
    """float64 [rows], or [rows, numbers] from a tensor; finite."""
    LABELS = "labels"
    """object [rows] of texts, or of tuples of texts from lists."""


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Which column of a file is what."""

    inputs: tuple[str, ...] = ()
    """Empty: those that `reading` says."""
    reading: Reading = Reading.TABLE
    input_names: tuple[str, ...] = ()
    """For `Reading.TENSORS`: names of the model's inputs."""
    target: str | None = None
    target_kind: TargetKind | None = TargetKind.CLASS
    """None: the inputs hold the expected output; there is no target."""
    category: str | None = None
    id: str | None = None
    image_size: int | None = None
    """Side of the square, in pixels, that images of an archive are scaled to; None leaves them as they are."""
    columns: tuple[Column, ...] = ()
    """The inputs as another file had them: this one must have the same. Empty: as they are found."""

    def __post_init__(self) -> None:
        if self.target and self.target in self.inputs:
            raise TrainingFailed.by_spec(
                f"column {json.dumps(self.target)} is an input and the target, too; leave it out of the inputs",
                field="data.input_columns",
            )
        if self.target_kind and not self.target:
            raise TrainingFailed.by_spec(
                "got no target column, the objective needs one; name it", field="data.target_column"
            )

    @property
    def others(self) -> tuple[tuple[str, str], ...]:
        """Columns that are no inputs unless they are named so, with the path of the spec's field that names them."""
        roles = [(self.target, "data.target_column")] if self.target and self.target_kind else []
        roles += [(self.category, "data.category_column")] if self.category else []
        roles += [(self.id, "data.id_column")] if self.id else []
        return tuple((name, field) for name, field in roles if name)

    @property
    def reserved(self) -> frozenset[str]:
        """Names of columns that are read as inputs only when they are named so."""
        return frozenset(name for name in (self.target, self.category, self.id) if name)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Columns of equal length; every cell was checked. Cells are read when they are asked for."""

    columns: tuple[Column, ...]
    inputs: tuple[Cells, ...]
    """In the order of `columns`."""
    target: Cells | None = None
    category: Cells | None = None
    id: Cells | None = None
    filename: str = ""
    left_out: tuple[str, ...] = ()
    """Columns of the file without any role."""
    chosen: Indices | None = None
    """Places in the file of the rows that these are, from 0; None: all of them."""

    @classmethod
    def in_memory(
        cls,
        columns: Sequence[Column],
        inputs: Sequence[npt.NDArray[Any]],
        *,
        targets: npt.NDArray[Any] | None = None,
        categories: npt.NDArray[Any] | None = None,
        ids: npt.NDArray[Any] | None = None,
    ) -> Self:
        """Rows from arrays, which must be as `ColumnKind` and `TargetKind` say."""
        return cls(
            columns=tuple(columns),
            inputs=tuple(map(ArrayCells, inputs)),
            target=None if targets is None else ArrayCells(targets),
            category=None if categories is None else ArrayCells(categories),
            id=None if ids is None else ArrayCells(ids),
        )

    def __len__(self) -> int:
        return len(self.inputs[0]) if self.chosen is None else len(self.chosen)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(column.name for column in self.columns)

    @property
    def targets(self) -> npt.NDArray[Any] | None:
        """The whole target column in memory, as `TargetKind` says."""
        return self._whole(self.target)

    @property
    def categories(self) -> TextColumn | None:
        """The whole category column in memory; a row without one is in `NO_CATEGORY`."""
        return self._whole(self.category)

    @property
    def ids(self) -> TextColumn:
        """Each row's own id, or its number in the file, from 1."""
        own = self._whole(self.id)
        return np.array([str(n) for n in self.numbers.tolist()], dtype=object) if own is None else own

    @property
    def numbers(self) -> Indices:
        """The row's number in its file, from 1."""
        return self.numbers_of(0, len(self))

    def numbers_of(self, start: int, count: int) -> Indices:
        """As `numbers`, of `count` rows from `start` on."""
        if self.chosen is None:
            return np.arange(start + 1, start + count + 1)
        return self.chosen[start : start + count] + 1

    def chunks(self, size: int = 8192) -> Iterator[Chunk]:
        """The inputs, at most `size` rows at a time; fewer where rows are long, whatever memory there is."""
        return self._chunks(self.inputs, size)

    def target_chunks(self, size: int = 8192) -> Iterator[npt.NDArray[Any]]:
        """The target column in chunks of the same rows as `chunks`."""
        return (chunk[0] for chunk in self._chunks(() if self.target is None else (self.target,), size))

    def category_chunks(self, size: int = 8192) -> Iterator[TextColumn]:
        """The category column in chunks of the same rows as `chunks`."""
        return (chunk[0] for chunk in self._chunks(() if self.category is None else (self.category,), size))

    def whole_chunks(self, size: int = 8192) -> Iterator[Chunk]:
        """Inputs, then target and category where there are any, in chunks of the same rows as `chunks`."""
        others = [cells for cells in (self.target, self.category) if cells is not None]
        return self._chunks((*self.inputs, *others), size)

    def take(self, rows: npt.NDArray[Any]) -> "Rows":
        """The rows at these places, or where this mask is true, in that order. Copies no cells."""
        places = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows.astype(np.int64)
        return replace(self, chosen=places if self.chosen is None else self.chosen[places])

    def select(self, names: Sequence[str]) -> "Rows":
        """The same rows with these of the inputs only, in this order. Copies no cells."""
        places = [self.input_names.index(name) for name in names]
        return replace(
            self,
            columns=tuple(self.columns[place] for place in places),
            inputs=tuple(self.inputs[place] for place in places),
        )

    def chunk_length(self, size: int = 8192) -> int:
        """Rows in a chunk: `size`, or as many as about 2 MiB of cells."""
        longest = min(cells.batch_length for cells in self.inputs)
        return max(1, min(size, longest, _CHUNK_BYTES // max(1, sum(map(_bytes_of, self.columns)))))

    def _chunks(self, columns: Sequence[Cells], size: int) -> Iterator[Chunk]:
        length = self.chunk_length(size)
        for start in range(0, len(self) if columns else 0, length):
            rows = self._selection(start, min(start + length, len(self)))
            chunk = [cells.gather(rows) for cells in columns]
            for release in _releases(columns):
                release()
            yield chunk

    def _selection(self, start: int, stop: int) -> Selection:
        return slice(start, stop) if self.chosen is None else self.chosen[start:stop]

    def _whole(self, cells: Cells | None) -> npt.NDArray[Any] | None:
        if cells is None:
            return None
        parts = [chunk[0] for chunk in self._chunks((cells,), 8192)]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=object)


def _bytes_of(column: Column) -> int:
    if column.kind is ColumnKind.TENSOR:
        return int(np.dtype(column.dtype).itemsize * np.prod(column.shape, dtype=np.int64))
    return 8 if column.kind is ColumnKind.NUMBER else _TEXT_BYTES


def _releases(columns: Sequence[Cells]) -> list[Callable[[], None]]:
    """One for each file or table that the columns lie in."""
    owners = {id(getattr(cells, "table", None) or getattr(cells, "file", cells)): cells for cells in columns}
    return [cells.release for cells in owners.values()]
