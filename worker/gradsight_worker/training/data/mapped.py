"""Files seen through memory whose pages leave the process as soon as they were read."""

import mmap
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


class MappedFile:
    """A file's bytes as an array that cannot be written."""

    def __init__(self, file: BinaryIO) -> None:
        file.seek(0, 2)
        # An empty file cannot be mapped.
        self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.tell() else None
        self.bytes: Bytes = np.frombuffer(self._map or b"", dtype=np.uint8)

    def release(self) -> None:
        """Let go of the pages in memory; arrays on them stay valid and read the file again."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)


def scratch_file(scratch: Path) -> BinaryIO:
    """A file without a name: it is gone when its last reader is."""
    scratch.mkdir(parents=True, exist_ok=True)
    return cast(BinaryIO, tempfile.TemporaryFile(dir=scratch))
