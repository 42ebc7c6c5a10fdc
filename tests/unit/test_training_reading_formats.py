"""Any rows, written in any format, read back as they were, whether they fit into memory or not."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from safetensors.numpy import save

from gradsight.v1 import spec_pb2
from gradsight_models.columns import Column, ColumnKind, Reading
from gradsight_worker.training.data import csv_file, jsonl_file, parquet_file
from gradsight_worker.training.data.hashing import row_hashes
from gradsight_worker.training.data.reading import read_rows
from gradsight_worker.training.data.rows import Roles, Rows, TargetKind
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.plan import DataFile

Table = Mapping[str, Sequence[Any]]

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
NUMBERS = (
    st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**40), 2**40).map(float) | st.none()
)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    rows = draw(st.integers(1, 40))

    def column(cells: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(cells, min_size=rows, max_size=rows))

    return {
        "text": column(TEXTS),
        "number": [0.5, *column(NUMBERS)][:rows],
        "label": column(TEXTS.filter(bool)),
        "kind": column(TEXTS | st.none()),
    }


def as_csv(table: Table) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)
    writer.writerow(table)
    writer.writerows(
        ["" if cell is None else cell for cell in row] for row in zip(*table.values(), strict=True)
    )
    return file.getvalue().encode()


def as_jsonl(table: Table) -> bytes:
    rows = (dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True))
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def as_parquet(table: Table) -> bytes:
    file = io.BytesIO()
    types = {"number": pa.float64()}
    columns = {name: pa.array(cells, types.get(name, pa.string())) for name, cells in table.items()}
    pq.write_table(pa.table(columns), file, row_group_size=7)
    return file.getvalue()


WRITERS = {"rows.csv": as_csv, "rows.jsonl": as_jsonl, "rows.parquet": as_parquet}


def read(tmp_path: Path, content: bytes, roles: Roles, name: str, memory_bytes: int = 1 << 30) -> Rows:
    path = tmp_path / "blob"
    path.write_bytes(content)
    file = DataFile(path=path, format=spec_pb2.DATA_FORMAT_UNSPECIFIED, filename=name)
    return read_rows(file, roles, field="data.train", scratch=tmp_path / "s", memory_bytes=memory_bytes)


def cells(rows: Rows, column: int = 0) -> list[Any]:
    return [cell for chunk in rows.chunks(7) for cell in chunk[column].tolist()]


@pytest.mark.parametrize("memory_bytes", [1 << 30, 0])
@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables())
def test_what_was_written_is_read(tmp_path: Path, name: str, memory_bytes: int, table: Table) -> None:
    content = WRITERS[name](table)
    roles = Roles(inputs=("text",), reading=Reading.TEXT, target="label", category="kind")
    rows = read(tmp_path, content, roles, name, memory_bytes)
    assert cells(rows) == list(table["text"])
    assert rows.targets is not None
    assert rows.targets.tolist() == list(table["label"])
    assert rows.categories is not None
    assert rows.categories.tolist() == [kind or "(none)" for kind in table["kind"]]
    numbers = read(tmp_path, content, Roles(inputs=("number",), target="label"), name, memory_bytes)
    expected = np.array([np.nan if cell is None else cell for cell in table["number"]])
    assert np.array_equal(np.array(cells(numbers)), expected, equal_nan=True)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables())
def test_a_row_hashes_alike_in_every_format(tmp_path: Path, table: Table) -> None:
    roles = Roles(inputs=("text",), reading=Reading.TEXT, target="label", category="kind")
    hashes = [row_hashes(read(tmp_path, write(table), roles, name), 1) for name, write in WRITERS.items()]
    assert all(np.array_equal(hashes[0], other) for other in hashes[1:])


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_a_file_in_many_blocks_reads_like_one(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table: Table = {
        "text": [f'row {n} of "many",\nto be cut' for n in range(5000)],
        "number": [None if n % 97 == 0 else n / 8 for n in range(5000)],
        "label": [f"class {n % 3}" for n in range(5000)],
        "kind": [str(n % 5) for n in range(5000)],
    }
    content = WRITERS[name](table)
    whole = read(tmp_path, content, Roles(target="label"), name)
    for module in (csv_file, jsonl_file):
        monkeypatch.setattr(module, "_BLOCK", 10_000)
    monkeypatch.setattr(csv_file, "_SMALL", 0)
    cut = read(tmp_path, content, Roles(target="label"), name, memory_bytes=1000)
    assert cut.columns == whole.columns
    assert [column.name for column in cut.columns] == ["number", "kind"]
    for one, other in zip(whole.chunks(1000), cut.chunks(1000), strict=True):
        assert np.array_equal(one[0], other[0], equal_nan=True)
        assert np.array_equal(one[1], other[1])


def test_rows_taken_twice_are_those_rows_wherever_they_lie(tmp_path: Path) -> None:
    content = as_csv({"a": range(30_000), "label": [f"c{n}" for n in range(30_000)]})
    for memory_bytes in (1 << 30, 0):
        rows = read(tmp_path, content, Roles(inputs=("a",), target="label"), "r.csv", memory_bytes)
        chosen = rows.take(np.arange(30_000) % 3 == 1).take(np.array([0, 5, 9_000, 2]))
        assert cells(chosen) == [1.0, 16.0, 27_001.0, 7.0]
        assert chosen.ids.tolist() == ["2", "17", "27002", "8"]
        assert chosen.targets is not None
        assert chosen.targets.tolist() == ["c1", "c16", "c27001", "c7"]


def test_columns_are_left_out_of_a_selection_without_a_copy(tmp_path: Path) -> None:
    rows = read(tmp_path, b"a,b,label\n1,2,x\n3,4,y\n", Roles(target="label"), "r.csv")
    assert [chunk[0].tolist() for chunk in rows.select(["b"]).chunks()] == [[2.0, 4.0]]


def test_missing_numbers_and_words_are_known_by_their_cells(tmp_path: Path) -> None:
    missing = ["", "NA", "N/A", "NaN", "nan", "null", "None"]
    lines = ["n,w,label", *(f"{n}, {n}  ,x" for n in range(9)), *(f"{cell},,x" for cell in missing)]
    content = "\n".join(lines).replace(", ", ",w").encode()
    rows = read(tmp_path, content, Roles(inputs=("n", "w"), target="label"), "r.csv")
    assert np.isnan(cells(rows, 0)).tolist() == [False] * 9 + [True] * 7
    assert cells(rows, 1)[8:] == ["w8  "] + [None] * 7
    values = ("1", "null", "NaN", "true")
    content = b'{"label":"x"}\n' + "\n".join(f'{{"n":{value},"label":"x"}}' for value in values).encode()
    rows = read(tmp_path, content, Roles(inputs=("n",), target="label"), "r.jsonl")
    assert np.array_equal(np.array(cells(rows)), [np.nan, 1, np.nan, np.nan, 1], equal_nan=True)


def test_a_quote_within_a_cell_is_a_character_like_others(tmp_path: Path) -> None:
    rows = read(
        tmp_path, b'text,label\n5" pipe,x\nplain,y\n', Roles(reading=Reading.TEXT, target="label"), "r.csv"
    )
    assert cells(rows) == ['5" pipe', "plain"]


def test_spaces_around_numbers_do_not_matter(tmp_path: Path) -> None:
    rows = read(tmp_path, b"a,label\n 1.5,x\n2 ,y\n NA ,z\n", Roles(inputs=("a",), target="label"), "r.csv")
    assert np.array_equal(np.array(cells(rows)), [1.5, 2.0, np.nan], equal_nan=True)


@pytest.mark.parametrize("name", WRITERS)
def test_columns_of_few_words_are_read_without_being_named(tmp_path: Path, name: str) -> None:
    table: Table = {
        "size": ["S", "M", None, "M"] * 50,
        "note": [f"note {n}" for n in range(200)],
        "number": [0.5, 1.5, None, 2.0] * 50,
        "label": ["x", "y"] * 100,
    }
    rows = read(tmp_path, WRITERS[name](table), Roles(target="label"), name)
    assert rows.columns == (
        Column(name="size", kind=ColumnKind.TEXT),
        Column(name="number", kind=ColumnKind.NUMBER),
    )
    assert rows.left_out == ("note",)
    assert cells(rows, 0)[:3] == ["S", "M", None]


def test_a_held_out_file_is_read_as_train_was(tmp_path: Path) -> None:
    columns = (Column(name="a", kind=ColumnKind.NUMBER), Column(name="w", kind=ColumnKind.TEXT))
    roles = Roles(inputs=("a", "w"), target="label", columns=columns)
    rows = read(tmp_path, b"w,a,label\n1,,x\n2,5,y\n", roles, "r.csv")
    assert rows.columns == columns
    assert cells(rows, 1) == ["1", "2"]
    with pytest.raises(TrainingFailed, match='row 1, column "a": got "word", expected a finite number'):
        read(tmp_path, b"w,a,label\n1,word,x\n", roles, "r.csv")


def test_a_target_of_numbers_must_be_there(tmp_path: Path) -> None:
    roles = Roles(inputs=("a",), target="y", target_kind=TargetKind.NUMBER)
    rows = read(tmp_path, b"a,y\n1,2.5\n", roles, "r.csv")
    assert rows.targets is not None
    assert rows.targets.tolist() == [2.5]
    for name, content in {"r.csv": b"a,y\n1,2\n1,NA\n", "r.jsonl": b'{"a":1,"y":1}\n{"a":1}\n'}.items():
        with pytest.raises(TrainingFailed, match='row 2, column "y": got nothing, expected a finite number'):
            read(tmp_path, content, roles, name)


def test_labels_are_lists_or_texts_and_an_empty_one_is_none_of_them(tmp_path: Path) -> None:
    roles = Roles(inputs=("a",), target="y", target_kind=TargetKind.LABELS)
    rows = read(tmp_path, b"a,y\n1,p|q\n1,\n", roles, "r.csv")
    assert rows.targets is not None
    assert rows.targets.tolist() == ["p|q", ""]
    lists = b'{"a":1,"y":["p","q"]}\n{"a":1,"y":[]}\n'
    rows = read(tmp_path, lists, roles, "r.jsonl")
    assert rows.targets is not None
    assert rows.targets.tolist() == [("p", "q"), ()]
    with pytest.raises(TrainingFailed, match='row 3, column "y": got "p", expected a list of texts'):
        read(tmp_path, lists + b'{"a":1,"y":"p"}', roles, "r.jsonl")
    file = io.BytesIO()
    pq.write_table(pa.table({"a": [1, 2], "y": [["p", "q"], []]}), file)
    rows = read(tmp_path, file.getvalue(), roles, "r.parquet")
    assert rows.targets is not None
    assert rows.targets.tolist() == [("p", "q"), ()]


def test_a_language_model_needs_no_target(tmp_path: Path) -> None:
    roles = Roles(reading=Reading.TOKENS, target_kind=None)
    rows = read(tmp_path, b'{"text":"once"}\n{"text":null}\n', roles, "r.jsonl")
    assert cells(rows) == ["once", None]
    assert rows.targets is None


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "whole": pa.array([1, None], pa.int32()),
            "yes": pa.array([True, False]),
            "size": pa.array(["S", "S"]).dictionary_encode(),
            "label": pa.array([3.0, 0.5]),
            "other": pa.array([[1], [2]]),
        }
    )
    file = io.BytesIO()
    pq.write_table(table, file)
    rows = read(tmp_path, file.getvalue(), Roles(target="label"), "r.parquet")
    assert [column.name for column in rows.columns] == ["whole", "yes", "size"]
    assert np.array_equal(np.array(cells(rows, 0)), [1, np.nan], equal_nan=True)
    assert cells(rows, 1) == [1.0, 0.0]
    assert rows.targets is not None
    assert rows.targets.tolist() == ["3", "0.5"]
    with pytest.raises(TrainingFailed, match=r'column "other": got list<.*expected texts'):
        read(tmp_path, file.getvalue(), Roles(inputs=("other",), target="label"), "r.parquet")
    with pytest.raises(TrainingFailed, match="cannot be read as Parquet"):
        read(tmp_path, file.getvalue()[:-20] + b"PAR1", Roles(target="label"), "r.parquet")
    infinite = io.BytesIO()
    pq.write_table(pa.table({"a": [1.0, -np.inf], "label": ["x", "y"]}), infinite)
    with pytest.raises(TrainingFailed, match='row 2, column "a": got "-inf", expected a finite number'):
        read(tmp_path, infinite.getvalue(), Roles(target="label"), "r.parquet")


LINES = {"r.csv": b"text,label\na,x\n%s", "r.jsonl": b'{"text":"a","label":"x"}\n%s'}
HOSTILE = [
    ("r.csv", b"b\0,y\n", "row 2: a NUL byte"),
    ("r.jsonl", b'{"text":"b\0","label":"y"}\n', "row 2: a NUL byte"),
    ("r.csv", b"x" * (100 << 20), "row 2: a line of more than 16 MiB"),
    ("r.jsonl", b'{"text":"' + b"x" * (100 << 20) + b'"}', "row 2: a line of more than 16 MiB"),
    ("r.csv", b"b,y,z\n", "row 2: got 3 columns, expected 2"),
    ("r.csv", b"b\n", "row 2: got 1 columns, expected 2"),
    ("r.csv", b"\xc3\x28,y\n", "row 2: not UTF-8"),
    ("r.jsonl", b'{"text":"\xc3\x28","label":"y"}\n', "row 2: not UTF-8"),
]


@pytest.mark.parametrize(("name", "line", "message"), HOSTILE, ids=[h[2] + h[0] for h in HOSTILE])
def test_a_line_that_is_no_row_is_refused_with_its_row(
    tmp_path: Path, name: str, line: bytes, message: str
) -> None:
    with pytest.raises(TrainingFailed, match=message) as caught:
        read(tmp_path, LINES[name] % line, Roles(reading=Reading.TEXT, target="label"), name)
    assert caught.value.error.row == 2


@pytest.mark.parametrize("name", LINES)
def test_marks_and_line_ends_of_other_systems_are_fine(tmp_path: Path, name: str) -> None:
    content = b"\xef\xbb\xbf" + (LINES[name] % b"").replace(b"\n", b"\r\n")
    rows = read(tmp_path, content, Roles(reading=Reading.TEXT, target="label"), name)
    assert cells(rows) == ["a"]


def test_a_bad_row_far_down_a_file_in_blocks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_file, "_BLOCK", 5_000)
    monkeypatch.setattr(csv_file, "_SMALL", 0)
    monkeypatch.setattr(jsonl_file, "_BLOCK", 5_000)
    good = "".join(f"{n},x\n" for n in range(20_000))
    for bad, message in {"7,x,y\n": "got 3 columns", "word,x\n": 'column "a": got "word"'}.items():
        with pytest.raises(TrainingFailed, match=f"row 20001.*{message}"):
            read(tmp_path, f"a,label\n{good}{bad}".encode(), Roles(inputs=("a",), target="label"), "r.csv")
    lines = "".join(f'{{"a":{n},"label":"x"}}\n' for n in range(20_000)) + '{"a":"word","label":"x"}'
    with pytest.raises(TrainingFailed, match='row 20001, column "a": got "word"'):
        read(tmp_path, lines.encode(), Roles(inputs=("a",), target="label"), "r.jsonl")


@st.composite
def arrays(draw: st.DrawFn) -> dict[str, Any]:
    rows = draw(st.integers(1, 30))
    finite = {"allow_nan": False, "allow_infinity": False}

    def array(dtype: str, *shape: int) -> Any:
        elements = finite if dtype.startswith("f") else None
        return draw(numpy_strategies.arrays(np.dtype(dtype), (rows, *shape), elements=elements))

    dtypes = st.sampled_from(["f2", "f4", "f8", "u1", "i2", "i8", "?"])
    return {
        "tensor": array(draw(dtypes), *draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))),
        "number": array(draw(dtypes)),
        "label": array("i4"),
    }


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(columns=arrays())
def test_tensors_that_were_written_are_read(tmp_path: Path, columns: dict[str, Any]) -> None:
    structured = np.empty(
        len(columns["label"]), [(name, cells.dtype, cells.shape[1:]) for name, cells in columns.items()]
    )
    for name, cells_of in columns.items():
        structured[name] = cells_of
    file = io.BytesIO()
    np.save(file, structured)
    roles = Roles(inputs=("tensor", "number"), target="label")
    for name, content in {"r.npy": file.getvalue(), "r.safetensors": save(columns)}.items():
        rows = read(tmp_path, content, roles, name)
        (chunk,) = rows.chunks()
        assert chunk[0].dtype == columns["tensor"].dtype
        assert np.array_equal(chunk[0], columns["tensor"])
        assert np.array_equal(chunk[1], columns["number"].astype(np.float64))
        assert rows.targets is not None
        assert rows.targets.tolist() == [str(label) for label in columns["label"]]


def test_long_texts_come_fewer_at_a_time(tmp_path: Path) -> None:
    table: Table = {"text": [f"{n}" * 20_000 for n in range(300)], "label": ["x"] * 300}
    roles = Roles(reading=Reading.TEXT, target="label")
    lengths = set()
    for memory_bytes in (1 << 30, 0):
        rows = read(tmp_path, as_csv(table), roles, "r.csv", memory_bytes)
        lengths.add(tuple(len(chunk[0]) for chunk in rows.chunks()))
    (chunks,) = lengths
    assert max(chunks) < 100
    assert sum(chunks) == 300


def test_a_parquet_file_that_inflates_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"text": ["x" * 1000] * 100_000, "label": ["y"] * 100_000}), file)
    monkeypatch.setattr(parquet_file, "_INFLATED_BYTES", 1 << 20)
    with pytest.raises(TrainingFailed, match="inflates beyond"):
        read(tmp_path, file.getvalue(), Roles(reading=Reading.TEXT, target="label"), "r.parquet")
