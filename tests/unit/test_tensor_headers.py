"""Headers of tensor files: what they promise is compared with the file before anything is allocated."""

import io
import json
import struct
import zipfile
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from gradsight._tensor_headers import (
    NpyField,
    TensorFileError,
    looks_pickled,
    read_npy_header,
    read_safetensors_header,
)


def safetensors_file(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def npy_file(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npy_header(text: str, data: bytes = b"", version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode() + data


def read_safetensors(data: bytes) -> Any:
    return read_safetensors_header(io.BytesIO(data), len(data))


def read_npy(data: bytes) -> Any:
    return read_npy_header(io.BytesIO(data), len(data))


def test_tensors_are_found_where_the_library_puts_them() -> None:
    arrays: dict[str, npt.NDArray[Any]] = {
        "b": np.arange(6, dtype=np.int64).reshape(2, 3),
        "a": np.array(2.5, dtype=np.float32),
    }
    data = safetensors.numpy.save(arrays)
    for name, header in read_safetensors(data).items():
        assert (header.dtype, header.shape) == (arrays[name].dtype.name, arrays[name].shape)
        assert data[header.start : header.stop] == arrays[name].tobytes()


def tensor(dtype: str, shape: Any, start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"1234", "got 4 bytes, a header needs at least 8"),
        (safetensors_file({}, length=2**60), "header of 1152921504606846976 bytes, limit 1048576"),
        (safetensors_file({}, length=27_000_000), "header of 27000000 bytes, limit"),
        (safetensors_file({}, length=50), "header of 50 bytes, the file has 10"),
        (safetensors_file(b"[" * 1000), "not JSON"),
        (safetensors_file([]), "not a JSON object"),
        (safetensors_file(b'{"a":1,"a":2}'), "'a' stands twice"),
        (safetensors_file({str(n): tensor("F32", [0], 0, 0) for n in range(10_001)}), "10001 tensors, limit 10000"),
        (safetensors_file({"w": tensor("F32", [2], 0, 4)}, bytes(4)), "shape .2. needs 8 bytes, got 4"),
        (safetensors_file({"w": tensor("F32", [2**40], 0, 4)}, bytes(4)), "needs 4398046511104 bytes"),
        (safetensors_file({"w": tensor("F32", [-1], 0, 4)}, bytes(4)), "allowed up to 32 sizes from 0"),
        (safetensors_file({"w": tensor("F32", [1.0], 0, 4)}, bytes(4)), "allowed up to 32 sizes"),
        (safetensors_file({"w": tensor("F32", [True], 0, 4)}, bytes(4)), "allowed up to 32 sizes"),
        (safetensors_file({"w": tensor("F32", [1], 4, 0)}, bytes(4)), "allowed two rising"),
        (safetensors_file({"w": tensor("PY", [1], 0, 4)}, bytes(4)), "dtype 'PY', allowed BOOL"),
        (safetensors_file({"w": {"dtype": "F32"}}, bytes(4)), "needs exactly dtype, shape and data_offsets"),
        (safetensors_file({"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [1], 4, 8)}, bytes(8)), "'b' overlaps"),
        (safetensors_file({"a": tensor("F32", [1], 4, 8)}, bytes(8)), "4 bytes before tensor 'a' are no tensor's"),
        (safetensors_file({"a": tensor("F32", [1], 0, 4)}, bytes(9)), "tensors end at byte"),
        (safetensors_file({"a": tensor("F32", [1], 0, 4)}), "tensors end at byte"),
        (safetensors_file({"n" * 257: tensor("F32", [1], 0, 4)}, bytes(4)), "name of 257 characters"),
    ],
)  # fmt: skip
def test_a_bad_safetensors_header_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(TensorFileError, match=message):
        read_safetensors(data)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "int64", "float16", "float32", "float64", ">f4"])
def test_arrays_of_numbers_are_read(dtype: str) -> None:
    array = np.zeros((3, 2), dtype=dtype)
    header = read_npy(npy_file(array))
    assert (header.dtype, header.shape, header.fortran) == (array.dtype.name, (3, 2), False)
    assert header.offset == len(npy_file(array)) - array.nbytes
    assert read_npy(npy_file(np.asfortranarray(array))).fortran


def test_texts_and_named_parts_are_read() -> None:
    assert read_npy(npy_file(np.array(["ab", "c"]))).dtype == "str"
    assert read_npy(npy_file(np.array([b"ab", b"c"]))).dtype == "bytes"
    header = read_npy(npy_file(np.zeros(4, dtype=[("x", "f4", (3,)), ("y", "i8")])))
    assert header.fields == (
        NpyField(name="x", dtype="float32", shape=(3,)),
        NpyField(name="y", dtype="int64", shape=()),
    )


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04", "does not begin with"),
        (npy_header(GOOD, bytes(4), version=9), "format version 9, allowed 1 to 3"),
        (npy_header(GOOD, bytes(3)), "needs 4 bytes, the file has 3"),
        (npy_header(GOOD.replace("(1,)", f"({2**42},)"), bytes(3)), "needs 17592186044416 bytes"),
        (npy_header(GOOD.replace("<f4", "|O"), bytes(8)), "dtype object, allowed numbers and texts"),
        (npy_header(GOOD.replace("<f4", "<V8"), bytes(8)), "dtype '<V8', allowed bool"),
        (npy_header(GOOD.replace("<f4", "<c8"), bytes(8)), "dtype '<c8', allowed"),
        (npy_header(GOOD.replace("'<f4'", "[('a', '|O')]"), bytes(8)), "dtype object"),
        (npy_header(GOOD.replace("'<f4'", "[]"), bytes(8)), "0 fields"),
        (npy_header(GOOD.replace("'<f4'", "[('a', 'f4'), ('a', 'f4')]"), bytes(8)), "repeated"),
        (npy_header(GOOD.replace("(1,)", "(-1,)"), bytes(4)), "allowed up to 32 sizes"),
        (npy_header(GOOD.replace("False", "__import__('os')"), bytes(4)), "not a dictionary of literals"),
        (npy_header("(" * 5000), "not a dictionary of literals"),
        (npy_header("{}"), "needs exactly descr"),
        (b"\x93NUMPY\x01\x00\xff\xff" + GOOD.encode(), "header of 65535 bytes, allowed"),
    ],
)  # fmt: skip
def test_a_bad_npy_header_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(TensorFileError, match=message):
        read_npy(data)


def archive(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        for name in names:
            members.writestr(name, b"x")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x80\x04\x95\x10\x00", "a pickle (protocol 4)"),
        (b"\x80\x02}q\x00.", "a pickle (protocol 2)"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "an old file of torch.save (.pt, .pth)"),
        (b"cos\nsystem\n(S'id'\ntR.", "a pickle (protocol 0 or 1)"),
        (b"(dp0\nS'a'\n", "a pickle (protocol 0 or 1)"),
        (archive("model/data.pkl", "model/version"), "an archive of torch.save (.pt, .pth)"),
        (archive("m/code/__torch__.py", "m/constants.pkl"), "a TorchScript archive"),
        (archive("m/archive_format", "m/models/model.json"), "an archive of torch.export.save (.pt2)"),
        (archive("weights.npy"), None),
        (safetensors_file({}), None),
        (npy_file(np.zeros(2)), None),
        (b"category\nshoes\nboots\n", None),
        (b"city\nberlin\nparis\n", None),
        (b'{"text": "cos\\nsystem"}\n', None),
        (b"PAR1\x15\x04", None),
        (b"", None),
    ],
)  # fmt: skip
def test_files_that_carry_code_are_known_by_their_bytes_and_no_others(data: bytes, kind: str | None) -> None:
    assert looks_pickled(data) == kind


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120), st.integers(0, 200))
def test_damage_is_refused_or_read_and_nothing_else(noise: bytes, at: int) -> None:
    for data, read in (
        (safetensors_file({"w": tensor("F32", [1], 0, 4)}, bytes(4)), read_safetensors),
        (npy_file(np.zeros(3)), read_npy),
    ):
        damaged = data[:at] + noise + data[at + len(noise) :]
        looks_pickled(damaged)
        try:
            read(damaged)
        except TensorFileError:
            continue
