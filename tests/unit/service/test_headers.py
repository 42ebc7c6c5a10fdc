"""The first line of a data file tells its columns, or what is wrong with it, and never harms."""

import io

import pytest

from gradsight.v1 import spec_pb2
from gradsight_service.headers import MOST_BYTES, read_header

CSV, JSONL = spec_pb2.DATA_FORMAT_CSV, spec_pb2.DATA_FORMAT_JSONL


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        (b"text,label\nhello,greeting\n", ("text", "label")),
        (b"text,label\r\nhello,greeting\r\n", ("text", "label")),
        ("\ufefftext,label\n".encode(), ("text", "label")),
        (b'"a,b","c""d"\n1,2\n', ("a,b", 'c"d')),
        (b"only", ("only",)),
        ("größe,label\n".encode(), ("größe", "label")),
        (b"a,b\n" + b"x" * MOST_BYTES, ("a", "b")),
    ],
)
def test_a_csv_header_gives_the_columns(content: bytes, columns: tuple[str, ...]) -> None:
    header = read_header(io.BytesIO(content), CSV)
    assert (header.columns, header.problem) == (columns, "")


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        (b'{"text": "hello", "label": 1}\n', ("text", "label")),
        (b'\n\n{"a": {"b": 1}}\n', ("a",)),
        (b'{"a": 1}\n' + b"y" * MOST_BYTES, ("a",)),
    ],
)
def test_a_first_json_line_gives_the_columns(content: bytes, columns: tuple[str, ...]) -> None:
    header = read_header(io.BytesIO(content), JSONL)
    assert (header.columns, header.problem) == (columns, "")


@pytest.mark.parametrize(
    ("content", "data_format", "part"),
    [
        (b"", CSV, "no header line"),
        (b"x" * (MOST_BYTES + 10), CSV, "no header line"),
        (b"a,b\xff\n", CSV, "byte 4 is not UTF-8"),
        (b"a,b,a\n", CSV, 'the column "a" twice'),
        (b"b," + b"a" * 5_000 + b"\n", CSV, "column 2 has a name of 5000 characters, allowed 4096"),
        (b'a,"b\n', CSV, "cannot be read"),
        (b"", JSONL, "no line"),
        (b"not json\n", JSONL, "not JSON"),
        (b"[1, 2]\n", JSONL, "not a JSON object"),
        (b"[" * 500_000 + b"\n", JSONL, "not JSON"),
        (b'{"a": ' + b"1" * 10_000 + b"}\n", JSONL, "not JSON"),
        (b"{" + b"y" * MOST_BYTES, JSONL, "no line"),
    ],
)
def test_a_first_line_that_is_none_is_explained(content: bytes, data_format: int, part: str) -> None:
    header = read_header(io.BytesIO(content), spec_pb2.DataFormat.ValueType(data_format))
    assert header.columns == ()
    assert part in header.problem
