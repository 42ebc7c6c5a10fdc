"""The hash of a row's content: what decides its side.

BLAKE2b of 8 bytes, keyed with the seed (8 bytes, little-endian), over the row's cells: inputs by name in sorted order,
then target, then category. A cell is, all numbers little-endian:

| cell | bytes |
|---|---|
| number | float64; one zero of two, one NaN for every missing number |
| text | its length in UTF-8 bytes (4 bytes), those bytes |
| missing text | the length 2^32 - 1 |
| list of texts | their count (4 bytes), then each as a text |
| tensor | its dtype as a text, its dimensions' count and sizes (4 bytes each), its numbers |
"""

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gradsight_models.columns import Chunk
from gradsight_worker.training.data.rows import Rows

Hashes = npt.NDArray[np.uint64]
Bytes = bytes | memoryview

_MISSING = (2**32 - 1).to_bytes(4, "little")


def row_hashes(rows: Rows, seed: int) -> Hashes:
    """The hash of each row, uint64 [rows]."""
    key = seed.to_bytes(8, "little")
    names = rows.input_names
    order = sorted(range(len(names)), key=names.__getitem__)
    hashes = np.empty(len(rows), dtype=np.uint64)
    done = 0
    for chunk in rows.whole_chunks():
        columns = [*(chunk[place] for place in order), *chunk[len(names) :]]
        digests = b"".join(_digests(columns, key))
        hashes[done : done + len(chunk[0])] = np.frombuffer(digests, dtype="<u8")
        done += len(chunk[0])
    return hashes


def _digests(columns: Chunk, key: bytes) -> Iterable[bytes]:
    blake2b = hashlib.blake2b
    parts = [
        cells
        for is_number, group in itertools.groupby(columns, key=_is_number)
        for cells in ([_number_cells(list(group))] if is_number else map(_other_cells, group))
    ]
    if len(parts) == 1:
        return (blake2b(cell, digest_size=8, key=key).digest() for cell in parts[0])
    join = b"".join
    return (blake2b(join(cells), digest_size=8, key=key).digest() for cells in zip(*parts, strict=True))


def _is_number(column: npt.NDArray[Any]) -> bool:
    return column.dtype == np.float64 and column.ndim == 1


def _number_cells(columns: Sequence[npt.NDArray[Any]]) -> Iterable[Bytes]:
    """Neighbours together: the numbers of a row, one after the other."""
    return _row_bytes(_one_zero_one_nan(np.stack(columns, axis=1)))


def _other_cells(column: npt.NDArray[Any]) -> Iterable[Bytes]:
    if column.dtype == np.object_:
        return _list_cells(column) if any(isinstance(c, tuple) for c in column[:1]) else _text_cells(column)
    numbers = _one_zero_one_nan(column) if column.dtype.kind == "f" else column
    kind = _text(column.dtype.name) + b"".join(
        size.to_bytes(4, "little") for size in (column.ndim - 1, *column.shape[1:])
    )
    return (b"".join((kind, cell)) for cell in _row_bytes(numbers))


def _one_zero_one_nan(numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    # Adding zero makes one zero of two: -0.0 and 0.0 are the same number.
    numbers = np.add(numbers, 0.0, dtype=numbers.dtype)
    numbers[np.isnan(numbers)] = np.nan
    return numbers


def _row_bytes(numbers: npt.NDArray[Any]) -> Iterable[Bytes]:
    little = numbers.astype(numbers.dtype.newbyteorder("<"), order="C", copy=False)
    packed = little.reshape(-1).view(np.uint8).data
    width = len(packed) // len(numbers)
    return (packed[start : start + width] for start in range(0, len(packed), width))


def _text_cells(column: npt.NDArray[Any]) -> Iterable[Bytes]:
    return (_MISSING if text is None else _text(text) for text in column)


def _list_cells(column: npt.NDArray[Any]) -> Iterable[Bytes]:
    return (len(texts).to_bytes(4, "little") + b"".join(map(_text, texts)) for texts in column)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(4, "little") + encoded
