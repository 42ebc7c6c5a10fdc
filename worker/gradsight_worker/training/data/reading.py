"""Files to checked rows: the format by name or spec, the file's first bytes compared with it, then its reader."""

from collections.abc import Callable
from pathlib import Path

from gradsight.v1 import spec_pb2
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
_ENDINGS = {
    ".csv": spec_pb2.DATA_FORMAT_CSV,
    ".jsonl": spec_pb2.DATA_FORMAT_JSONL,
    ".ndjson": spec_pb2.DATA_FORMAT_JSONL,
    ".parquet": spec_pb2.DATA_FORMAT_PARQUET,
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
        table = _TABLES[_format_of(file)](file)
        return read_table(table, file, roles, scratch=scratch, memory_bytes=memory_bytes)
    except TrainingFailed as failure:
        failure.error.field = failure.error.field or field
        raise


def _format_of(file: DataFile) -> spec_pb2.DataFormat.ValueType:
    named = _ENDINGS.get(Path(file.filename.lower()).suffix)
    if found := file.format or named:
        return found
    raise TrainingFailed.by_data(
        f"{file.filename}: unknown format; name the file {', '.join('*' + e for e in _ENDINGS)}, or set the format"
    )
