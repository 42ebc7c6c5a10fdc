"""Encoding: the same tensors on the device or in a file, and errors that name the file's own row."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gradsight_models.columns import Chunk, Column, ColumnKind, Encoded
from gradsight_models.outputs import ClassOutputs, NumberOutputs, TokenOutputs
from gradsight_models.table_preprocessing import TablePreprocessing
from gradsight_worker.training.data.batches import TrainingBatches
from gradsight_worker.training.data.encoding import EncodedRows, encode_rows
from gradsight_worker.training.data.rows import Rows
from gradsight_worker.training.errors import TrainingFailed

CPU = torch.device("cpu")


def some_rows(count: int = 20_000) -> Rows:
    random = np.random.default_rng(0)
    return Rows.in_memory(
        [Column(name=name, kind=ColumnKind.NUMBER) for name in ("a", "b")],
        [random.normal(size=count), random.normal(size=count)],
        targets=np.array([f"c{n % 3}" for n in range(count)], dtype=object),
    )


def encode(
    rows: Rows, tmp_path: Path, memory_bytes: int, preprocessing: Any = None, outputs: Any = None
) -> EncodedRows:
    return encode_rows(
        rows,
        preprocessing or TablePreprocessing.fit(rows.columns, rows.chunks),
        outputs or ClassOutputs.fit(rows.target_chunks()),
        device=CPU,
        scratch=tmp_path / "scratch",
        memory_bytes=memory_bytes,
    )


def test_rows_in_files_are_those_in_memory(tmp_path: Path) -> None:
    rows = some_rows()
    resident, streamed = (encode(rows, tmp_path, memory_bytes) for memory_bytes in (1 << 30, 1000))
    assert (resident.is_streamed, streamed.is_streamed) == (False, True)
    assert streamed.inputs_spec == resident.inputs_spec
    assert len(streamed) == len(resident) == len(rows)
    assert torch.equal(streamed.targets, resident.targets)
    indices = torch.randperm(len(rows))[:500]
    for (inputs, targets), (others, other_targets) in (
        (resident.fetch(indices), streamed.fetch(indices)),
        *zip(resident.blocks(7000), streamed.blocks(7000), strict=True),
    ):
        assert torch.equal(inputs[0], others[0])
        assert torch.equal(targets, other_targets)


def test_batches_from_files_are_those_from_memory_and_read_ahead_in_one_thread(tmp_path: Path) -> None:
    rows = some_rows(1000)
    resident, streamed = (
        TrainingBatches(encode(rows, tmp_path, memory_bytes), batch_size=64, seed=3)
        for memory_bytes in (1 << 30, 100)
    )
    before = threading.active_count()
    # On through an epoch, and back: a state was resumed.
    for step in [*range(1, 40), 5, 6, 7, 100]:
        (inputs, targets), (others, other_targets) = resident.fetch(step), streamed.fetch(step)
        assert torch.equal(inputs[0], others[0])
        assert torch.equal(targets, other_targets)
    assert threading.active_count() == before + 1


def test_targets_of_many_numbers_are_in_the_file_too(tmp_path: Path) -> None:
    rows = some_rows(5000)
    numbers = np.random.default_rng(1).normal(size=(5000, 20))
    rows = Rows.in_memory(rows.columns, list(next(rows.chunks())), targets=numbers)
    outputs = NumberOutputs.fit([numbers], ["y"])
    resident, streamed = (encode(rows, tmp_path, m, outputs=outputs) for m in (1 << 30, 1000))
    assert torch.equal(resident.targets, streamed.targets)
    indices = torch.tensor([4999, 0, 17])
    assert torch.equal(resident.fetch(indices)[1], streamed.fetch(indices)[1])


@dataclass(frozen=True)
class Windows:
    """Each row becomes as many windows as its number says; their targets come with them."""

    kind: str = "windows"

    def encode(self, columns: Chunk) -> Encoded:
        owners = np.repeat(np.arange(len(columns[0])), columns[0].astype(int))
        numbers = torch.from_numpy(columns[0][owners]).to(torch.bfloat16).view(-1, 1)
        return Encoded(inputs=(numbers,), targets=torch.from_numpy(owners).view(-1, 1), owners=owners)

    def to_json(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("memory_bytes", [1 << 30, 100])
def test_windows_know_the_rows_they_come_from(tmp_path: Path, memory_bytes: int) -> None:
    counts = np.arange(20_000, dtype=np.float64) % 3
    rows = Rows.in_memory([Column(name="n", kind=ColumnKind.NUMBER)], [counts])
    encoded = encode(rows, tmp_path, memory_bytes, Windows(), TokenOutputs(5))
    owners = np.repeat(np.arange(20_000), counts.astype(int))
    assert len(encoded) == len(owners)
    assert encoded.owners is not None
    assert np.array_equal(encoded.owners, owners)
    (numbers,), _ = encoded.fetch(torch.tensor([len(owners) - 1]))
    assert numbers.dtype == torch.bfloat16
    assert numbers.item() == 1.0


class Refusing:
    kind = "refusing"

    def __init__(self, bad: float) -> None:
        self.bad = bad

    def encode(self, columns: Chunk) -> Encoded:
        found = np.flatnonzero(columns[0] == self.bad)
        if len(found):
            raise ValueError(f"row {found[0] + 1}, column 1: got {self.bad}, allowed: others")
        return Encoded(inputs=(torch.from_numpy(columns[0]),))

    def to_json(self) -> dict[str, Any]:
        return {}


def test_an_error_names_the_row_of_the_file_and_not_of_the_chunk(tmp_path: Path) -> None:
    rows = some_rows()
    numbered = Rows.in_memory(rows.columns[:1], [np.arange(20_000.0)], targets=rows.targets)
    odd = numbered.take(np.arange(20_000) % 2 == 1)
    with pytest.raises(TrainingFailed, match="row 19000, column 1: got 18999") as caught:
        encode(odd, tmp_path, 1 << 30, Refusing(18_999.0))
    assert caught.value.error.row == 19_000
    assert caught.value.error.field == "data.input_columns"


def test_an_unknown_class_is_named_with_its_row(tmp_path: Path) -> None:
    rows = some_rows(10_000)
    with pytest.raises(TrainingFailed, match="row 3: got 'c2'") as caught:
        encode(rows, tmp_path, 1 << 30, outputs=ClassOutputs(names=("c0", "c1")))
    assert caught.value.error.field == "data.target_column"


def test_without_a_target_only_inputs_that_hold_it_will_do(tmp_path: Path) -> None:
    rows = Rows.in_memory([Column(name="n", kind=ColumnKind.NUMBER)], [np.arange(3.0)])
    with pytest.raises(TrainingFailed, match="no target column") as caught:
        encode(rows, tmp_path, 1 << 30, outputs=ClassOutputs(names=("a", "b")))
    assert caught.value.error.field == "data.target_column"


def test_scratch_files_have_no_names(tmp_path: Path) -> None:
    encoded = encode(some_rows(), tmp_path, 1000)
    assert encoded.is_streamed
    assert list((tmp_path / "scratch").iterdir()) == []
