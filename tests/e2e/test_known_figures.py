"""Data whose figures are known: a service that trains badly without failing is found out here.

Shorter than `benchmarks/accuracy.py`, with thresholds to fit. The data come with packages of the group `bench`.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.e2e.conftest import Household
from tests.e2e.known_data import convolution, write_tensors

from gradsight import Client, JobState, export


@pytest.mark.slow
def test_digits_are_read_with_the_defaults_of_the_mlp(household: Household, tmp_path: Path) -> None:
    """Median over seeds 0.973; scikit-learn's own network reaches the same on this split."""
    datasets = pytest.importorskip("sklearn.datasets")
    selection = pytest.importorskip("sklearn.model_selection")
    split = selection.train_test_split(*datasets.load_digits(return_X_y=True), random_state=0)
    inputs, test_inputs, targets, test_targets = split
    files = {
        "train": write_tensors(tmp_path / "train.safetensors", inputs, targets),
        "test": write_tensors(tmp_path / "test.safetensors", test_inputs, test_targets),
    }
    with household.client() as client:
        assert accuracy(client, model="mlp", inputs=["input"], **files) >= 0.95


@pytest.mark.slow
def test_a_convolution_of_the_users_own_reads_mnist_1d(household: Household, tmp_path: Path) -> None:
    """The authors' network and recipe for a fifth of its steps; theirs reaches 94 % at the end, a linear model 32 %."""
    mnist1d = pytest.importorskip("mnist1d.data")
    data = mnist1d.make_dataset(mnist1d.get_dataset_args())
    torch.manual_seed(0)
    network = convolution()
    with household.client() as client:
        reached = accuracy(
            client,
            model=export(network, torch.zeros(2, 40)),
            train=write_tensors(tmp_path / "train.safetensors", data["x"], data["y"]),
            test=write_tensors(tmp_path / "test.safetensors", data["x_test"], data["y_test"]),
            inputs=["input"],
            batch_size=100,
            steps=1200,
            optimizer={"learning_rate": 1e-2, "clipping_disabled": True, "adam": {}},
            schedule={"constant": {}, "warmup_fraction": 0.0},
        )
    assert reached >= 0.80


def accuracy(client: Client, **options: Any) -> float:
    """Share of test rows that the job's model answers rightly."""
    job = client.submit(target="label", **options).wait(timeout=100)
    assert job.state is JobState.SUCCEEDED, job.error
    assert job.summary is not None
    assert job.summary.test is not None
    assert job.summary.test.error_ratio is not None
    return 1 - job.summary.test.error_ratio
