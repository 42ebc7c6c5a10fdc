"""From columns of numbers and words to one row of standardised numbers: what `mlp` reads."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from gradsight_models.columns import Chunk, Chunks, Column, ColumnKind, Encoded
from gradsight_models.moments import Moments

FARTHEST = 10.0
"""Deviations from the mean beyond which numbers are alike: one slip of the keyboard must not outweigh a row."""
MOST_WORDS = 256
"""Words of a column with a place of their own; a column of more is closer to an id than to a category."""

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class NumberFeatures:
    """Numbers to `(value - mean) / deviation`, at most `FARTHEST` from 0; a missing one is the mean, 0.

    One value a row, or all the numbers of a tensor. Where the deviation is 0 the column was constant in training and
    is 0 everywhere: its weights were never trained. Where train has both, a second group of features tells missing (1)
    from present (0).
    """

    name: str
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    marked: tuple[int, ...] = ()
    """Which of the numbers have such a feature, from 0."""
    kind: str = field(default="numbers", init=False)

    @property
    def size(self) -> int:
        """How many features they become."""
        return len(self.mean) + len(self.marked)

    @property
    def optional(self) -> bool:
        """Whether train has rows without a value."""
        return bool(self.marked)

    def encode(self, cells: npt.NDArray[Any]) -> Matrix:
        """[rows, size]. Raises ValueError for an infinite number."""
        values = np.asarray(cells, dtype=np.float64).reshape(len(cells), -1)
        if values.shape[1] != len(self.mean):
            raise ValueError(f"got {values.shape[1]} numbers a row, allowed: {len(self.mean)}")
        missing = np.isnan(values)
        deviation = np.asarray(self.deviation)
        if np.isinf(values).any():
            row, place = np.argwhere(np.isinf(values))[0]
            raise ValueError(f"row {row + 1}: got {values[row, place]}, allowed: a finite number")
        unknown = missing | (deviation == 0)
        with np.errstate(over="ignore", invalid="ignore"):
            standard = (values - np.asarray(self.mean)) / np.where(deviation > 0, deviation, 1.0)
        standard = np.where(unknown, 0.0, standard.clip(-FARTHEST, FARTHEST))
        return np.concatenate([standard, missing[:, list(self.marked)]], axis=1)

    def to_json(self) -> dict[str, Any]:
        """`mean`, `deviation` and `marked`, by number, and `farthest`."""
        return {
            "kind": self.kind,
            "name": self.name,
            "farthest": FARTHEST,
            "mean": list(self.mean),
            "deviation": list(self.deviation),
            "marked": list(self.marked),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(
            name=document["name"],
            mean=tuple(document["mean"]),
            deviation=tuple(document["deviation"]),
            marked=tuple(document["marked"]),
        )


@dataclass(frozen=True, kw_only=True)
class WordFeatures:
    """A word to 1 in its own place and 0 in the others.

    A missing word (None or empty) and the words beyond the most frequent ones share a place each, but only where train
    has such rows: a place that train never fills would be an untrained weight. Without one, such a row is all 0.
    """

    name: str
    words: tuple[str, ...]
    has_missing: bool
    has_other: bool
    kind: str = field(default="words", init=False)

    @property
    def size(self) -> int:
        """How many features they become."""
        return len(self.words) + self.has_missing + self.has_other

    @property
    def optional(self) -> bool:
        """Whether train has rows without a word."""
        return self.has_missing

    def encode(self, cells: npt.NDArray[Any]) -> Matrix:
        """[rows, size]: the words, then missing, then other. Raises ValueError for a cell that is no text."""
        places = {word: place for place, word in enumerate(self.words)}
        missing = len(self.words) if self.has_missing else -1
        other = len(self.words) + self.has_missing if self.has_other else -1
        encoded = np.zeros((len(cells), self.size))
        for row, cell in enumerate(cells.tolist()):
            word = _word(cell, row)
            place = places.get(word, other) if word else missing
            if place >= 0:
                encoded[row, place] = 1.0
        return encoded

    def to_json(self) -> dict[str, Any]:
        """`words` in the order of their features; `has_missing` and `has_other`: whether those places follow."""
        return {
            "kind": self.kind,
            "name": self.name,
            "words": list(self.words),
            "has_missing": self.has_missing,
            "has_other": self.has_other,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(
            name=document["name"],
            words=tuple(document["words"]),
            has_missing=document["has_missing"],
            has_other=document["has_other"],
        )


Features = NumberFeatures | WordFeatures


@dataclass(frozen=True, kw_only=True)
class TablePreprocessing:
    """The features of each column, in order."""

    columns: tuple[Features, ...]
    kind: str = field(default="table", init=False)

    @classmethod
    def fit(cls, columns: Sequence[Column], chunks: Chunks) -> Self:
        """One pass over the training rows. Raises ValueError for a column or a cell that is neither number nor word."""
        gathering = [_gathering_of(column) for column in columns]
        for chunk in chunks():
            for (add, _), column, cells in zip(gathering, columns, chunk, strict=True):
                _named(column.name, add, cells)
        return cls(columns=tuple(finish() for _, finish in gathering))

    @property
    def size(self) -> int:
        """Number of features."""
        return sum(features.size for features in self.columns)

    @property
    def optional(self) -> frozenset[str]:
        """Names of the columns that some training rows had no value for; `predict` lets rows leave them out."""
        return frozenset(features.name for features in self.columns if features.optional)

    def encode(self, columns: Chunk) -> Encoded:
        """One float32 tensor [rows, size]. Raises ValueError that names row and column."""
        if len(columns) != len(self.columns):
            raise ValueError(f"got {len(columns)} columns, allowed: the {len(self.columns)} of training")
        parts = [
            _named(features.name, features.encode, cells)
            for features, cells in zip(self.columns, columns, strict=True)
        ]
        return Encoded(inputs=(torch.from_numpy(np.concatenate(parts, axis=1, dtype=np.float32)),))

    def to_json(self) -> dict[str, Any]:
        """`columns`, each a `numbers` or a `words`; their features stand side by side, in order."""
        return {"kind": self.kind, "columns": [features.to_json() for features in self.columns]}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        kinds: dict[str, type[Features]] = {"numbers": NumberFeatures, "words": WordFeatures}
        return cls(columns=tuple(kinds[column["kind"]].from_json(column) for column in document["columns"]))


_Gathering = tuple[Callable[[npt.NDArray[Any]], None], Callable[[], Features]]


def _gathering_of(column: Column) -> _Gathering:
    """What takes in a column's chunks, and what makes features of them."""
    if column.kind is ColumnKind.NUMBER:
        return _gathering_numbers(column.name, 1)
    if column.kind is ColumnKind.TENSOR and np.dtype(column.dtype).kind in "biuf":
        return _gathering_numbers(column.name, int(np.prod(column.shape)))
    if column.kind is ColumnKind.TEXT:
        return _gathering_words(column.name)
    raise ValueError(
        f"column {column.name!r}: got {column.kind}, allowed: numbers, words, tensors of numbers"
    )


def _gathering_numbers(name: str, size: int) -> _Gathering:
    moments = Moments(size)

    def add(cells: npt.NDArray[Any]) -> None:
        values = np.asarray(cells, dtype=np.float64).reshape(len(cells), size)
        if np.isinf(values).any():
            row, place = np.argwhere(np.isinf(values))[0]
            raise ValueError(f"row {row + 1}: got {values[row, place]}, allowed: a finite number")
        moments.add(values)

    def finish() -> NumberFeatures:
        moments.require_finite((name,) * size)
        return NumberFeatures(
            name=name,
            mean=tuple(moments.mean.tolist()),
            deviation=tuple(moments.deviation.tolist()),
            marked=tuple(np.flatnonzero((moments.missing > 0) & (moments.count > 0)).tolist()),
        )

    return add, finish


def _gathering_words(name: str) -> _Gathering:
    counts: Counter[str] = Counter()

    def add(cells: npt.NDArray[Any]) -> None:
        counts.update(_word(cell, row) for row, cell in enumerate(cells.tolist()))

    def finish() -> WordFeatures:
        missing = counts.pop("", 0)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return WordFeatures(
            name=name,
            words=tuple(ranked[:MOST_WORDS]),
            has_missing=missing > 0,
            has_other=len(ranked) > MOST_WORDS,
        )

    return add, finish


def _word(cell: Any, row: int) -> str:
    """A cell's word, blanks around it left out; empty where it has none."""
    if cell is None:
        return ""
    if not isinstance(cell, str):
        raise ValueError(f"row {row + 1}: got {cell!r}, allowed: a text or nothing")
    return cell.strip()


def _named(name: str, work: Callable[[npt.NDArray[Any]], Any], cells: npt.NDArray[Any]) -> Any:
    """Do it, and say in which column it failed."""
    try:
        return work(cells)
    except (TypeError, ValueError) as error:
        raise ValueError(f"column {name!r}: {error}") from None
