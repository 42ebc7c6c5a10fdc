"""The first line of a data file tells its columns, or what is wrong with it, and never harms."""

import io
import json
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from gradsight.v1 import spec_pb2
from gradsight_service.headers import MOST_BYTES, read_header

PARQUET, NPY = spec_pb2.DATA_FORMAT_PARQUET, spec_pb2.DATA_FORMAT_NPY
SAFETENSORS, TAR = spec_pb2.DATA_FORMAT_SAFETENSORS, spec_pb2.DATA_FORMAT_TAR
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


def npy(array: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array), allow_pickle=False)
    return file.getvalue()


def safetensors(**shapes: list[int]) -> bytes:
    header, place = {}, 0
    for name, shape in shapes.items():
        stop = place + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [place, stop]}
        place = stop
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(place)


def tar(*names: str, kind: bytes = tarfile.REGTYPE, form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "elsewhere"
            member.size = 5 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"image"))
    return file.getvalue()


def parquet() -> bytes:
    file = io.BytesIO()
    pa.parquet.write_table(pa.table({"a": [1, 2]}), file)
    return file.getvalue()


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return file.getvalue()


LONG = "cat/" + "x" * 90 + "/" + "y" * 60 + ".png"


@pytest.mark.parametrize(
    ("content", "data_format", "columns"),
    [
        (parquet(), PARQUET, None),
        (npy([[1.0, 2.0, 3.0]]), NPY, ("0", "1", "2")),
        (npy([1, 2]), NPY, ("0",)),
        (npy(np.zeros((2, 3, 4, 4), np.uint8)), NPY, ("0",)),
        (npy(np.array([(1, 2.5)], dtype=[("width", "i4"), ("label", "f8")])), NPY, ("width", "label")),
        (safetensors(image=[4, 1, 2, 2], label=[4]), SAFETENSORS, ("image", "label")),
        (tar("cat/1.png", "dog/2.jpg"), TAR, ("image", "label", "path")),
        (tar(LONG), TAR, ("image", "label", "path")),
        (tar(LONG, form=tarfile.GNU_FORMAT), TAR, ("image", "label", "path")),
        (tar(LONG, form=tarfile.USTAR_FORMAT), TAR, ("image", "label", "path")),
    ],
)
def test_the_beginning_of_a_binary_file_gives_the_columns(
    content: bytes, data_format: int, columns: tuple[str, ...] | None
) -> None:
    header = read_header(io.BytesIO(content), spec_pb2.DataFormat.ValueType(data_format))
    assert (header.columns, header.problem) == (columns, "")


def declared(shape: str, descr: str = "'<f8'") -> bytes:
    """An npy file whose header says more than it holds."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(128)


BROKEN_CHECKSUM = tar("a.png")[:150] + b"7" + tar("a.png")[151:]


@pytest.mark.parametrize(
    ("content", "data_format", "part"),
    [
        (b"PAR1" + bytes(100), PARQUET, "cut off"),
        (b"a,b\n1,2\n", PARQUET, "does not begin with PAR1"),
        (declared("(4398046511104,)"), NPY, "needs 35184372088832 bytes, the file has 128"),
        (declared("(16,)", "'|O'"), NPY, "dtype object"),
        (declared("()"), NPY, "needs 8 bytes"),
        (npy(3.0), NPY, "single number"),
        (npy([]), NPY, "at least one row"),
        (npy(np.zeros((1, 16385), np.uint8)), NPY, "got 16385 columns, allowed 16384"),
        (npy([1.0])[:-1], NPY, "the file has 7"),
        (safetensors(a=[4], b=[5]), SAFETENSORS, 'tensor "a" has 4 rows and "b" has 5'),
        (safetensors(a=[]), SAFETENSORS, "at least one row"),
        (safetensors(), SAFETENSORS, "no tensor"),
        ((27 << 20).to_bytes(8, "little") + bytes(64), SAFETENSORS, "limit 1048576"),
        (safetensors(a=[4])[:-1], SAFETENSORS, "the file has"),
        (b"", TAR, "no archive"),
        (b"a,b\n" * 500, TAR, "no archive"),
        (bytes(10240), TAR, "no archive"),
        (tar("../escape.png"), TAR, '"../escape.png" leads out'),
        (tar("/etc/passwd"), TAR, "leads out"),
        (tar("a/../../b.png"), TAR, "leads out"),
        (tar("C:\\windows\\x.png"), TAR, "leads out"),
        (tar("ok.png", "../" + LONG), TAR, "leads out"),
        (tar("../" + LONG, form=tarfile.GNU_FORMAT), TAR, "leads out"),
        (tar("a\u202eb.png"), TAR, "control characters"),
        (tar("inner.tar"), TAR, "an archive itself"),
        (tar("a.png", kind=tarfile.SYMTYPE), TAR, '"a.png" is a symbolic link'),
        (tar("a.png", kind=tarfile.LNKTYPE), TAR, "is a link"),
        (tar("a.png", kind=tarfile.CHRTYPE), TAR, "is a device"),
        (tar("folder", kind=tarfile.DIRTYPE), TAR, "no file"),
        (BROKEN_CHECKSUM, TAR, "checksum"),
        (tar("a.png")[:514], TAR, "the file ends before"),
        (zipped("a.npy"), NPY, "got a zip archive (.zip, .npz) by its first bytes"),
        (b"\x1f\x8b" + bytes(64), TAR, "got a gzip file by its first bytes"),
        (parquet(), CSV, "got a Parquet file by its first bytes; set the format to it"),
    ],
)
def test_a_binary_file_that_is_none_is_explained(content: bytes, data_format: int, part: str) -> None:
    header = read_header(io.BytesIO(content), spec_pb2.DataFormat.ValueType(data_format))
    assert header.columns == ()
    assert part in header.problem


CARRIERS = {
    "protocol 4": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94",
    "protocol 0": b"cposix\nsystem\np0\n(S'true'\np1\ntp2\nRp3\n.",
    "pt": zipped("archive/data.pkl", "archive/version"),
    "TorchScript": zipped("model/code/__torch__.py", "model/constants.pkl"),
    "pt2": zipped("archive_format", "models/model.json"),
}


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("data_format", [CSV, JSONL, PARQUET, NPY, SAFETENSORS, TAR])
def test_a_file_that_can_run_code_is_refused_whatever_it_is_called(carrier: str, data_format: int) -> None:
    header = read_header(io.BytesIO(CARRIERS[carrier]), spec_pb2.DataFormat.ValueType(data_format))
    assert "can run code when it is loaded" in header.problem
