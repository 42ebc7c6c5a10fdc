"""Files to checked rows: the format by name or spec, the file's first bytes compared with it, then its reader."""

from collections.abc import Callable, Mapping
from pathlib import Path

from gradsight._data_formats import FORMATS_BY_ENDING, MAGIC_BYTES, unwanted_kind
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
        kind = unwanted_kind(data.read(MAGIC_BYTES), chosen)
    if kind:
        raise TrainingFailed.by_data(f"{file.filename} is {kind}")


def _format_of(file: DataFile) -> spec_pb2.DataFormat.ValueType:
    named = FORMATS_BY_ENDING.get(Path(file.filename.lower()).suffix)
    if found := file.format or named:
        return found
    known = ", ".join(f"*{ending}" for ending in FORMATS_BY_ENDING)
    raise TrainingFailed.by_data(f"{file.filename}: unknown format; name the file {known}, or set the format")
