"""npy and safetensors: the header is read by our own hand first, then the numbers stay where they are, mapped."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gradsight._tensor_headers import NpyHeader, TensorFileError, read_npy_header, read_safetensors_header
from gradsight_models.columns import Reading
from gradsight_worker.training.data.arrays import RawColumn
from gradsight_worker.training.data.mapped import MappedFile
from gradsight_worker.training.data.rows import Roles
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.plan import DataFile

MOST_COLUMNS = 16_384
"""Of an array of two dimensions."""
_LONGEST_NPY_HEADER = 64 << 10

Array = npt.NDArray[Any]


def npy_arrays(file: DataFile, roles: Roles) -> Mapping[str, RawColumn]:
    """The columns of an npy file. Raises TrainingFailed."""
    try:
        with file.path.open("rb") as data:
            header = read_npy_header(data, file.path.stat().st_size)
            mapped = MappedFile(data)
        # The header was found sound; numpy knows the order of bytes, too.
        dtype = (
            np.lib.format.open_memmap(file.path, mode="r", max_header_size=_LONGEST_NPY_HEADER).dtype
            if math.prod(header.shape)
            else np.dtype(np.float64)
        )
    except (TensorFileError, ValueError) as error:
        raise TrainingFailed.by_data(f"{file.filename}: {error}") from error
    values: Array = np.ndarray(
        header.shape, dtype, mapped.bytes, header.offset, order="F" if header.fortran else "C"
    )
    if header.fields:
        _require_one_dimension(header, file)
        return {field.name: _raw(values[field.name], mapped) for field in header.fields}
    return {name: _raw(part, mapped) for name, part in _columns_of(values, file, roles).items()}


def safetensors_arrays(file: DataFile) -> Mapping[str, RawColumn]:
    """The tensors of a safetensors file. Raises TrainingFailed."""
    try:
        with file.path.open("rb") as data:
            headers = read_safetensors_header(data, file.path.stat().st_size)
            mapped = MappedFile(data)
    except TensorFileError as error:
        raise TrainingFailed.by_data(f"{file.filename}: {error}") from error
    if not headers:
        raise TrainingFailed.by_data(f"{file.filename} has no tensor; one for each column is expected")
    columns = {}
    for name, header in headers.items():
        is_brain = header.dtype == "bfloat16"
        dtype = np.dtype(np.uint16 if is_brain else header.dtype).newbyteorder("<")
        values: Array = np.ndarray(header.shape, dtype, mapped.bytes, header.start)
        columns[name] = RawColumn(
            values=values, file=mapped, decode=_from_bfloat16 if is_brain else _decoder_of(dtype)
        )
    return columns


def _require_one_dimension(header: NpyHeader, file: DataFile) -> None:
    if len(header.shape) != 1:
        raise TrainingFailed.by_data(
            f"{file.filename}: npy: a structured array of shape {list(header.shape)}, expected one dimension: rows"
        )


def _columns_of(values: Array, file: DataFile, roles: Roles) -> dict[str, Array]:
    if values.ndim == 2 and roles.reading is Reading.TOKENS:
        return {"tokens": values}
    if values.ndim != 2:
        return {"0": values}
    if values.shape[1] > MOST_COLUMNS:
        raise TrainingFailed.by_data(
            f"{file.filename}: npy: {values.shape[1]} columns, allowed {MOST_COLUMNS}; save a structured array or "
            f"safetensors with one tensor"
        )
    return {str(place): values[:, place] for place in range(values.shape[1])}


def _raw(values: Array, mapped: MappedFile) -> RawColumn:
    return RawColumn(values=values, file=mapped, decode=_decoder_of(values.dtype))


def _decoder_of(dtype: np.dtype[Any]) -> Callable[[Array], Array]:
    if dtype.kind == "b":
        return _from_bytes
    if dtype.kind == "S":
        return _from_ascii
    if dtype.kind == "U":
        return _from_characters
    native = dtype.newbyteorder("=")
    return lambda part: np.array(part, dtype=native, order="C")


def _from_bytes(part: Array) -> Array:
    """Any byte but 0 is true: a file may hold others than 1."""
    return np.asarray(part.view(np.uint8) != 0)


def _from_bfloat16(part: Array) -> Array:
    return (part.astype(np.uint32) << 16).view(np.float32)


def _from_ascii(part: Array) -> Array:
    return np.array([cell.decode("utf-8", "surrogateescape") for cell in part.tolist()], dtype=object)


def _from_characters(part: Array) -> Array:
    # Characters beyond Unicode cannot become texts; as a half of a pair they are refused with their row.
    codes = np.ascontiguousarray(part.astype(part.dtype.newbyteorder("="))).view(np.uint32)
    codes = np.where(codes > 0x10FFFF, 0xD800, codes).reshape(len(part), part.dtype.itemsize // 4)
    return np.array(["".join(map(chr, row)).rstrip("\0") for row in codes.tolist()], dtype=object)
