"""Columns of rows, as they come from files and as a model takes them.

Everything that is fitted or encoded sees rows in chunks, so that a file may be larger than memory.
"""

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor


class ColumnKind(enum.StrEnum):
    """What the cells of a column are, and the array that a chunk of it is."""

    NUMBER = "number"
    """float64 [rows]; NaN where the cell has no value."""
    TEXT = "text"
    """object [rows] of `str`, or None where the cell has no value."""
    LABELS = "labels"
    """object [rows] of tuples of `str`: any number of labels. Only as a target."""
    TENSOR = "tensor"
    """[rows, *shape], in the column's own dtype."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column's name and what its cells are."""

    name: str
    kind: ColumnKind
    dtype: str = ""
    """numpy's name of a tensor's numbers, `uint8` say."""
    shape: tuple[int, ...] = ()
    """Of one row of a tensor; an image is `[channels, height, width]`."""


class Reading(enum.StrEnum):
    """Which columns a model reads when the spec does not name them."""

    TABLE = "table"
    """Every column of numbers, and every column of few different words."""
    TEXT = "text"
    """One column of texts, `text`."""
    IMAGES = "images"
    """One tensor of images, `image`."""
    TOKENS = "tokens"
    """One column of texts or of integer tensors, `text` or `tokens`."""
    TENSORS = "tensors"
    """The columns that the model's inputs are named after, or else every column of numbers, as one input."""


Chunk = Sequence[npt.NDArray[Any]]
"""Some rows: one array per input column, of equal lengths."""

Chunks = Callable[[], Iterator[Chunk]]
"""A fresh pass over rows, a chunk at a time."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Rows as a model takes them: tensors on the processor whose shapes, rows aside, never depend on the rows."""

    inputs: tuple[Tensor, ...]
    targets: Tensor | None = None
    """Where inputs hold the expected output: the next tokens, int64 [encoded rows, tokens], -100 where none counts."""
    owners: npt.NDArray[np.int64] | None = None
    """Where a row becomes several (windows of a long text): the row of each, from 0 within the chunk, ascending."""
