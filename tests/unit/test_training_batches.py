"""Batches: every row once per epoch, in an order that depends on seed and step alone."""

import pytest
import torch

from gradsight_worker.training.data.batches import TrainingBatches
from gradsight_worker.training.data.encoding import ResidentRows


def batches(rows: int, batch_size: int, seed: int = 0) -> TrainingBatches:
    numbers = torch.arange(rows)
    encoded = ResidentRows((numbers.float().view(-1, 1), -numbers, numbers))
    return TrainingBatches(encoded, batch_size=batch_size, seed=seed)


def epoch(of: TrainingBatches, number: int) -> list[list[int]]:
    first = number * of.steps_per_epoch + 1
    return [of.fetch(step)[1].tolist() for step in range(first, first + of.steps_per_epoch)]


@pytest.mark.parametrize(("rows", "batch_size"), [(10, 4), (8, 4), (3, 64), (1, 1), (5, 1), (9, 4), (1, 4)])
def test_an_epoch_shows_every_row_once(rows: int, batch_size: int) -> None:
    of = batches(rows, batch_size)
    for number in range(3):
        assert sorted(row for batch in epoch(of, number) for row in batch) == list(range(rows))


def test_inputs_and_targets_of_a_batch_belong_together() -> None:
    (values, negatives), targets = batches(10, 4).fetch(2)
    assert torch.equal(values[:, 0].long(), targets)
    assert torch.equal(-negatives, targets)


def test_epochs_are_shuffled_differently_and_seeds_too() -> None:
    of = batches(50, 50)
    assert epoch(of, 0) != epoch(of, 1)
    assert epoch(of, 0) != epoch(batches(50, 50, seed=1), 0)


def test_any_step_can_be_fetched_first_with_the_same_rows() -> None:
    whole = [batch for number in range(3) for batch in epoch(batches(10, 4), number)]
    assert [batches(10, 4).fetch(step)[1].tolist() for step in range(1, 10)] == whole


def test_a_row_that_would_be_alone_joins_the_batch_before() -> None:
    of = batches(9, 4)
    assert [len(batch) for batch in epoch(of, 0)] == [4, 5]
    assert of.steps_per_epoch == 2


def test_samples_are_counted_in_part_epochs_too() -> None:
    of = batches(10, 4)
    assert [of.samples_until(step) for step in range(5)] == [0, 4, 8, 10, 14]
    assert of.epoch_of(6) == 2.0
