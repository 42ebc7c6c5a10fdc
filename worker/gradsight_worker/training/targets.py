"""From the spec's objective to what a model's outputs mean: which target is read, and what is fitted on it."""

import json
from collections.abc import Iterator
from typing import Any

import numpy.typing as npt

from gradsight._objectives import target_kind
from gradsight.v1 import spec_pb2
from gradsight_models import (
    ClassOutputs,
    LabelOutputs,
    ModelSource,
    NumberOutputs,
    Outputs,
    Preprocessing,
    TokenForm,
    TokenOutputs,
    TokenPreprocessing,
)
from gradsight_models.program import ProgramSource
from gradsight_worker.training.data.rows import TargetKind
from gradsight_worker.training.data.splits import Splits
from gradsight_worker.training.errors import TrainingFailed

_READ_AS = {"classes": TargetKind.CLASS, "labels": TargetKind.LABELS, "numbers": TargetKind.NUMBER}


def target_kind_of(objective: spec_pb2.ObjectiveSpec) -> TargetKind | None:
    """How the target column is read; None where the inputs hold the expected output."""
    return _READ_AS.get(target_kind(objective))


def fit_outputs(
    spec: spec_pb2.JobSpec, splits: Splits, source: ModelSource, preprocessing: Preprocessing
) -> Outputs:
    """Classes and labels of all sides, numbers by train's mean and deviation. Raises TrainingFailed."""
    kind = target_kind_of(spec.objective)
    if kind is None:
        return _token_outputs(source, preprocessing)
    if kind is TargetKind.NUMBER:
        return NumberOutputs.fit(splits.train.target_chunks(), [spec.data.target_column])
    if kind is TargetKind.LABELS:
        return LabelOutputs.fit(
            _all_targets(splits),
            separator=spec.objective.binary_cross_entropy.separator or "|",
            name=spec.data.target_column,
        )
    outputs = ClassOutputs.fit(_all_targets(splits))
    if len(outputs.names) < 2:
        raise TrainingFailed.by_data(
            f"column {json.dumps(spec.data.target_column)} has the one class {json.dumps(outputs.names[0])}; "
            f"at least 2 are needed",
            field="data.target_column",
        )
    return outputs


def require_known(outputs: Outputs, splits: Splits, field: str) -> None:
    """Raise TrainingFailed where a target has no place in outputs that came from another job."""
    for rows in (splits.train, splits.validation, splits.test):
        for chunk in rows.target_chunks():
            try:
                outputs.encode(chunk)
            except ValueError as error:
                raise TrainingFailed.by_data(
                    f"the job that this one starts from does not know a target: {error}", field=field
                ) from error


def _token_outputs(source: ModelSource, preprocessing: Preprocessing) -> Outputs:
    if isinstance(preprocessing, TokenPreprocessing) and preprocessing.form is TokenForm.LANGUAGE_MODEL:
        return TokenOutputs(preprocessing.size)
    if isinstance(source, ProgramSource) and len(source.graph.scores.row_shape) == 2:
        size = source.graph.scores.row_shape[-1]
        assert isinstance(size, int)
        return TokenOutputs(size)
    raise TrainingFailed.by_spec(
        "got causal_language_model with a model that does not say for each token what comes next, allowed with "
        "gpt, and with a program whose scores are [rows, tokens, vocabulary]",
        field="objective.causal_language_model",
    )


def _all_targets(splits: Splits) -> Iterator[npt.NDArray[Any]]:
    for rows in (splits.train, splits.validation, splits.test):
        yield from rows.target_chunks()
