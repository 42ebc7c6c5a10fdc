"""Headers of tensor files, read by our own hand before any library sees the file, and files that may carry code.

A header says how much its reader will allocate: sizes are compared with the file first. Files that run code when
they are loaded (pickles, and the archives of torch that hold them) are known by their first bytes, whatever they are
called. This is the one file of the project that speaks of them; nothing anywhere loads them.
"""

import ast
import json
import math
import re
from dataclasses import dataclass
from typing import Any, BinaryIO

MOST_HEADER_BYTES = 1 << 20
MOST_TENSORS = 10_000
MOST_DIMENSIONS = 32
MOST_NAME_CHARACTERS = 256
_MOST_NPY_HEADER_BYTES = 64 << 10
_MOST_FIELDS = 4096

_SAFETENSORS_DTYPES = {
    "BOOL": ("bool", 1),
    "U8": ("uint8", 1),
    "I8": ("int8", 1),
    "U16": ("uint16", 2),
    "I16": ("int16", 2),
    "U32": ("uint32", 4),
    "I32": ("int32", 4),
    "U64": ("uint64", 8),
    "I64": ("int64", 8),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F32": ("float32", 4),
    "F64": ("float64", 8),
}
_NPY_SCALARS = {"b1": "bool"} | {
    f"{letter}{size}": f"{word}{8 * size}"
    for letter, word, sizes in (
        ("i", "int", (1, 2, 4, 8)),
        ("u", "uint", (1, 2, 4, 8)),
        ("f", "float", (2, 4, 8)),
    )
    for size in sizes
}


class TensorFileError(ValueError):
    """A tensor file is damaged, too large or of a kind that is not read; the message says what, got and allowed."""


@dataclass(frozen=True, kw_only=True)
class TensorHeader:
    """One tensor of a safetensors file."""

    dtype: str
    """torch's name, `float32` say."""
    shape: tuple[int, ...]
    start: int
    """Where its bytes begin, counted from the beginning of the file."""
    stop: int


@dataclass(frozen=True, kw_only=True)
class NpyField:
    """One named part of each element of a structured array."""

    name: str
    dtype: str
    """As `NpyHeader.dtype`."""
    shape: tuple[int, ...]
    """Of the part within one element; empty for a single number or text."""


@dataclass(frozen=True, kw_only=True)
class NpyHeader:
    """What an npy file holds."""

    dtype: str
    """numpy's name, `float32` say; `str` and `bytes` for texts of fixed length; empty for a structured array."""
    fields: tuple[NpyField, ...]
    """Of a structured array, in order; empty for any other."""
    shape: tuple[int, ...]
    fortran: bool
    """Whether the first dimension runs fastest."""
    offset: int
    """Where the numbers begin, in bytes from the beginning of the file."""


def read_safetensors_header(file: BinaryIO, size: int) -> dict[str, TensorHeader]:
    """The tensors of a safetensors file of `size` bytes, by name, in the order of their bytes.

    Reads at most 1 MiB and allocates nothing that the file asks for. Raises TensorFileError.
    """
    file.seek(0)
    first = file.read(8)
    if len(first) < 8:
        raise TensorFileError(f"safetensors: got {size} bytes, a header needs at least 8")
    length = int.from_bytes(first, "little")
    if length > MOST_HEADER_BYTES:
        raise TensorFileError(f"safetensors: header of {length} bytes, limit {MOST_HEADER_BYTES}")
    if 8 + length > size:
        raise TensorFileError(f"safetensors: header of {length} bytes, the file has {size}")
    document = _read_json(file.read(length))
    document.pop("__metadata__", None)
    if len(document) > MOST_TENSORS:
        raise TensorFileError(f"safetensors: {len(document)} tensors, limit {MOST_TENSORS}")
    tensors = {name: _tensor_header(name, entry, 8 + length) for name, entry in document.items()}
    in_order = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)))
    end = 8 + length
    for name, header in in_order.items():
        if header.start < end:
            raise TensorFileError(f"safetensors: tensor {_shown(name)} overlaps the one before it")
        if header.start > end:
            raise TensorFileError(
                f"safetensors: {header.start - end} bytes before tensor {_shown(name)} are no tensor's"
            )
        end = header.stop
    if end != size:
        raise TensorFileError(f"safetensors: tensors end at byte {end}, the file has {size}")
    return in_order


def read_npy_header(file: BinaryIO, size: int) -> NpyHeader:
    """What an npy file of `size` bytes holds: numbers, texts of fixed length, or named parts of those.

    Arrays of Python objects are refused: to load them is to run code. Raises TensorFileError.
    """
    file.seek(0)
    first = file.read(12)
    if first[:6] != b"\x93NUMPY" or len(first) < 12:
        raise TensorFileError("npy: got a file that does not begin with \\x93NUMPY; save it with numpy.save")
    if first[6] not in (1, 2, 3):
        raise TensorFileError(f"npy: format version {first[6]}, allowed 1 to 3")
    start = 10 if first[6] == 1 else 12
    length = int.from_bytes(first[8:start], "little")
    if length > min(_MOST_NPY_HEADER_BYTES, size - start):
        raise TensorFileError(
            f"npy: header of {length} bytes, allowed {min(_MOST_NPY_HEADER_BYTES, size - start)}"
        )
    file.seek(start)
    descr, fortran, shape = _read_npy_dictionary(file.read(length))
    fields, itemsize = _npy_fields(descr) if isinstance(descr, list) else ((), 0)
    dtype = "" if fields else _npy_dtype(descr)[0]
    itemsize = itemsize or _npy_dtype(descr)[1]
    offset = start + length
    needed, present = math.prod(shape) * itemsize, size - offset
    if needed != present:
        raise TensorFileError(f"npy: shape {list(shape)} needs {needed} bytes, the file has {present}")
    return NpyHeader(dtype=dtype, fields=fields, shape=shape, fortran=fortran, offset=offset)


def looks_pickled(first_bytes: bytes) -> str | None:
    """What kind of code-carrying file begins with these bytes (4096 suffice), or None for any other file.

    The answer completes a sentence: `"a pickle (protocol 4)"`, `"an archive of torch.save (.pt, .pth)"`.
    """
    if first_bytes[:2] == b"PK":
        return _archive_kind(first_bytes)
    if first_bytes[:12] == b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8":
        return "an old file of torch.save (.pt, .pth)"
    if len(first_bytes) > 2 and first_bytes[0] == 0x80 and 2 <= first_bytes[1] <= 5:
        return f"a pickle (protocol {first_bytes[1]})"
    return "a pickle (protocol 0 or 1)" if _OLD_PICKLE.match(first_bytes) else None


# A word, a line end and another word are also the beginning of a CSV file: only with what must follow is it a pickle.
_OLD_PICKLE = re.compile(
    rb"c[A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n(?:p\d+\n|q.|[(\])}t])"
    rb"|\([dlt]p\d+\n|\(c[A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n|\(i[A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n|[\](})]q.",
    re.DOTALL,
)


def _archive_kind(first_bytes: bytes) -> str | None:
    names = [
        first_bytes[found.end() : found.end() + int.from_bytes(found[1], "little")]
        for found in re.finditer(rb"PK\x03\x04.{22}(..)..", first_bytes, re.DOTALL)
    ]
    parts = {part for name in names for part in name.split(b"/")}
    if parts & {b"archive_format", b"archive_version", b"serialized_exported_program.json", b"sample_inputs"}:
        return "an archive of torch.export.save (.pt2)"
    if parts & {b"code", b"constants.pkl"}:
        return "a TorchScript archive"
    if any(part.endswith((b".pkl", b".pickle")) for part in parts):
        return "an archive of torch.save (.pt, .pth)"
    return None


def _read_json(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data, object_pairs_hook=_without_repeats)
    except TensorFileError:
        raise
    except (ValueError, RecursionError):
        raise TensorFileError("safetensors: the header is not JSON") from None
    if not isinstance(document, dict):
        raise TensorFileError("safetensors: the header is not a JSON object")
    return document


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise TensorFileError(f"safetensors: {_shown(repeated)} stands twice")
    return document


def _tensor_header(name: str, entry: Any, data_start: int) -> TensorHeader:
    where = f"safetensors: tensor {_shown(name)}"
    if not 1 <= len(name) <= MOST_NAME_CHARACTERS:
        raise TensorFileError(f"{where}: name of {len(name)} characters, allowed 1 to {MOST_NAME_CHARACTERS}")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise TensorFileError(f"{where}: needs exactly dtype, shape and data_offsets")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _SAFETENSORS_DTYPES:
        allowed = ", ".join(_SAFETENSORS_DTYPES)
        raise TensorFileError(f"{where}: dtype {_shown(entry['dtype'])}, allowed {allowed}")
    dtype, itemsize = _SAFETENSORS_DTYPES[entry["dtype"]]
    shape, offsets = _sizes(entry["shape"]), _sizes(entry["data_offsets"])
    if shape is None or len(shape) > MOST_DIMENSIONS:
        raise TensorFileError(
            f"{where}: shape {_shown(entry['shape'])}, allowed up to {MOST_DIMENSIONS} sizes from 0"
        )
    if offsets is None or len(offsets) != 2 or offsets[1] < offsets[0]:
        raise TensorFileError(
            f"{where}: data_offsets {_shown(entry['data_offsets'])}, allowed two rising from 0"
        )
    needed = math.prod(shape) * itemsize
    if needed != offsets[1] - offsets[0]:
        raise TensorFileError(
            f"{where}: shape {list(shape)} needs {needed} bytes, got {offsets[1] - offsets[0]}"
        )
    return TensorHeader(dtype=dtype, shape=shape, start=data_start + offsets[0], stop=data_start + offsets[1])


def _sizes(value: Any) -> tuple[int, ...] | None:
    if not isinstance(value, list | tuple) or any(
        type(size) is not int or not 0 <= size < 1 << 63 for size in value
    ):
        return None
    return tuple(value)


def _read_npy_dictionary(data: bytes) -> tuple[Any, bool, tuple[int, ...]]:
    try:
        # Reads literals only; nested too deeply for it, it gives up.
        document = ast.literal_eval(data.decode("utf-8").strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise TensorFileError("npy: the header is not a dictionary of literals") from None
    if not isinstance(document, dict) or set(document) != {"descr", "fortran_order", "shape"}:
        raise TensorFileError("npy: the header needs exactly descr, fortran_order and shape")
    shape = _sizes(document["shape"])
    if shape is None or len(shape) > MOST_DIMENSIONS:
        raise TensorFileError(
            f"npy: shape {_shown(document['shape'])}, allowed up to {MOST_DIMENSIONS} sizes from 0"
        )
    if type(document["fortran_order"]) is not bool:
        raise TensorFileError(
            f"npy: fortran_order {_shown(document['fortran_order'])}, allowed True and False"
        )
    return document["descr"], document["fortran_order"], shape


def _npy_fields(descr: list[Any]) -> tuple[tuple[NpyField, ...], int]:
    if not 1 <= len(descr) <= _MOST_FIELDS:
        raise TensorFileError(f"npy: {len(descr)} fields, allowed 1 to {_MOST_FIELDS}")
    fields: dict[str, NpyField] = {}
    itemsize = 0
    for part in descr:
        if not isinstance(part, tuple) or len(part) not in (2, 3) or not isinstance(part[0], str):
            raise TensorFileError(f"npy: field {_shown(part)}, allowed (name, type) or (name, type, shape)")
        shape = _sizes(part[2]) if len(part) == 3 else ()
        if shape is None or part[0] in fields or not 1 <= len(part[0]) <= MOST_NAME_CHARACTERS:
            raise TensorFileError(
                f"npy: field {_shown(part)}: its name is repeated or empty, or its shape no shape"
            )
        dtype, size = _npy_dtype(part[1])
        fields[part[0]] = NpyField(name=part[0], dtype=dtype, shape=shape)
        itemsize += size * math.prod(shape)
    return tuple(fields.values()), itemsize


def _npy_dtype(descr: Any) -> tuple[str, int]:
    """Name and size in bytes of one element."""
    found = re.fullmatch(r"[<>|=]?([biufOSUV])(\d{0,9})", descr) if isinstance(descr, str) else None
    if found and found[1] == "O":
        raise TensorFileError("npy: dtype object, allowed numbers and texts; save an array of one of those")
    if found and found[1] + found[2] in _NPY_SCALARS:
        return _NPY_SCALARS[found[1] + found[2]], int(found[2])
    if found and found[1] in "SU" and found[2]:
        return ("bytes", int(found[2])) if found[1] == "S" else ("str", 4 * int(found[2]))
    raise TensorFileError(
        f"npy: dtype {_shown(descr)}, allowed {', '.join(_NPY_SCALARS.values())}, str and bytes"
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
