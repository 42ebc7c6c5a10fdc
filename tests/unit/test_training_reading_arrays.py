"""npy and safetensors: numbers stay what they are, and no header makes us allocate what the file does not have."""

import io
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save

from gradsight.v1 import spec_pb2, state_pb2
from gradsight_models.columns import Column, ColumnKind, Reading
from gradsight_worker.training.data.reading import read_rows
from gradsight_worker.training.data.rows import Roles, Rows, TargetKind
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.plan import DataFile

TABLE = Roles(target="label")
IMAGES = Roles(reading=Reading.IMAGES, target="label")


def read(tmp_path: Path, content: bytes, roles: Roles, name: str) -> Rows:
    path = tmp_path / "blob"
    path.write_bytes(content)
    file = DataFile(path=path, format=spec_pb2.DATA_FORMAT_UNSPECIFIED, filename=name)
    return read_rows(file, roles, field="data.train", scratch=tmp_path / "scratch", memory_bytes=1 << 20)


def npy(array: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npy_header(descr: str, shape: str, body: bytes = b"", fortran: str = "False") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def safetensors(header: Mapping[str, object] | bytes, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def whole(rows: Rows, column: int = 0) -> npt.NDArray[Any]:
    return np.concatenate([chunk[column] for chunk in rows.chunks()])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i2", "|u1", "|b1"])
def test_an_array_of_two_dimensions_is_columns_by_number(tmp_path: Path, dtype: str, order: Any) -> None:
    numbers = np.array([[0, 1, 1], [1, 0, 0]]).astype(dtype, order=order)
    rows = read(tmp_path, npy(numbers), Roles(target="2"), "r.npy")
    assert rows.columns == (
        Column(name="0", kind=ColumnKind.NUMBER),
        Column(name="1", kind=ColumnKind.NUMBER),
    )
    assert whole(rows, 0).tolist() == [0.0, 1.0]
    assert rows.targets is not None
    assert rows.targets.tolist() == (["true", "false"] if dtype == "|b1" else ["1", "0"])


def test_a_structured_array_has_its_own_names_and_texts(tmp_path: Path) -> None:
    dtype = [("image", "u1", (2, 2)), ("label", "U3"), ("key", "S2")]
    array = np.array([(np.eye(2), "é", b"k1"), (np.ones((2, 2)), "x", b"k2")], dtype=dtype)
    rows = read(tmp_path, npy(array), Roles(reading=Reading.IMAGES, target="label", id="key"), "r.npy")
    assert rows.columns == (Column(name="image", kind=ColumnKind.TENSOR, dtype="uint8", shape=(2, 2)),)
    assert whole(rows).tolist() == [[[1, 0], [0, 1]], [[1, 1], [1, 1]]]
    assert rows.targets is not None
    assert rows.targets.tolist() == ["é", "x"]
    assert rows.ids.tolist() == ["k1", "k2"]


def test_tensors_of_safetensors_are_columns_by_name(tmp_path: Path) -> None:
    images = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    content = save({"image": images, "label": np.array([3.0, 1.5], dtype=np.float32)})
    rows = read(tmp_path, content, IMAGES, "r.safetensors")
    assert np.array_equal(whole(rows), images)
    assert whole(rows).dtype == np.uint8
    assert rows.targets is not None
    assert rows.targets.tolist() == ["3", "1.5"]


def test_bfloat16_reads_as_float32(tmp_path: Path) -> None:
    header = {
        "x": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [0, 4]},
        "label": {"dtype": "U8", "shape": [2], "data_offsets": [4, 6]},
    }
    body = (np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16).astype("<u2").tobytes() + b"\0\1"
    rows = read(tmp_path, safetensors(header, body), TABLE, "r.safetensors")
    assert rows.columns[0].dtype == "float32"
    assert whole(rows).tolist() == [[1.5], [-2.0]]


def test_targets_of_several_numbers_and_of_labels_come_from_two_dimensions(tmp_path: Path) -> None:
    content = save({"x": np.ones((2, 1), np.float32), "y": np.array([[0, 1], [1, 1]], np.uint8)})
    numbers = read(tmp_path, content, Roles(target="y", target_kind=TargetKind.NUMBER), "r.safetensors")
    assert numbers.targets is not None
    assert numbers.targets.tolist() == [[0.0, 1.0], [1.0, 1.0]]
    labels = read(tmp_path, content, Roles(target="y", target_kind=TargetKind.LABELS), "r.safetensors")
    assert labels.targets is not None
    assert labels.targets.tolist() == [("1",), ("0", "1")]


def test_a_model_of_tokens_needs_no_target_and_reads_an_array_as_one_tensor(tmp_path: Path) -> None:
    tokens = np.arange(12, dtype=np.int32).reshape(3, 4)
    rows = read(tmp_path, npy(tokens), Roles(reading=Reading.TOKENS, target_kind=None), "r.npy")
    assert rows.columns == (Column(name="tokens", kind=ColumnKind.TENSOR, dtype="int32", shape=(4,)),)
    assert rows.targets is None


def test_a_missing_number_is_fine_alone_and_refused_in_a_tensor(tmp_path: Path) -> None:
    labels = np.array([0, 1], np.int64)
    alone = save({"x": np.array([1.0, np.nan]), "label": labels})
    assert np.isnan(whole(read(tmp_path, alone, TABLE, "r.safetensors"))).tolist() == [False, True]
    inside = save({"x": np.array([[1.0, 2.0], [3.0, np.nan]]), "label": labels})
    with pytest.raises(
        TrainingFailed, match='row 2, column "x": got "nan", expected a finite number'
    ) as caught:
        read(tmp_path, inside, TABLE, "r.safetensors")
    assert caught.value.error.row == 2
    assert caught.value.error.field == "data.train"


def test_a_held_out_file_must_have_the_tensors_of_train(tmp_path: Path) -> None:
    train = read(tmp_path, save({"x": np.ones((2, 3)), "label": np.ones(2)}), TABLE, "r.safetensors")
    roles = Roles(inputs=train.input_names, target="label", columns=train.columns)
    with pytest.raises(TrainingFailed, match=r"shape \[4\] a row, expected .* shape \[3\] a row as in train"):
        read(tmp_path, save({"x": np.ones((2, 4)), "label": np.ones(2)}), roles, "t.safetensors")


ENTRY = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}
ATTACKS = [
    (npy_header("'|O'", "(1,)", b"\0" * 8), "r.npy", "object"),
    (npy_header("'<f4'", "(4398046511104,)", b"\0" * 128), "r.npy", "17592186044416 bytes, the file has 128"),
    (npy(np.ones((4, 2)))[:-8], "r.npy", "the file has"),
    (npy_header("__import__('os')", "(1,)"), "r.npy", "literals"),
    (npy_header("'<f4'", "()", b"\0" * 4), "r.npy", "single number"),
    (npy_header("'<f4'", "(0, 3)"), "r.npy", "no rows"),
    (npy_header("'<f4'", "(1, 20000)", b"\0" * 80000), "r.npy", "20000 columns, allowed 16384"),
    (npy_header("[('x', '|u1'), ('0', '<U1')]", "(1,)", b"\0\xff\xff\xff\xff"), "r.npy", 'row 1, column "0"'),
    (struct.pack("<Q", 27 << 20) + b"{}", "r.safetensors", "limit 1048576"),
    (safetensors({"a": ENTRY, "label": ENTRY}, b"\0\0"), "r.safetensors", "overlaps"),
    (safetensors({"a": ENTRY | {"shape": [-2]}}, b"\0\0"), "r.safetensors", "shape"),
    (safetensors({"a": ENTRY | {"dtype": "F4"}}, b"\0\0"), "r.safetensors", "dtype"),
    (safetensors({"a": ENTRY | {"data_offsets": [0, 9]}}, b"\0\0"), "r.safetensors", "needs 2 bytes"),
    (safetensors(b"[" * 100_000), "r.safetensors", "not JSON"),
    (safetensors({}), "r.safetensors", "no tensor"),
    (save({"a": np.ones(2), "label": np.ones(3)}), "r.safetensors", "must have the same number"),
    (save({"a": np.ones((2, 2)), "label": np.array([1, np.inf])}), "r.safetensors", 'row 2, column "label"'),
    (save({"a": np.ones((2, 2)), "label": np.ones((2, 2))}), "r.safetensors", "expected one class a row"),
]


@pytest.mark.parametrize(("content", "name", "message"), ATTACKS)
def test_a_file_of_tensors_that_lies_is_refused(
    tmp_path: Path, content: bytes, name: str, message: str
) -> None:
    with pytest.raises(TrainingFailed) as caught:
        read(tmp_path, content, Roles(target="0") if name == "r.npy" else TABLE, name)
    assert message in caught.value.error.message
    assert caught.value.error.fault == state_pb2.FAULT_DATA
    assert caught.value.error.field


MAGIC = [
    (b"PK\x03\x04" + b"\0" * 40, "a zip archive"),
    (b"PK\x03\x04" + b"\0" * 22 + b"\x10\0\0\0" + b"archive/data.pkl", "torch.save"),
    (b"\x1f\x8b\x08", "a gzip file"),
    (b"\x80\x04\x95", "protocol 4"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"PAR1\0", "a Parquet file by its first bytes; set the format to it"),
]


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl", "r.npy", "r.safetensors", "r.tar"])
@pytest.mark.parametrize(("content", "message"), MAGIC)
def test_files_are_known_by_their_first_bytes_whatever_they_are_called(
    tmp_path: Path, content: bytes, message: str, name: str
) -> None:
    with pytest.raises(TrainingFailed, match=message):
        read(tmp_path, content, TABLE, name)
