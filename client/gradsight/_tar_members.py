"""Members of an uncompressed tar, read by our own hand: names, kinds and places, and nothing unpacked.

What leads out of the archive, links, devices and archives within are refused by name.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_BLOCK = 512
_LONGEST_EXTENSION = 64 << 10
_LONGEST_SHOWN = 80
_KINDS = {
    b"1": "a link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
}
_NESTED = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".zip", ".7z")


class TarError(ValueError):
    """An archive is damaged or holds what is not read; the message says what, got and allowed."""


@dataclass(frozen=True, kw_only=True)
class TarMember:
    """A file or a folder of an archive."""

    name: str
    is_folder: bool
    start: int
    """Where its bytes begin, counted from the beginning of the archive."""
    size: int
    """In bytes."""


def read_members(file: BinaryIO, size: int) -> Iterator[TarMember]:
    """The members of a tar of `size` bytes, in order; extension headers are followed. Raises TarError.

    Reads a header at a time, so that whoever has seen enough may stop. The file's position may be moved meanwhile.
    """
    place, renamed = 0, ""
    while True:
        file.seek(place)
        block = file.read(_BLOCK)
        if len(block) < _BLOCK or not block.strip(b"\0"):
            if place == 0:
                raise TarError("tar: got no archive, allowed an uncompressed tar")
            return
        length = _checked_length(block, place, size)
        kind, start = block[156:157], place + _BLOCK
        place = start + -(-length // _BLOCK) * _BLOCK
        if kind in (b"x", b"g", b"L"):
            renamed = _long_name(file, kind, length) or renamed
            continue
        name, renamed = renamed or _name(block), ""
        if kind not in (b"0", b"\0", b"5", b"7"):
            what = _KINDS.get(kind, f"of type {_shown(kind.decode('latin-1'))}")
            raise TarError(f"tar: member {_shown(name)} is {what}, allowed files and folders")
        if problem := _name_problem(name):
            raise TarError(f"tar: member {_shown(name)} {problem}")
        # An old tar marks a folder by the end of its name only.
        yield TarMember(name=name, is_folder=kind == b"5" or name.endswith("/"), start=start, size=length)


def _name_problem(name: str) -> str:
    parts = re.split(r"[/\\]", name)
    if name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name) or ".." in parts:
        return "leads out of the archive, allowed names below it"
    if not name or not name.isprintable():
        return "has a name with control characters, allowed printable names"
    if name.lower().endswith(_NESTED):
        return "is an archive itself, allowed PNG and JPEG images in folders"
    return ""


def _checked_length(block: bytes, place: int, size: int) -> int:
    try:
        expected = int(block[148:156].strip(b" \0") or b"0", 8)
        length = int(block[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        raise TarError("tar: got no archive, allowed an uncompressed tar") from None
    if sum(block) - sum(block[148:156]) + 8 * ord(" ") != expected:
        raise TarError(f"tar: the member at byte {place} is damaged: its checksum is another")
    if not 0 <= length <= size - place - _BLOCK:
        raise TarError(f"tar: the member at byte {place} needs {length} bytes, the file ends before")
    return length


def _name(block: bytes) -> str:
    name = block[:100].rstrip(b"\0").decode("utf-8", "backslashreplace")
    prefix = block[345:500].rstrip(b"\0").decode("utf-8", "backslashreplace")
    return f"{prefix}/{name}" if block[257:262] == b"ustar" and prefix and block[263:265] == b"00" else name


def _long_name(file: BinaryIO, kind: bytes, length: int) -> str:
    """The name that an extension header gives to the next member; empty when it gives none."""
    if length > _LONGEST_EXTENSION:
        raise TarError(
            f"tar: an extension header of {length} bytes, allowed {_LONGEST_EXTENSION}: shorter names"
        )
    data = file.read(length)
    if kind == b"L":
        return data.rstrip(b"\0").decode("utf-8", "backslashreplace")
    named = re.search(rb"(?:^|\n)\d+ path=([^\n]*)\n", data) if kind == b"x" else None
    return named[1].decode("utf-8", "backslashreplace") if named else ""


def _shown(text: str) -> str:
    return json.dumps(text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…")
