"""Models as ONNX: they answer as they do here, for any number of rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from gradsight_models import (
    BuiltinSource,
    ClassOutputs,
    Column,
    ColumnKind,
    export_onnx,
    load_result,
    save_result,
)

ROWS = 5
GENERATOR = np.random.default_rng(0)
TEXTS = np.array([f"parcel {n} is{' very' * n} late" for n in range(ROWS)], dtype=object)
TEXT = Column(name="text", kind=ColumnKind.TEXT)
MODELS: Mapping[str, tuple[dict[str, object], Column, npt.NDArray[Any], list[str]]] = {
    "mlp": (
        {"hidden_sizes": [8], "normalization": "batch"},
        Column(name="number", kind=ColumnKind.NUMBER),
        GENERATOR.normal(size=ROWS),
        ["values"],
    ),
    "text_classifier": ({"embedding_size": 8, "hidden_size": 4}, TEXT, TEXTS, ["ids", "weights"]),
    "text_transformer": ({"width": 16, "heads": 2, "max_vocabulary": 300}, TEXT, TEXTS, ["ids"]),
    "cnn": (
        {"channels": [4, 8]},
        Column(name="image", kind=ColumnKind.TENSOR, dtype="uint8", shape=(3, 9, 8)),
        GENERATOR.integers(0, 256, (ROWS, 3, 9, 8)).astype(np.uint8),
        ["images"],
    ),
}


@pytest.mark.parametrize("architecture", MODELS)
def test_a_model_answers_alike_in_onnx_for_any_number_of_rows(tmp_path: Path, architecture: str) -> None:
    options, column, cells, names = MODELS[architecture]
    source = BuiltinSource(architecture, options)
    preprocessing = source.fit([column], lambda: iter([[cells]]))
    outputs = ClassOutputs(names=("a", "b", "c"))
    module = source.build(preprocessing, outputs)
    paths = save_result(
        tmp_path,
        module=module,
        source=source,
        columns=[column],
        preprocessing=preprocessing,
        outputs=outputs,
        figures={},
        version="0",
        onnx=True,
    )
    assert "model.onnx" in [path.name for path in paths]
    assert module.training
    model = load_result(tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == names
    for rows in (1, ROWS):
        inputs = preprocessing.encode([cells[:rows]]).inputs
        (scores,) = session.run(["scores"], dict(zip(names, (part.numpy() for part in inputs), strict=True)))
        assert np.allclose(scores, model.scores([cells[:rows]]).numpy(), atol=1e-5)


class Undecided(nn.Module):
    """Takes another way for other numbers, which no fixed graph can say."""

    def forward(self, values: Tensor) -> Tensor:
        return values if values.sum() > 0 else -values


def test_a_model_that_onnx_cannot_say_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="onnx: got a model that cannot be said in ONNX"):
        export_onnx(Undecided(), (torch.ones(2, 3),), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
