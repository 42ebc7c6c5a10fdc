"""What stands out in the columns: missing cells, one value throughout, words that train does not have."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gradsight.v1 import event_pb2
from gradsight_models.columns import Column, ColumnKind, Reading
from gradsight_worker.training.data.rows import Rows
from gradsight_worker.training.data.splits import Splits

IMBALANCED = 10.0
"""Ratio of the most to the least frequent class beyond which it is worth a word."""
_MOST_WORDS = 100_000
"""A column with more different words is no column of words; its held-out words are not compared."""


def column_remarks(splits: Splits, reading: Reading) -> list[event_pb2.ColumnRemark]:
    """One for each input column with something to say, in order. Tensors are left alone."""
    looks = [_Look(column=column, has_words=reading is Reading.TABLE) for column in splits.train.columns]
    _look(splits.train, looks, is_train=True)
    for rows in (splits.validation, splits.test):
        _look(rows, looks, is_train=False)
    remarks = [look.remark() for look in looks]
    return [remark for remark in remarks if remark.missing_rows or remark.constant or remark.unseen_rows]


def imbalance_ratio(counts: npt.NDArray[Any]) -> float | None:
    """Rows of train's most frequent class for one of its least frequent; None where it is at most `IMBALANCED`."""
    present = counts[counts > 0]
    ratio = float(present.max() / present.min()) if len(present) else 1.0
    return ratio if ratio > IMBALANCED else None


@dataclass(kw_only=True)
class _Look:
    column: Column
    has_words: bool
    missing: int = 0
    unseen: int = 0
    constant: bool = True
    """Of the training rows so far; a missing value is a value, too."""
    first: Any = None
    begun: bool = False
    words: set[str] | None = field(default_factory=set)

    def remark(self) -> event_pb2.ColumnRemark:
        return event_pb2.ColumnRemark(
            column=self.column.name,
            missing_rows=self.missing,
            constant=self.constant and self.begun,
            unseen_rows=self.unseen,
        )

    def see(self, cells: npt.NDArray[Any], *, is_train: bool) -> None:
        if self.column.kind is ColumnKind.NUMBER:
            missing = np.isnan(cells)
            if is_train:
                self._see_constant(cells, missing)
        else:
            missing = np.array([cell is None for cell in cells.tolist()], dtype=bool)
            if is_train:
                self._see_constant(cells, missing)
            if self.has_words:
                self._see_words(cells[~missing], is_train=is_train)
        self.missing += int(missing.sum())

    def _see_constant(self, cells: npt.NDArray[Any], missing: npt.NDArray[np.bool_]) -> None:
        if not self.constant or not len(cells):
            return
        if not self.begun:
            self.begun, self.first = True, None if missing[0] else cells[0]
        same = missing if self.first is None else cells == self.first
        self.constant = bool(np.all(same))

    def _see_words(self, cells: npt.NDArray[Any], *, is_train: bool) -> None:
        if self.words is None:
            return
        if not is_train:
            self.unseen += sum(cell not in self.words for cell in cells.tolist())
            return
        self.words.update(cells.tolist())
        if len(self.words) > _MOST_WORDS:
            self.words = None


def _look(rows: Rows, looks: list[_Look], *, is_train: bool) -> None:
    for chunk in rows.chunks():
        for look, cells in zip(looks, chunk, strict=True):
            if look.column.kind is not ColumnKind.TENSOR:
                look.see(cells, is_train=is_train)
