"""Which row is on which side: decided by the row's content and the split seed alone.

So a row stays on its side when the file grows or is sorted anew, and copies of a row never straddle. `hashing.py` says
what is hashed. As a fraction of 2^64, the lowest hashes are test, the highest validation.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradsight.v1 import spec_pb2
from gradsight_worker.training.data.hashing import Hashes, row_hashes
from gradsight_worker.training.data.rows import Rows
from gradsight_worker.training.errors import TrainingFailed


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
    # Sorted, they are counted without a second copy.
    in_train, *held_out = (np.sort(side) for _, side in sides.values())
    return Splits(
        train=sides["train"][0],
        validation=sides["validation"][0],
        test=sides["test"][0],
        duplicate_rows=sum(int((side[1:] == side[:-1]).sum()) for side in (in_train, *held_out)),
        leaked_rows=sum(_occurring(side, in_train) for side in held_out),
        digest=_digest(in_train, *held_out),
    )


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


def _occurring(hashes: Hashes, known: Hashes) -> int:
    """How many of the hashes are among the known ones, which are sorted."""
    places = np.searchsorted(known, hashes)
    return int((known[np.minimum(places, len(known) - 1)] == hashes).sum())


def _digest(*sides: Hashes) -> str:
    """Over the sorted hashes of each side."""
    total = hashlib.sha256()
    for side in sides:
        total.update(len(side).to_bytes(8, "little"))
        total.update(np.ascontiguousarray(side, dtype="<u8").data)
    return total.hexdigest()
