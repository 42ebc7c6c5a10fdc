"""Rows to tensors: on the device where they fit, else in files that are read as they are needed."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradsight_models.columns import Encoded
from gradsight_models.outputs import Outputs
from gradsight_models.preprocessing import Preprocessing
from gradsight_worker.training.data.mapped import Bytes, scratch_file
from gradsight_worker.training.data.rows import Rows
from gradsight_worker.training.errors import TrainingFailed

Batch = tuple[tuple[Tensor, ...], Tensor]
"""Inputs and targets, rows first."""

_READ_BYTES = 1 << 20
_RESIDENT_TARGETS = 8
"""Targets of so many bytes a row stay in memory whatever the inputs do: no more than the rows' order takes."""


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """What one input of the model is, rows aside."""

    dtype: torch.dtype
    shape: tuple[int, ...]


class EncodedRows(ABC):
    """Inputs and targets of encoded rows; where a row became several, `owners` says whose they are."""

    is_streamed: bool
    """Whether `fetch` reads a file."""
    index_device: torch.device
    """Where the indices of `fetch` belong."""

    def __init__(self, specs: Sequence[InputSpec], owners: npt.NDArray[np.int64] | None) -> None:
        self.inputs_spec = tuple(specs)
        self.owners = owners
        """int64 [encoded rows]: the row of each, ascending; None: each row is one."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of encoded rows."""

    @property
    @abstractmethod
    def targets(self) -> Tensor:
        """All targets: on the device, or read into memory where they are streamed."""

    @abstractmethod
    def fetch(self, indices: Tensor) -> Batch:
        """These rows, int64 [rows] on `index_device`, on the device."""

    @abstractmethod
    def blocks(self, size: int) -> Iterator[Batch]:
        """All rows in order, `size` at a time, on the device."""

    def read(self, indices: Tensor) -> Batch:
        """As `fetch`, but short of the device: for a thread that reads ahead."""
        return self.fetch(indices)

    def to_device(self, batch: Batch) -> Batch:
        """What `read` gave, on the device."""
        return batch


def encode_rows(
    rows: Rows,
    preprocessing: Preprocessing,
    outputs: Outputs,
    *,
    device: torch.device,
    scratch: Path,
    memory_bytes: int,
) -> EncodedRows:
    """Encode every row.

    Args:
        rows: The rows.
        preprocessing: Fitted; makes the inputs.
        outputs: Fitted; make the targets, unless the inputs hold them.
        device: Where batches are wanted.
        scratch: Directory for what does not fit; made when it is needed.
        memory_bytes: What the tensors may take on the device; beyond it they lie in files.

    Raises:
        TrainingFailed: With the row and the column that cannot be encoded.
    """
    writer = _Writer(scratch, memory_bytes)
    owners: list[npt.NDArray[np.int64]] = []
    done = 0
    targets = rows.target_chunks() if rows.target is not None else iter(())
    for chunk in rows.chunks():
        numbers = rows.numbers_of(done, len(chunk[0]))
        encoded = _encode(preprocessing, chunk, rows, numbers)
        answers = encoded.targets
        if answers is None:
            answers = _encode_targets(outputs, next(targets, None), rows, numbers)
            if encoded.owners is not None:
                answers = answers[torch.from_numpy(encoded.owners)]
        if encoded.owners is not None:
            owners.append(encoded.owners + done)
        writer.add((*encoded.inputs, answers))
        done += len(chunk[0])
    return writer.finish(device, np.concatenate(owners) if owners else None)


class ResidentRows(EncodedRows):
    """Rows on the device."""

    is_streamed = False

    def __init__(self, tensors: Sequence[Tensor], owners: npt.NDArray[np.int64] | None = None) -> None:
        super().__init__([InputSpec(dtype=t.dtype, shape=tuple(t.shape[1:])) for t in tensors[:-1]], owners)
        self._tensors = tuple(tensors)
        self.index_device = tensors[-1].device

    def __len__(self) -> int:
        return len(self._tensors[-1])

    @property
    def targets(self) -> Tensor:
        """On the device."""
        return self._tensors[-1]

    def fetch(self, indices: Tensor) -> Batch:
        """As `EncodedRows.fetch`."""
        indices = indices.to(self.index_device)
        *inputs, targets = [tensor.index_select(0, indices) for tensor in self._tensors]
        return tuple(inputs), targets

    def blocks(self, size: int) -> Iterator[Batch]:
        """As `EncodedRows.blocks`; views."""
        for start in range(0, len(self), size):
            *inputs, targets = [tensor[start : start + size] for tensor in self._tensors]
            yield tuple(inputs), targets


class StreamedRows(EncodedRows):
    """Rows in files; targets in memory where they are small."""

    is_streamed = True
    index_device = torch.device("cpu")

    def __init__(
        self,
        columns: Sequence["_FileColumn"],
        targets: "Tensor | _FileColumn",
        device: torch.device,
        owners: npt.NDArray[np.int64] | None = None,
    ) -> None:
        super().__init__([column.spec for column in columns], owners)
        self._columns = columns
        self._targets = targets
        self._device = device

    def __len__(self) -> int:
        return len(self._targets)

    @property
    def targets(self) -> Tensor:
        """In memory, where they may take much room."""
        if isinstance(self._targets, Tensor):
            return self._targets
        return torch.cat([targets for _, targets in self._slices(self._targets.read_length)])

    def fetch(self, indices: Tensor) -> Batch:
        """As `EncodedRows.fetch`."""
        return self.to_device(self.read(indices))

    def read(self, indices: Tensor) -> Batch:
        """As `EncodedRows.read`; in pinned memory where the device can copy from it by itself."""
        places = indices.numpy()
        inputs = tuple(self._pinned(column.gather(places)) for column in self._columns)
        if isinstance(self._targets, Tensor):
            return inputs, self._pinned(self._targets.index_select(0, indices))
        return inputs, self._pinned(self._targets.gather(places))

    def to_device(self, batch: Batch) -> Batch:
        """As `EncodedRows.to_device`, without waiting for the copy."""
        inputs, targets = batch
        moved = [tensor.to(self._device, non_blocking=True) for tensor in (*inputs, targets)]
        return tuple(moved[:-1]), moved[-1]

    def blocks(self, size: int) -> Iterator[Batch]:
        """As `EncodedRows.blocks`."""
        return (self.to_device(batch) for batch in self._slices(size))

    def _slices(self, size: int) -> Iterator[Batch]:
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            targets = self._targets[rows] if isinstance(self._targets, Tensor) else self._targets.gather(rows)
            yield tuple(column.gather(rows) for column in self._columns), targets

    def _pinned(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if self._device.type == "cuda" else tensor


class _FileColumn:
    """One tensor in a file, a row's bytes one after the other.

    Read by calls and not mapped: the kernel maps hundreds of KiB around each row that is touched here or there.
    """

    def __init__(self, file: BinaryIO, spec: InputSpec) -> None:
        self.spec = spec
        self._file = file
        self._row_bytes = _row_bytes(spec)
        self._length = file.seek(0, os.SEEK_END) // self._row_bytes
        self.read_length = max(1, _READ_BYTES // self._row_bytes)

    def __len__(self) -> int:
        return self._length

    def gather(self, rows: slice | npt.NDArray[np.int64]) -> Tensor:
        """These rows, in memory of their own."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(self._length)
            found = np.empty((stop - start, self._row_bytes), dtype=np.uint8)
            self._read(found.reshape(-1), start * self._row_bytes)
        else:
            found = np.empty((len(rows), self._row_bytes), dtype=np.uint8)
            for row, place in zip(found, rows.tolist(), strict=True):
                self._read(row, place * self._row_bytes)
        return torch.from_numpy(found).view(self.spec.dtype).view(-1, *self.spec.shape)

    def _read(self, into: Bytes, offset: int) -> None:
        done = 0
        while done < len(into):
            # A single call gives at most 2 GiB.
            got = os.preadv(self._file.fileno(), [into[done:].data], offset + done)
            if not got:
                raise OSError("a file of encoded rows ends too soon")
            done += got


class _Writer:
    """Gathers encoded chunks: in memory, or in files once they are larger than `memory_bytes`."""

    def __init__(self, scratch: Path, memory_bytes: int) -> None:
        self._scratch = scratch
        self._memory_bytes = memory_bytes
        self._chunks: list[tuple[Tensor, ...]] = []
        self._bytes = 0
        self._specs: list[InputSpec] = []
        self._files: list[BinaryIO | None] = []
        self._targets: list[Tensor] = []

    def add(self, tensors: tuple[Tensor, ...]) -> None:
        """One more chunk; the targets are last."""
        if self._files:
            self._write(tensors)
            return
        self._chunks.append(tensors)
        self._bytes += sum(tensor.nbytes for tensor in tensors)
        if self._bytes > self._memory_bytes:
            self._spill()

    def finish(self, device: torch.device, owners: npt.NDArray[np.int64] | None) -> EncodedRows:
        """All rows."""
        if not self._files:
            columns = [
                torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*self._chunks, strict=True)
            ]
            return ResidentRows([column.to(device) for column in columns], owners)
        files = [_FileColumn(file, spec) for file, spec in zip(self._files, self._specs, strict=True) if file]
        targets: Tensor | _FileColumn = torch.cat(self._targets) if self._targets else files.pop()
        return StreamedRows(files, targets, device, owners)

    def _spill(self) -> None:
        self._specs = [InputSpec(dtype=t.dtype, shape=tuple(t.shape[1:])) for t in self._chunks[0]]
        resident = _row_bytes(self._specs[-1]) <= _RESIDENT_TARGETS
        self._files = [scratch_file(self._scratch) for _ in self._specs[:-1]]
        self._files.append(None if resident else scratch_file(self._scratch))
        chunks, self._chunks = self._chunks, []
        for chunk in chunks:
            self._write(chunk)

    def _write(self, tensors: tuple[Tensor, ...]) -> None:
        for file, tensor in zip(self._files, tensors, strict=True):
            if file is None:
                self._targets.append(tensor)
            else:
                file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
                file.flush()


def _row_bytes(spec: InputSpec) -> int:
    return max(1, spec.dtype.itemsize * int(np.prod(spec.shape, dtype=np.int64)))


def _encode(
    preprocessing: Preprocessing,
    chunk: Sequence[npt.NDArray[Any]],
    rows: Rows,
    numbers: npt.NDArray[np.int64],
) -> Encoded:
    try:
        return preprocessing.encode(chunk)
    except ValueError as error:
        raise _refused(error, rows, numbers, "data.input_columns") from error


def _encode_targets(
    outputs: Outputs, targets: npt.NDArray[Any] | None, rows: Rows, numbers: npt.NDArray[np.int64]
) -> Tensor:
    if targets is None:
        raise TrainingFailed.by_spec(
            "got no target column, this model's inputs hold no expected output; name one",
            field="data.target_column",
        )
    try:
        return outputs.encode(targets)
    except ValueError as error:
        raise _refused(error, rows, numbers, "data.target_column") from error


def _refused(error: ValueError, rows: Rows, numbers: npt.NDArray[np.int64], field: str) -> TrainingFailed:
    """The sentence with the row's number in the file; models count from the first row of a chunk."""
    message = str(error)
    found = re.search(r"\brow (\d+)\b", message)
    row = int(numbers[int(found[1]) - 1]) if found and 0 < int(found[1]) <= len(numbers) else 0
    if found and row:
        message = f"{message[: found.start()]}row {row}{message[found.end() :]}"
    where = f"{rows.filename}: " if rows.filename else ""
    return TrainingFailed.by_data(f"{where}{message}", field=field, row=row)
