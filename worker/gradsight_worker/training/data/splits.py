"""Which row is on which side: decided by the row's content and the split seed alone.

So a row stays on its side when the file grows or is sorted anew, and copies of a row never straddle. The hash of a
row is BLAKE2b of 8 bytes, keyed with the seed (8 bytes, little-endian), over its cells: inputs by name in sorted
order, then target, then category; a number as float64 little-endian, a text as its length in UTF-8 bytes (4 bytes,
little-endian) and those bytes. As a fraction of 2^64, the lowest hashes are test, the highest validation.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradsight.v1 import spec_pb2
from gradsight_worker.training.data.rows import NumberColumn, Rows, TextColumn
from gradsight_worker.training.errors import TrainingFailed

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The three sides of a job's rows; none is empty."""

    train: Rows
    validation: Rows
    test: Rows
    duplicate_rows: int
    """Rows whose content occurs earlier on the same side."""
    leaked_rows: int
    """Held-out rows whose content also occurs in train."""
    digest: str
    """64 hex digits: equal digests, equal sides."""


def split_rows(train: Rows, validation: Rows | None, test: Rows | None, spec: spec_pb2.SplitSpec) -> Splits:
    """Honour the sides that were given and split off the missing ones from train. Raises TrainingFailed."""
    hashes = row_hashes(train, spec.seed)
    for_test = hashes < _threshold(0.0 if test else spec.test_fraction)
    for_validation = ~for_test & (
        hashes >= _threshold(1.0 - (0.0 if validation else spec.validation_fraction))
    )
    if validation:
        for_validation[:] = False
    sides = {
        "train": (train.take(mask := ~(for_test | for_validation)), hashes[mask]),
        "validation": _side(validation, train, hashes, for_validation, spec.seed),
        "test": _side(test, train, hashes, for_test, spec.seed),
    }
    for name, (rows, _) in sides.items():
        _require_rows(name, rows, len(train))
    train_hashes, validation_hashes, test_hashes = (side for _, side in sides.values())
    held_out = np.concatenate([validation_hashes, test_hashes])
    return Splits(
        train=sides["train"][0],
        validation=sides["validation"][0],
        test=sides["test"][0],
        duplicate_rows=sum(len(side) - len(np.unique(side)) for _, side in sides.values()),
        leaked_rows=int(np.isin(held_out, train_hashes).sum()),
        digest=_digest(train_hashes, validation_hashes, test_hashes),
    )


def row_hashes(rows: Rows, seed: int) -> Hashes:
    """The hash of each row, uint64 [rows]."""
    key = seed.to_bytes(8, "little")
    digests = [hashlib.blake2b(cells, digest_size=8, key=key).digest() for cells in _cells(rows)]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def _cells(rows: Rows) -> Iterator[bytes]:
    """The bytes of each row that are hashed."""
    inputs = [
        column for _, column in sorted(zip(rows.input_names, rows.inputs, strict=True), key=lambda p: p[0])
    ]
    outputs = [rows.targets] if rows.categories is None else [rows.targets, rows.categories]
    texts = [_text_cells(column) for column in (*inputs, *outputs) if column.dtype == object]
    if inputs[0].dtype == object:
        return (b"".join(cells) for cells in zip(*texts, strict=True))
    # Adding zero makes one zero of two: -0.0 and 0.0 are the same number.
    numbers = np.add(np.stack(inputs, axis=1), 0.0).astype("<f8")
    width = numbers.shape[1] * 8
    packed = numbers.tobytes()
    return (
        packed[start : start + width] + b"".join(cells)
        for start, cells in zip(range(0, len(packed), width), zip(*texts, strict=True), strict=True)
    )


def _text_cells(column: NumberColumn | TextColumn) -> list[bytes]:
    encoded = (str(text).encode() for text in column)
    return [len(cell).to_bytes(4, "little") + cell for cell in encoded]


def _threshold(fraction: float) -> np.uint64:
    return np.uint64(min(int(fraction * 2**64), 2**64 - 1))


def _side(
    given: Rows | None, train: Rows, hashes: Hashes, mask: npt.NDArray[np.bool_], seed: int
) -> tuple[Rows, Hashes]:
    if given is not None:
        return given, row_hashes(given, seed)
    return train.take(mask), hashes[mask]


def _require_rows(side: str, rows: Rows, available: int) -> None:
    if len(rows) == 0:
        raise TrainingFailed.by_data(
            f"splitting {available} rows by content left none for {side}; give more rows, a larger fraction or "
            f"a file of its own",
            field="data.split",
        )


def _digest(*sides: Hashes) -> str:
    total = hashlib.sha256()
    for side in sides:
        total.update(len(side).to_bytes(8, "little"))
        total.update(np.sort(side).astype("<u8").tobytes())
    return total.hexdigest()
