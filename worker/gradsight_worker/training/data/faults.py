"""Sentences about files that cannot be used: what, where, what was got, what is expected."""

import json
from collections.abc import Sequence

from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.plan import DataFile

NUMBER_EXPECTED = "a finite number"
TEXT_EXPECTED = "text"
CLASS_EXPECTED = "the name of a class"


def bad_cell(file: DataFile, row: int, column: str, got: object, expected: str) -> TrainingFailed:
    """A cell that cannot be used; `row` counts from 1."""
    return TrainingFailed.by_data(
        f"{file.filename}, row {row}, column {json.dumps(column)}: got {_shown(got)}, expected {expected}",
        row=row,
    )


def lost_column(file: DataFile, name: str, present: Sequence[str], field: str) -> TrainingFailed:
    """A column that a role names and the file does not have."""
    return TrainingFailed.by_data(
        f"{file.filename} has no column {json.dumps(name)}; it has {names_of(present)}", field=field
    )


def names_of(names: Sequence[str]) -> str:
    """The first names, quoted."""
    shown = ", ".join(json.dumps(name[:80]) for name in names[:20])
    return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown


def _shown(got: object) -> str:
    shown = "nothing" if got is None else json.dumps(got, ensure_ascii=False, default=str)
    shown = shown.encode(errors="backslashreplace").decode()
    return shown if len(shown) <= 80 else shown[:79] + "…"
