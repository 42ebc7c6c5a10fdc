"""Headers of data files that are no text: which columns they have, from their first bytes and without any library.

Each reader raises ValueError for what the file holds, with a message of what it got and what is allowed.
"""

import itertools
import struct
from typing import BinaryIO

from gradsight._tar_members import read_members
from gradsight._tensor_headers import read_npy_header, read_safetensors_header
from gradsight_service.limits import shown

IMAGE_COLUMNS = ("image", "label", "path")

_MOST_COLUMNS = 16_384
_MOST_MEMBERS = 1000
"""Members of a tar that are looked at; the worker looks at all."""


def parquet_columns(file: BinaryIO, size: int) -> None:
    """Nothing: the columns stand in a footer that only a library reads. It is sound as far as its length tells."""
    file.seek(0)
    if file.read(4) != b"PAR1" or size < 12:
        raise ValueError("parquet: got a file that does not begin with PAR1; write it with a Parquet library")
    file.seek(-8, 2)
    length, magic = struct.unpack("<I4s", file.read(8))
    if magic != b"PAR1" or length > size - 12:
        raise ValueError(f"parquet: a footer of {length} bytes in a file of {size}; the file is cut off")


def npy_columns(file: BinaryIO, size: int) -> tuple[str, ...]:
    """Names of a structured array, numbers of a table's columns; any other array is one column."""
    header = read_npy_header(file, size)
    if not header.shape:
        raise ValueError("npy: got a single number, allowed rows first")
    if header.shape[0] == 0:
        raise ValueError(f"npy: got shape {list(header.shape)}, allowed at least one row")
    if header.fields:
        return tuple(field.name for field in header.fields)
    columns = header.shape[1] if len(header.shape) == 2 else 1
    if columns > _MOST_COLUMNS:
        raise ValueError(
            f"npy: got {columns} columns, allowed {_MOST_COLUMNS}: save it as safetensors with one tensor"
        )
    return tuple(map(str, range(columns)))


def safetensors_columns(file: BinaryIO, size: int) -> tuple[str, ...]:
    """Names of the tensors; all have the same number of rows."""
    tensors = read_safetensors_header(file, size)
    if not tensors:
        raise ValueError("safetensors: got no tensor, allowed one for each column")
    rows: dict[int, str] = {}
    for name, tensor in tensors.items():
        if not tensor.shape or tensor.shape[0] == 0:
            raise ValueError(
                f"safetensors: tensor {shown(name)} has shape {list(tensor.shape)}, allowed at least one row"
            )
        rows.setdefault(tensor.shape[0], name)
    if len(rows) > 1:
        (first, name), (second, other) = list(rows.items())[:2]
        raise ValueError(
            f"safetensors: tensor {shown(name)} has {first} rows and {shown(other)} has {second}, "
            "allowed the same number in all"
        )
    return tuple(tensors)


def tar_columns(file: BinaryIO, size: int) -> tuple[str, ...]:
    """The columns of every folder of images; its first members are checked."""
    members = itertools.islice(read_members(file, size), _MOST_MEMBERS)
    if not any([not member.is_folder for member in members]):  # noqa: C419 - all of them are checked
        raise ValueError("tar: got no file, allowed PNG and JPEG images in folders")
    return IMAGE_COLUMNS
