"""Test rows that two models answered, paired by the row's identity, from their `examples.parquet`.

Blocking, and slow for many rows: callers use a thread. pyarrow comes with the first comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from gradsight_insight.categories import Categories

if TYPE_CHECKING:
    import pyarrow as pa

_TEXT_SEPARATOR = "\x1f"


class NotPaired(Exception):
    """The two did not answer the same rows; the text says why."""


@dataclass(frozen=True, kw_only=True)
class PairedAnswers:
    """What two models made of the same rows, in the same order."""

    baseline_correct: npt.NDArray[np.bool_]
    correct: npt.NDArray[np.bool_]
    categories: Categories | None
    """Those of the new job; None when it has none."""
    message: str = ""
    """Which rows were left out; empty when none was."""


def pair_answers(baseline_file: BinaryIO, file: BinaryIO) -> PairedAnswers:
    """Pair the test rows of two files by `row_id`.

    Rows whose id is not unique, and rows whose target is another in the other file, are left out.

    Raises:
        NotPaired: No row, or rows of other content under the same ids.
    """
    import pyarrow.compute as pc

    old_rows, new_rows = _test_rows(baseline_file), _test_rows(file)
    old, new = _of_unique_ids(old_rows), _of_unique_ids(new_rows)
    places = pc.index_in(new["row_id"], value_set=old["row_id"])
    new, old = new.filter(pc.is_valid(places)), old.take(places.drop_null())
    common = len(new)
    if not common:
        raise NotPaired("The two jobs have no test row in common.")
    same = pc.equal(_as_text(new["target"]), _as_text(old["target"])).fill_null(False)
    new, old = new.filter(same), old.filter(same)
    relabelled = common - len(new)
    if 2 * relabelled > common:
        raise NotPaired(
            f"{relabelled} of the {common} test rows with equal ids have other targets: the ids name other rows."
        )
    return PairedAnswers(
        baseline_correct=_flags(old["correct"]),
        correct=_flags(new["correct"]),
        categories=_categories(new["category"]),
        message=_left_out(len(old_rows) - common, len(new_rows) - common, len(new), relabelled),
    )


def answers_of_baseline(file: BinaryIO) -> PairedAnswers | None:
    """The test rows of one file with what its own baseline made of them; None when it had no baseline."""
    rows = _test_rows(file, "baseline_correct")
    if rows["baseline_correct"].null_count or not len(rows):
        return None
    return PairedAnswers(
        baseline_correct=_flags(rows["baseline_correct"]),
        correct=_flags(rows["correct"]),
        categories=_categories(rows["category"]),
    )


def _test_rows(file: BinaryIO, *more: str) -> pa.Table:
    import pyarrow.compute as pc
    import pyarrow.parquet

    columns = ["row_id", "split", "category", "target", "correct", *more]
    rows = pyarrow.parquet.read_table(file, columns=columns)
    return rows.filter(pc.and_(pc.equal(rows["split"], "test"), pc.is_valid(rows["correct"])))


def _of_unique_ids(rows: pa.Table) -> pa.Table:
    import pyarrow.compute as pc

    counted = pc.value_counts(rows["row_id"])
    once = counted.field("values").filter(pc.equal(counted.field("counts"), 1))
    return rows if len(once) == len(rows) else rows.filter(pc.is_in(rows["row_id"], value_set=once))


def _as_text(targets: Any) -> Any:
    """Several labels of a row as one text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.binary_join(targets, _TEXT_SEPARATOR) if pa.types.is_list(targets.type) else targets


def _flags(column: Any) -> npt.NDArray[np.bool_]:
    flags: npt.NDArray[np.bool_] = column.to_numpy()
    return flags.astype(np.bool_)


def _categories(column: Any) -> Categories | None:
    if column.null_count == len(column):
        return None
    encoded = column.fill_null("").combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return Categories(names=tuple(encoded.dictionary.to_pylist()), codes=codes)


def _left_out(only_old: int, only_new: int, rows: int, relabelled: int) -> str:
    parts = []
    if only_old or only_new:
        parts.append(
            f"Test rows that both answered: {rows}; left out: {only_old} of the old job's and {only_new} of the "
            "new job's."
        )
    if relabelled:
        parts.append(f"Left out, because their target is another in the other job: {relabelled}.")
    return " ".join(parts)
