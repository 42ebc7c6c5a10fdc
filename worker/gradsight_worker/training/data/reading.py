"""Files to checked rows: the format by name or spec, the file's first bytes compared with it, then its reader."""

from collections.abc import Callable, Mapping
from pathlib import Path

from gradsight._tensor_headers import looks_pickled
from gradsight.v1 import spec_pb2
from gradsight_worker.training.data.array_files import npy_arrays, safetensors_arrays
from gradsight_worker.training.data.arrays import RawColumn, read_arrays
from gradsight_worker.training.data.csv_file import CsvFile
from gradsight_worker.training.data.jsonl_file import JsonlFile
from gradsight_worker.training.data.parquet_file import ParquetFile
from gradsight_worker.training.data.rows import Roles, Rows
from gradsight_worker.training.data.tables import TableFile
from gradsight_worker.training.data.tabular import read_table
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.plan import DataFile

_TABLES: dict[spec_pb2.DataFormat.ValueType, Callable[[DataFile], TableFile]] = {
    spec_pb2.DATA_FORMAT_CSV: CsvFile,
    spec_pb2.DATA_FORMAT_JSONL: JsonlFile,
    spec_pb2.DATA_FORMAT_PARQUET: ParquetFile,
}
_MAGIC_BYTES = 4096
_MAGIC: dict[bytes, tuple[str, spec_pb2.DataFormat.ValueType | None]] = {
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
"""What files begin with, its name, and the format that it is."""
_ENDINGS = {
    ".csv": spec_pb2.DATA_FORMAT_CSV,
    ".jsonl": spec_pb2.DATA_FORMAT_JSONL,
    ".ndjson": spec_pb2.DATA_FORMAT_JSONL,
    ".parquet": spec_pb2.DATA_FORMAT_PARQUET,
    ".npy": spec_pb2.DATA_FORMAT_NPY,
    ".safetensors": spec_pb2.DATA_FORMAT_SAFETENSORS,
    ".tar": spec_pb2.DATA_FORMAT_TAR,
}


def read_rows(file: DataFile, roles: Roles, *, field: str, scratch: Path, memory_bytes: int) -> Rows:
    """Every row of the file, checked.

    Args:
        file: The file.
        roles: Which column is what.
        field: Path of the spec's field that names the file, for errors.
        scratch: Directory for what does not fit into memory; made when it is needed.
        memory_bytes: What the rows may take in memory; beyond it they lie in a mapped file.

    Raises:
        TrainingFailed: With row and column.
    """
    try:
        chosen = _format_of(file)
        _require_content(file, chosen)
        if chosen in _TABLES:
            table = _TABLES[chosen](file)
            return read_table(table, file, roles, scratch=scratch, memory_bytes=memory_bytes)
        return read_arrays(_arrays(file, roles, chosen, scratch), file, roles)
    except TrainingFailed as failure:
        failure.error.field = failure.error.field or field
        raise


def _arrays(
    file: DataFile, roles: Roles, chosen: spec_pb2.DataFormat.ValueType, scratch: Path
) -> Mapping[str, RawColumn]:
    if chosen == spec_pb2.DATA_FORMAT_NPY:
        return npy_arrays(file, roles)
    if chosen == spec_pb2.DATA_FORMAT_SAFETENSORS:
        return safetensors_arrays(file)
    # Pillow is slow to import, and few jobs read images.
    from gradsight_worker.training.data.image_archive import image_columns

    return image_columns(file, roles, scratch=scratch)


def _require_content(file: DataFile, chosen: spec_pb2.DataFormat.ValueType) -> None:
    """Raise TrainingFailed for a file that is by its first bytes what it is not by its name."""
    with file.path.open("rb") as data:
        beginning = data.read(_MAGIC_BYTES)
    allowed = ", ".join(ending.removeprefix(".") for ending in _ENDINGS)
    if kind := looks_pickled(beginning):
        raise TrainingFailed.by_data(
            f"{file.filename} is {kind}, which can run code when it is loaded; save the rows as one of {allowed}"
        )
    for magic, (kind, is_format) in _MAGIC.items():
        if beginning.startswith(magic) and is_format != chosen:
            advice = "set the format to it" if is_format else f"unpack it; files of rows are {allowed}"
            raise TrainingFailed.by_data(f"{file.filename} is {kind} by its first bytes; {advice}")


def _format_of(file: DataFile) -> spec_pb2.DataFormat.ValueType:
    named = _ENDINGS.get(Path(file.filename.lower()).suffix)
    if found := file.format or named:
        return found
    raise TrainingFailed.by_data(
        f"{file.filename}: unknown format; name the file {', '.join('*' + e for e in _ENDINGS)}, or set the format"
    )
