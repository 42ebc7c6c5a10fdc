"""Headers of data files that are no text: which columns they have, from their first bytes and without any library.

Each reader raises ValueError for what the file holds, with a message of what it got and what is allowed.
"""

import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

from gradsight._tensor_headers import NpyHeader, read_npy_header, read_safetensors_header
from gradsight_service.limits import shown

IMAGE_COLUMNS = ("image", "label", "path")

_MOST_COLUMNS = 16_384
_MOST_MEMBERS = 1000
"""Members of a tar that are looked at; the worker looks at all."""
_BLOCK = 512
_LONGEST_EXTENSION = 64 << 10
_MEMBER_KINDS = {
    b"1": "a link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
}
_NESTED = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".zip", ".7z")


def parquet_columns(file: BinaryIO, size: int) -> None:
    """Nothing: the columns stand in a footer that only a library reads. It is sound as far as its length tells."""
    file.seek(0)
    if file.read(4) != b"PAR1" or size < 12:
        raise ValueError("parquet: got a file that does not begin with PAR1; write it with a Parquet library")
    file.seek(-8, 2)
    length, magic = struct.unpack("<I4s", file.read(8))
    if magic != b"PAR1" or length > size - 12:
        raise ValueError(f"parquet: a footer of {length} bytes in a file of {size}; the file is cut off")


def npy_columns(file: BinaryIO, size: int) -> tuple[str, ...] | None:
    """Names of a structured array, numbers of a table's columns; None for tensors of more dimensions."""
    header = read_npy_header(file, size)
    if not header.shape:
        raise ValueError("npy: got a single number, allowed rows first")
    if header.shape[0] == 0:
        raise ValueError(f"npy: got shape {list(header.shape)}, allowed at least one row")
    if header.fields:
        return tuple(field.name for field in header.fields)
    return _numbered(header)


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
    found = 0
    for name, kind in _members(file, size):
        found += kind == "file"
        if problem := _name_problem(name):
            raise ValueError(f"tar: member {shown(name)} {problem}")
    if not found:
        raise ValueError("tar: got no file, allowed PNG and JPEG images in folders")
    return IMAGE_COLUMNS


def _numbered(header: NpyHeader) -> tuple[str, ...] | None:
    columns = header.shape[1] if len(header.shape) == 2 else 1
    return tuple(map(str, range(columns))) if len(header.shape) <= 2 and columns <= _MOST_COLUMNS else None


def _name_problem(name: str) -> str:
    parts = re.split(r"[/\\]", name)
    if name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name) or ".." in parts:
        return "leads out of the archive, allowed names below it"
    if not name or not name.isprintable():
        return "has a name with control characters, allowed printable names"
    if name.lower().endswith(_NESTED):
        return "is an archive itself, allowed PNG and JPEG images in folders"
    return ""


def _members(file: BinaryIO, size: int) -> Iterator[tuple[str, str]]:
    """Name and kind, `file` or `folder`, of the first members; extension headers are followed."""
    place, renamed = 0, ""
    for _ in range(_MOST_MEMBERS):
        file.seek(place)
        block = file.read(_BLOCK)
        if len(block) < _BLOCK or not block.strip(b"\0"):
            if place == 0:
                raise ValueError("tar: got no archive, allowed an uncompressed tar")
            return
        length = _checked_length(block, place, size)
        kind, data = block[156:157], place + _BLOCK
        place = data + -(-length // _BLOCK) * _BLOCK
        if kind in (b"x", b"g", b"L"):
            renamed = _long_name(file, kind, length) or renamed
            continue
        if kind not in (b"0", b"\0", b"5", b"7"):
            what = _MEMBER_KINDS.get(kind, f"of type {shown(kind.decode('latin-1'))}")
            raise ValueError(
                f"tar: member {shown(renamed or _name(block))} is {what}, allowed files and folders"
            )
        yield renamed or _name(block), "folder" if kind == b"5" else "file"
        renamed = ""


def _checked_length(block: bytes, place: int, size: int) -> int:
    try:
        expected = int(block[148:156].strip(b" \0") or b"0", 8)
        length = int(block[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        raise ValueError("tar: got no archive, allowed an uncompressed tar") from None
    if sum(block) - sum(block[148:156]) + 8 * ord(" ") != expected:
        raise ValueError(f"tar: the member at byte {place} is damaged: its checksum is another")
    if not 0 <= length <= size - place - _BLOCK:
        raise ValueError(f"tar: the member at byte {place} needs {length} bytes, the file ends before")
    return length


def _name(block: bytes) -> str:
    name = block[:100].rstrip(b"\0").decode("utf-8", "backslashreplace")
    prefix = block[345:500].rstrip(b"\0").decode("utf-8", "backslashreplace")
    return f"{prefix}/{name}" if block[257:262] == b"ustar" and prefix and block[263:265] == b"00" else name


def _long_name(file: BinaryIO, kind: bytes, length: int) -> str:
    """The name that an extension header gives to the next member; empty when it gives none."""
    if length > _LONGEST_EXTENSION:
        raise ValueError(
            f"tar: an extension header of {length} bytes, allowed {_LONGEST_EXTENSION}: shorter names"
        )
    data = file.read(length)
    if kind == b"L":
        return data.rstrip(b"\0").decode("utf-8", "backslashreplace")
    named = re.search(rb"(?:^|\n)\d+ path=([^\n]*)\n", data) if kind == b"x" else None
    return named[1].decode("utf-8", "backslashreplace") if named else ""
