"""Training rows that are answered once more: which ones, and all parts of them."""

import numpy as np
import torch

from gradsight_worker.training.data.encoding import ResidentRows
from gradsight_worker.training.data.sampling import SampledRows, evenly_spaced


def test_a_sample_is_spread_over_all_rows_and_takes_each_once() -> None:
    assert evenly_spaced(10, 4).tolist() == [0, 2, 5, 7]
    assert evenly_spaced(3, 10).tolist() == [0, 1, 2]
    assert evenly_spaced(0, 10).tolist() == []


def test_sampled_rows_are_those_of_the_whole() -> None:
    inputs, targets = torch.arange(12.0).reshape(6, 2), torch.arange(6)
    sampled = SampledRows(ResidentRows([inputs, targets]), np.array([1, 4, 5]))
    assert len(sampled) == 3
    assert sampled.targets.tolist() == [1, 4, 5]
    assert sampled.fetch(torch.tensor([2, 0]))[1].tolist() == [5, 1]
    blocks = list(sampled.blocks(2))
    assert [block[1].tolist() for block in blocks] == [[1, 4], [5]]
    assert blocks[0][0][0].tolist() == [[2.0, 3.0], [8.0, 9.0]]


def test_rows_that_became_several_keep_all_their_parts() -> None:
    whole = ResidentRows([torch.arange(5.0), torch.arange(5)], owners=np.array([0, 1, 1, 2, 2]))
    sampled = SampledRows(whole, np.array([0, 2]))
    assert sampled.owners is not None
    assert sampled.owners.tolist() == [0, 1, 1]
    assert sampled.targets.tolist() == [0, 3, 4]
