"""Runs whose troubles are known: what the service finds in MNIST-1D, by its authors' recipe (arXiv 2011.14439).

The data come with a package of the group `bench`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.e2e.conftest import Household
from tests.e2e.known_data import convolution, write_tensors
from torch import nn

from gradsight import Finding, Job, JobState, Severity, export

RECIPE: dict[str, Any] = {
    "inputs": ["input"],
    "target": "label",
    "batch_size": 100,
    "optimizer": {"learning_rate": 1e-2, "weight_decay": 0.0, "clipping_disabled": True, "adam": {}},
    "schedule": {"constant": {}, "warmup_fraction": 0.0},
}


@pytest.fixture(scope="module")
def mnist1d() -> Any:
    """The authors' rows."""
    package = pytest.importorskip("mnist1d.data")
    return package.make_dataset(package.get_dataset_args())


def train(
    household: Household, directory: Path, rows: Any, model: nn.Module, steps: int
) -> tuple[Job, Sequence[Finding]]:
    """A job that has ended, and what was found in it."""
    with household.client() as client:
        handle = client.submit(
            model=export(model, torch.zeros(2, 40)),
            train=write_tensors(directory / "train.safetensors", rows["x"], rows["y"]),
            test=write_tensors(directory / "test.safetensors", rows["x_test"], rows["y_test"]),
            steps=steps,
            **RECIPE,
        )
        job = handle.wait(timeout=110)
        assert job.state is JobState.SUCCEEDED, job.error
        return job, handle.findings()


@pytest.mark.slow
def test_an_mlp_becomes_too_sure_of_itself_and_is_not_called_overfitted(
    household: Household, mnist1d: Any, tmp_path: Path
) -> None:
    """The published case: held-out loss rises from about 1 to 3 while held-out accuracy rises, too."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))
    _, findings = train(household, tmp_path, mnist1d, model, 4000)
    found = {finding.kind: finding for finding in findings}
    assert "overconfidence" in found
    assert found["overconfidence"].severity is Severity.INFO
    assert "overfitting" not in found


@pytest.mark.slow
def test_shuffled_features_end_in_a_finding_that_names_the_data(
    household: Household, mnist1d: Any, tmp_path: Path
) -> None:
    """One order of the 40 positions for all rows costs a convolution 38 points and an MLP none."""
    order = np.random.default_rng(0).permutation(40)
    rows = {**mnist1d, "x": mnist1d["x"][:, order], "x_test": mnist1d["x_test"][:, order]}
    torch.manual_seed(0)
    _, findings = train(household, tmp_path, rows, convolution(), 300)
    (contract,) = [finding for finding in findings if finding.kind == "input_contract"]
    assert contract.subject == "input"
    assert any(number.name == "neighbour_correlation" for number in contract.evidence)


@pytest.mark.slow
def test_a_linear_model_ends_underfitted(household: Household, mnist1d: Any, tmp_path: Path) -> None:
    """It reaches 32 % on rows that a convolution answers at 94 %."""
    torch.manual_seed(0)
    job, _ = train(household, tmp_path, mnist1d, nn.Linear(40, 10), 3000)
    assert job.verdict is not None
    assert job.verdict.verdict == "underfit"
