"""What every file of text lines must be, whatever its format."""

from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.plan import DataFile

LONGEST_LINE = 16 << 20
"""Bytes of one line, and of one cell."""
_PIECE = 1 << 20


def require_lines(file: DataFile, *, header: bool) -> None:
    """Raise TrainingFailed at a NUL byte and at a line beyond the limit, with the row that begins on that line."""
    lines = length = 0
    with file.path.open("rb") as data:
        while piece := data.read(_PIECE):
            nul = piece.find(b"\0")
            if nul >= 0:
                row = lines + piece.count(b"\n", 0, nul) + (not header)
                raise _by_row(file, row, "a NUL byte, which no text has; save the file as UTF-8")
            newlines = piece.count(b"\n")
            length = length + len(piece) if not newlines else len(piece) - piece.rfind(b"\n") - 1
            if length > LONGEST_LINE:
                row = lines + newlines + (not header)
                raise _by_row(file, row, f"a line of more than {LONGEST_LINE >> 20} MiB, the limit")
            lines += newlines


def _by_row(file: DataFile, row: int, what: str) -> TrainingFailed:
    where = f"row {row}" if row else "header"
    return TrainingFailed.by_data(f"{file.filename}, {where}: {what}", row=row)
