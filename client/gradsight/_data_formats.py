"""Formats of files of rows: by the ends of their names, and by their first bytes, which have the last word."""

from collections.abc import Mapping

from gradsight._tensor_headers import looks_pickled
from gradsight.v1 import spec_pb2

FORMATS_BY_ENDING: Mapping[str, spec_pb2.DataFormat.ValueType] = {
    ".csv": spec_pb2.DATA_FORMAT_CSV,
    ".jsonl": spec_pb2.DATA_FORMAT_JSONL,
    ".ndjson": spec_pb2.DATA_FORMAT_JSONL,
    ".parquet": spec_pb2.DATA_FORMAT_PARQUET,
    ".npy": spec_pb2.DATA_FORMAT_NPY,
    ".safetensors": spec_pb2.DATA_FORMAT_SAFETENSORS,
    ".tar": spec_pb2.DATA_FORMAT_TAR,
}
DATA_FORMATS = tuple(
    spec_pb2.DataFormat.Name(known).removeprefix("DATA_FORMAT_").lower()
    for known in dict.fromkeys(FORMATS_BY_ENDING.values())
)
MAGIC_BYTES = 4096
"""So many first bytes tell what a file is."""

_ALLOWED = ", ".join(DATA_FORMATS)
# What files begin with, its name, and the format that it is.
_MAGIC: Mapping[bytes, tuple[str, spec_pb2.DataFormat.ValueType | None]] = {
    b"PK\x03\x04": ("a zip archive (.zip, .npz)", None),
    b"\x1f\x8b": ("a gzip file", None),
    b"BZh": ("a bzip2 file", None),
    b"\xfd7zXZ": ("an xz file", None),
    b"(\xb5/\xfd": ("a zstandard file", None),
    b"7z\xbc\xaf": ("a 7z archive", None),
    b"\x89HDF": ("an HDF5 file", None),
    b"PAR1": ("a Parquet file", spec_pb2.DATA_FORMAT_PARQUET),
    b"\x93NUMPY": ("an npy file", spec_pb2.DATA_FORMAT_NPY),
}


def unwanted_kind(beginning: bytes, chosen: spec_pb2.DataFormat.ValueType) -> str:
    """What a file that begins like this is, when that is not what it is taken for, and what to do; else empty.

    The answer completes a sentence: `"a gzip file by its first bytes; …"`.
    """
    if kind := code_carrier(beginning):
        return kind
    for magic, (name, known) in _MAGIC.items():
        if beginning.startswith(magic) and known != chosen:
            advice = "set the format to it" if known else f"convert it; files of rows are {_ALLOWED}"
            return f"{name} by its first bytes; {advice}"
    return ""


def code_carrier(beginning: bytes) -> str:
    """What a file is that can run code when it is loaded, and what to do; empty for any other."""
    kind = looks_pickled(beginning)
    return f"{kind}, which can run code when it is loaded; save rows as one of {_ALLOWED}" if kind else ""
