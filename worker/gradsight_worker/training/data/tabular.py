"""From a file of records to rows: which columns are read as what, and what no cell may be."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from gradsight_models.columns import Column, ColumnKind, Reading
from gradsight_worker.training.data.cells import ArrowCells
from gradsight_worker.training.data.faults import (
    CLASS_EXPECTED,
    NUMBER_EXPECTED,
    TEXT_EXPECTED,
    bad_cell,
    lost_column,
    names_of,
)
from gradsight_worker.training.data.rows import NO_CATEGORY, Roles, Rows, TargetKind
from gradsight_worker.training.data.tables import CellKind, Survey, TableFile, TableWriter, Wanted
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.plan import DataFile

MOST_INPUTS = 4096
_TARGETS = {
    TargetKind.CLASS: CellKind.TEXT,
    TargetKind.NUMBER: CellKind.NUMBER,
    TargetKind.LABELS: CellKind.LABELS,
}


def read_table(table: TableFile, file: DataFile, roles: Roles, *, scratch: Path, memory_bytes: int) -> Rows:
    """Every row of the file, checked. Raises TrainingFailed with row and column."""
    inputs, present = _inputs(table, file, roles)
    target = _TARGETS[roles.target_kind] if roles.target and roles.target_kind else None
    others = {
        "target": Wanted(name=roles.target or "", kind=target) if target else None,
        "category": Wanted(name=roles.category, kind=CellKind.TEXT) if roles.category else None,
        "id": Wanted(name=roles.id, kind=CellKind.TEXT) if roles.id else None,
    }
    wanted = [*inputs, *(column for column in others.values() if column)]
    writer = TableWriter(scratch, memory_bytes)
    done = 0
    for block in table.blocks(wanted):
        cells = dict(
            zip([role for role, column in others.items() if column], block[len(inputs) :], strict=True)
        )
        checked = [_checked(role, cells[role], roles, file, done) for role in cells]
        writer.add([*block[: len(inputs)], *checked])
        done += len(block[0])
    if not done:
        raise TrainingFailed.by_data(f"{file.filename} has no rows")
    rows = writer.finish()
    places = {role: len(inputs) + n for n, role in enumerate(role for role in others if others[role])}
    stored = {role: ArrowCells(table=rows, column=place) for role, place in places.items()}
    used = {column.name for column in wanted}
    return Rows(
        columns=tuple(Column(name=column.name, kind=_column_kind(column.kind)) for column in inputs),
        inputs=tuple(ArrowCells(table=rows, column=n) for n in range(len(inputs))),
        target=stored.get("target"),
        category=stored.get("category"),
        id=stored.get("id"),
        filename=file.filename,
        left_out=tuple(name for name in present if name not in used),
    )


def _inputs(table: TableFile, file: DataFile, roles: Roles) -> tuple[list[Wanted], Sequence[str]]:
    """The inputs, and names of the file's columns."""
    if roles.reading is Reading.IMAGES:
        raise TrainingFailed.by_data(
            f"{file.filename}: a model of images reads tar, npy or safetensors; this format holds no images"
        )
    named = tuple(column.name for column in roles.columns) or roles.inputs
    if roles.reading in (Reading.TEXT, Reading.TOKENS):
        named = named or ("text",)
        if len(named) != 1:
            raise TrainingFailed.by_spec(
                f"got {len(named)} input columns, a model of texts reads exactly one",
                field="data.input_columns",
            )
    expected = [(name, "data.input_columns") for name in named] + list(roles.others)
    present = table.names([name for name, _ in expected] if named else ())
    for name, field in expected:
        if name not in present:
            raise lost_column(file, name, present, field)
    if roles.columns:
        return [_as_before(column, roles, file) for column in roles.columns], present
    if roles.reading in (Reading.TEXT, Reading.TOKENS):
        return [Wanted(name=named[0], kind=CellKind.TEXT)], present
    if roles.reading is Reading.TENSORS and not named and set(roles.input_names) <= set(present):
        named = roles.input_names
    return (_named(table, named) if named else _found(table, present, roles, file)), present


def _as_before(column: Column, roles: Roles, file: DataFile) -> Wanted:
    if column.kind is ColumnKind.NUMBER:
        return Wanted(name=column.name, kind=CellKind.NUMBER)
    if column.kind is ColumnKind.TEXT:
        is_text = roles.reading in (Reading.TEXT, Reading.TOKENS)
        return Wanted(name=column.name, kind=CellKind.TEXT if is_text else CellKind.WORD)
    raise TrainingFailed.by_data(
        f"{file.filename}, column {json.dumps(column.name)}: expected tensors of shape {list(column.shape)} as in "
        f"train; this format holds none"
    )


def _named(table: TableFile, named: Sequence[str]) -> list[Wanted]:
    """Columns that the spec names: numbers, or words."""
    return [
        Wanted(name=name, kind=CellKind.NUMBER if _is_numeric(survey) else CellKind.WORD)
        for name, survey in table.survey(named).items()
    ]


def _is_numeric(survey: Survey) -> bool:
    return survey.is_numeric or survey.missing == survey.rows


def _found(table: TableFile, present: Sequence[str], roles: Roles, file: DataFile) -> list[Wanted]:
    """Columns of numbers and, for tables, of few different words."""
    reserved = roles.reserved
    candidates = [name for name in present if name not in reserved]
    found = []
    for name, survey in table.survey(candidates).items() if candidates else ():
        if survey.is_numeric:
            found.append(Wanted(name=name, kind=CellKind.NUMBER))
        elif roles.reading is Reading.TABLE and survey.has_few_words:
            found.append(Wanted(name=name, kind=CellKind.WORD))
    if not found:
        raise TrainingFailed.by_data(
            f"{file.filename} has no numeric column beside the target; name the columns to read of "
            f"{names_of(present)}",
            field="data.input_columns",
        )
    if len(found) > MOST_INPUTS:
        raise TrainingFailed.by_data(
            f"{file.filename} has {len(found)} columns to read, allowed {MOST_INPUTS}; name those to read",
            field="data.input_columns",
        )
    return found


def _checked(role: str, cells: pa.Array, roles: Roles, file: DataFile, first: int) -> pa.Array:
    """Cells without gaps. Raises TrainingFailed at the first that must not be empty."""
    if role == "category":
        return pc.if_else(pc.equal(pc.fill_null(cells, ""), ""), NO_CATEGORY, cells)
    if role == "id":
        _require(pc.is_null(cells), cells, roles.id, TEXT_EXPECTED, file, first)
    elif roles.target_kind is TargetKind.CLASS:
        _require(pc.equal(pc.fill_null(cells, ""), ""), cells, roles.target, CLASS_EXPECTED, file, first)
    elif roles.target_kind is TargetKind.NUMBER:
        _require(pc.is_null(cells, nan_is_null=True), cells, roles.target, NUMBER_EXPECTED, file, first)
    else:
        _require(pc.is_null(cells), cells, roles.target, "labels", file, first)
    return cells


def _require(
    bad: pa.Array, cells: pa.Array, name: str | None, expected: str, file: DataFile, first: int
) -> None:
    place = pc.index(bad, True).as_py()
    if place >= 0:
        raise bad_cell(file, first + place + 1, name or "", cells[place].as_py(), expected)


def _column_kind(kind: CellKind) -> ColumnKind:
    return ColumnKind.NUMBER if kind is CellKind.NUMBER else ColumnKind.TEXT
