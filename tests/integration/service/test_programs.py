"""A module leaves the client as a graph and weights, and the service accepts what fits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

import gradsight

Service = Any


class TwoInputs(nn.Module):
    """Reads numbers and a mask over them."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, 8)
        self.scores = nn.Linear(8, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        hidden: Tensor = self.hidden(x * mask)
        scores: Tensor = self.scores(hidden.relu())
        return scores


EXAMPLE = (torch.zeros(2, 4), torch.ones(2, 4))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.safetensors"
    numbers = np.zeros((50, 4), np.float32)
    save_file({"x": numbers, "mask": numbers, "label": np.zeros(50, np.int64)}, path)
    return path


def test_a_module_is_submitted_with_one_call(service: Service, rows: Path) -> None:
    with gradsight.Client(service.address) as client:
        spec = client.validate(model=TwoInputs(), example_inputs=EXAMPLE, train=rows, target="label")
    assert set(spec["model"]["program"]) == {"graph", "weights"}
    assert (spec["name"], spec["optimizer"]["learning_rate"], spec["objective"]) == (
        "program",
        1e-3,
        {"cross_entropy": {"label_smoothing": 0.0, "class_weighting": "none"}},
    )


def test_what_does_not_fit_is_named(service: Service, rows: Path) -> None:
    exported = gradsight.export(TwoInputs(), EXAMPLE, input_names=["x", "weights"])
    other = gradsight.ExportedModel(exported.graph, gradsight.export(nn.Linear(4, 3), EXAMPLE[:1]).weights)
    with gradsight.Client(service.address) as client, pytest.raises(gradsight.InvalidSpec) as caught:
        client.submit(model=other, train=rows, target="label")
    said = {violation.field: violation.message for violation in caught.value.fields}
    assert set(said) == {"model.program.weights", "data.input_columns"}
    assert "missing 'hidden.weight'" in said["model.program.weights"]
    assert 'no column "weights"' in said["data.input_columns"]
