"""Reading: good files as they are, bad ones refused with row and column."""

import json
from pathlib import Path

import pytest

from gradsight.v1 import spec_pb2, state_pb2
from gradsight_models.columns import Reading
from gradsight_worker.training.data.reading import read_rows
from gradsight_worker.training.data.rows import Roles, Rows
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.plan import DataFile

TEXT = Roles(inputs=("text",), reading=Reading.TEXT, target="label", id="key")
PLAIN_TEXT = Roles(reading=Reading.TEXT, target="label")
NUMBERS = Roles(inputs=("a", "b"), target="label")
FOUND = Roles(target="label", category="kind", id="key")
MEMORY_BYTES = 64 << 20


def read(
    tmp_path: Path,
    content: str | bytes,
    roles: Roles,
    name: str = "rows.csv",
    memory_bytes: int = MEMORY_BYTES,
) -> Rows:
    path = tmp_path / "blob"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    file = DataFile(path=path, format=spec_pb2.DATA_FORMAT_UNSPECIFIED, filename=name)
    return read_rows(file, roles, field="data.train", scratch=tmp_path / "scratch", memory_bytes=memory_bytes)


def inputs(rows: Rows) -> list[list[object]]:
    """Each input column as a list."""
    chunks = list(rows.chunks())
    return [[cell for chunk in chunks for cell in chunk[n].tolist()] for n in range(len(rows.columns))]


def targets(rows: Rows) -> list[object]:
    assert rows.targets is not None
    return list(rows.targets.tolist())


def test_csv_with_mark_crlf_quotes_and_line_breaks_reads_as_it_is(tmp_path: Path) -> None:
    content = '\ufeffkey,text,label\r\n1,"two\nlines, one comma",yes\r\n\r\n2,"a ""quote""",no\r\n'
    rows = read(tmp_path, content, TEXT)
    assert inputs(rows)[0] == ["two\nlines, one comma", 'a "quote"']
    assert targets(rows) == ["yes", "no"]
    assert rows.ids.tolist() == ["1", "2"]


def test_words_that_look_like_missing_values_or_numbers_are_texts_in_a_text_column(tmp_path: Path) -> None:
    rows = read(tmp_path, "text,label\nNA,007\n,1.50\nnull,true\n", PLAIN_TEXT)
    assert inputs(rows)[0] == ["NA", "", "null"]
    assert targets(rows) == ["007", "1.50", "true"]


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_without_named_inputs_every_numeric_column_without_a_role_is_read(tmp_path: Path, name: str) -> None:
    records = [
        {"whole": 1, "key": "k1", "note": "x", "part": 0.5, "kind": "s", "label": "u"},
        {"whole": 2, "key": "k2", "note": "y", "part": 1e3, "kind": "t", "label": "v"},
    ]
    if name.endswith("csv"):
        content = "\n".join([",".join(records[0]), *(",".join(map(str, r.values())) for r in records)])
    else:
        content = "\n".join(map(json.dumps, records))
    rows = read(tmp_path, content, FOUND, name)
    assert rows.input_names == ("whole", "part")
    assert inputs(rows) == [[1.0, 2.0], [0.5, 1000.0]]
    assert rows.categories is not None
    assert rows.categories.tolist() == ["s", "t"]
    assert rows.ids.tolist() == ["k1", "k2"]


def test_json_numbers_and_booleans_name_classes(tmp_path: Path) -> None:
    content = '{"text":"a","label":3}\n\n{"text":"b","label":true,"more":[1]}\n{"text":"c","label":"3"}\n'
    rows = read(tmp_path, content, PLAIN_TEXT, "rows.ndjson")
    assert targets(rows) == ["3", "true", "3"]


def test_a_missing_category_is_a_category_of_its_own(tmp_path: Path) -> None:
    roles = Roles(inputs=("a",), target="label", category="kind")
    for name, content in {
        "r.csv": "a,label,kind\n1,x,\n2,y,s\n",
        "r.jsonl": '{"a":1,"label":"x"}\n{"a":2,"label":"y","kind":"s"}\n',
    }.items():
        rows = read(tmp_path, content, roles, name)
        assert rows.categories is not None
        assert rows.categories.tolist() == ["(none)", "s"]


def test_types_are_not_guessed_from_the_first_rows_only(tmp_path: Path) -> None:
    body = "".join(f"{n},x\n" for n in range(200_000)) + "0.5,y\n"
    roles = Roles(target="label")
    rows = read(tmp_path, "a,label\n" + body, roles)
    assert inputs(rows)[0][-1] == 0.5


CSV_FAULTS = [
    ("a,b,label\n1,2,x\n1,2,3,x\n", 2, "got 4 columns, expected 3"),
    ("a,b,label\n1,2,x\n1,abc,x\n", 2, 'column "b": got "abc", expected a finite number'),
    ("a,b,label\n1,-inf,x\n", 1, 'column "b": got "-inf", expected a finite number'),
    ("a,b,label\n1,1e999,x\n", 1, 'column "b"'),
    ("a,b,label\n1,2,x\n1,2,\n", 2, 'column "label": got "", expected the name of a class'),
    (b"a,b,label\n1,2,x\n1,2,\xff\xfe\n", 2, "not UTF-8"),
    ('a,b,label\n1,2,x\n1,2,"y\n3,4,x\n', 2, "a quote is opened and never closed"),
    ("a,b,label\n", 0, "no rows"),
    ("", 0, "is empty"),
    ("a,a,b,label\n1,1,2,x\n", 0, 'column "a" occurs twice'),
]


@pytest.mark.parametrize(("content", "row", "message"), CSV_FAULTS)
def test_a_bad_csv_file_is_refused_with_its_row(
    tmp_path: Path, content: str | bytes, row: int, message: str
) -> None:
    with pytest.raises(TrainingFailed) as caught:
        read(tmp_path, content, NUMBERS)
    error = caught.value.error
    assert error.fault == state_pb2.FAULT_DATA
    assert error.row == row
    assert message in error.message
    assert "rows.csv" in error.message
    assert error.field == "data.train"


JSON_FAULTS = [
    ('{"a":1,"b":2,"label":"x"}\n{"a":1,"b":', 2, "not JSON"),
    ('{"a":1,"b":2,"label":"x"}\n[1]\n', 2, "one JSON object a line"),
    (
        '{"a":1,"b":1,"label":"x"}\n{"a":1,"b":"2","label":"x"}\n',
        2,
        'column "b": got "2", expected a finite number',
    ),
    ('{"a":1,"b":1,"label":"x"}\n{"a":1,"b":[2],"label":"x"}\n', 2, 'column "b": got [2]'),
    ('{"a":1,"b":-Infinity,"label":"x"}\n{"a":1,"b":1,"label":"x"}\n', 1, 'column "b": got -Infinity'),
    ('{"a":1,"b":2,"label":"x"}{"a":1,"b":2,"label":"x"}\n', 1, "not JSON"),
    ('{"a":1,"b":2,"label":""}\n', 1, 'column "label": got ""'),
    ('{"a":1,"b":2,"label":null}\n', 1, 'column "label": got nothing'),
    ('{"a":1,"b":2,"label":["x"]}\n', 1, 'column "label"'),
    ('{"a":1,"b":2,"label":"\\ud800"}\n', 1, 'column "label"'),
    (b'{"a":1,"b":2,"label":"\xff"}\n', 1, "not UTF-8"),
    ("", 0, "is empty"),
    ('{"a":1,"b":2,"label":"x"}\n' + "[" * 100_000, 2, "not JSON"),
]


@pytest.mark.parametrize(("content", "row", "message"), JSON_FAULTS)
def test_a_bad_json_lines_file_is_refused_with_its_row(
    tmp_path: Path, content: str | bytes, row: int, message: str
) -> None:
    with pytest.raises(TrainingFailed) as caught:
        read(tmp_path, content, NUMBERS, "rows.jsonl")
    assert caught.value.error.row == row
    assert message in caught.value.error.message


def test_a_mostly_numeric_column_with_one_word_is_an_error_and_not_left_out(tmp_path: Path) -> None:
    roles = Roles(target="label")
    content = "a,b,label\n" + "1,2,x\n" * 9 + "1,n/a,x\n"
    with pytest.raises(TrainingFailed, match='row 10, column "b": got "n/a"'):
        read(tmp_path, content, roles)


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    for name, content in {"r.csv": "words,label\na,x\n", "r.jsonl": '{"words":"a","label":"x"}\n'}.items():
        with pytest.raises(TrainingFailed, match='no column "text"; it has "words", "label"') as caught:
            read(tmp_path, content, PLAIN_TEXT, name)
        assert caught.value.error.field == "data.input_columns"


def test_a_file_without_numbers_or_of_unknown_format_says_what_to_do(tmp_path: Path) -> None:
    roles = Roles(target="label")
    with pytest.raises(TrainingFailed, match="no numeric column"):
        read(tmp_path, "note,label\nx,y\n", roles)
    with pytest.raises(TrainingFailed, match="unknown format"):
        read(tmp_path, "a,label\n1,y\n", roles, "rows.xlsx")


def test_a_column_cannot_be_input_and_target(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="the target, too") as caught:
        Roles(inputs=("a", "label"), target="label")
    assert caught.value.error.fault == state_pb2.FAULT_USER
