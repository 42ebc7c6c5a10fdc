"""Everything before the model: rows read, checked and split; preprocessing and outputs fitted; rows encoded.

What only the rows can tell is refused here, before the first step, with the field, the row and the column.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from gradsight.v1 import state_pb2
from gradsight_insight.categories import Categories
from gradsight_models import (
    LoadedModel,
    ModelSource,
    Outputs,
    Preprocessing,
    ResultError,
    TensorPreprocessing,
    load_result,
)
from gradsight_worker.training.answers import HeldOut
from gradsight_worker.training.baseline import require_comparable
from gradsight_worker.training.data.batches import TrainingBatches, derive_seed
from gradsight_worker.training.data.encoding import EncodedRows, encode_rows
from gradsight_worker.training.data.reading import read_rows
from gradsight_worker.training.data.rows import Roles, Rows
from gradsight_worker.training.data.splits import Splits, split_rows
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.origins import image_size_of
from gradsight_worker.training.plan import DataFile, TrainingPlan, micro_batch_size
from gradsight_worker.training.targets import fit_outputs, require_known, target_kind_of

_BASELINE = "evaluation.baseline_job_id"
_START = "start.weights_job_id"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A job's rows, ready to train on, and what gives them their meaning."""

    device: torch.device
    source: ModelSource
    splits: Splits
    preprocessing: Preprocessing
    outputs: Outputs
    train: EncodedRows
    batches: TrainingBatches
    validation: HeldOut
    test: HeldOut
    baseline: LoadedModel | None
    start: LoadedModel | None
    """The job whose weights this one begins with."""


def prepare(plan: TrainingPlan, source: ModelSource) -> Prepared:
    """Read, check, split and encode the rows. Raises TrainingFailed with the field or the row at fault."""
    device = torch.device(plan.device)
    splits = _read_splits(plan, source)
    start = _load_start(plan.start_weights, source, splits) if plan.start_weights else None
    preprocessing = start.preprocessing if start else _fit(plan, source, splits.train)
    outputs = start.outputs if start else fit_outputs(plan.spec, splits, source, preprocessing)
    if start:
        require_known(outputs, splits, _START)
    baseline = _load(plan.baseline, "baseline", _BASELINE) if plan.baseline else None
    if baseline:
        require_comparable(baseline, splits.test, outputs, preprocessing)
    encode = partial(
        encode_rows,
        preprocessing=preprocessing,
        outputs=outputs,
        device=device,
        scratch=plan.directory / "encoded",
        memory_bytes=plan.data_memory_bytes,
    )
    train = encode(splits.train)
    spec = plan.spec
    held_out = partial(
        _held_out,
        encode=encode,
        impacts=dict(spec.evaluation.category_impacts),
        micro_batch=micro_batch_size(spec),
    )
    return Prepared(
        device=device,
        source=source,
        splits=splits,
        preprocessing=preprocessing,
        outputs=outputs,
        train=train,
        batches=TrainingBatches(
            train, batch_size=spec.data.batch_size, seed=derive_seed(spec.seed, "batches")
        ),
        validation=held_out(state_pb2.SPLIT_VALIDATION, splits.validation),
        test=held_out(state_pb2.SPLIT_TEST, splits.test),
        baseline=baseline,
        start=start,
    )


def _held_out(
    split: state_pb2.Split.ValueType,
    rows: Rows,
    *,
    encode: Callable[[Rows], EncodedRows],
    impacts: Mapping[str, float],
    micro_batch: int,
) -> HeldOut:
    return HeldOut(
        split=split,
        rows=rows,
        encoded=encode(rows),
        categories=None if rows.categories is None else Categories.of(rows.categories),
        impacts=impacts,
        micro_batch=micro_batch,
    )


def _read_splits(plan: TrainingPlan, source: ModelSource) -> Splits:
    data = plan.spec.data
    roles = Roles(
        inputs=tuple(data.input_columns),
        reading=source.reads,
        input_names=source.input_names,
        target=data.target_column or None,
        image_size=image_size_of(source),
        target_kind=target_kind_of(plan.spec.objective),
        category=data.category_column or None,
        id=data.id_column or None,
    )
    read = partial(read_rows, scratch=plan.directory / "rows", memory_bytes=plan.data_memory_bytes)
    train = read(plan.train, roles, field="data.train")
    # A held-out file must have the columns that were found in train, not its own idea of them.
    roles = replace(roles, inputs=tuple(column.name for column in train.columns), columns=train.columns)
    held_out: dict[str, DataFile | None] = {"validation": plan.validation, "test": plan.test}
    validation, test = (
        read(file, roles, field=f"data.{name}") if file else None for name, file in held_out.items()
    )
    return split_rows(train, validation, test, data.split)


def _fit(plan: TrainingPlan, source: ModelSource, train: Rows) -> Preprocessing:
    try:
        fitted = source.fit(train.columns, train.chunks)
        if target_kind_of(plan.spec.objective) is None and isinstance(fitted, TensorPreprocessing):
            return fitted.foreseeing()
        return fitted
    except ValueError as error:
        raise TrainingFailed.by_data(
            f"the model cannot read these columns: {error}", field="data.input_columns"
        ) from error


def _load_start(directory: Path, source: ModelSource, splits: Splits) -> LoadedModel:
    start = _load(directory, "job to start from", _START)
    theirs, ours = json.dumps(start.source.to_json()), json.dumps(source.to_json())
    if theirs != ours or start.source.files() != source.files():
        raise TrainingFailed.by_spec(
            f"the job to start from has the model {theirs}, this one {ours}; both must have the same",
            field=_START,
        )
    here = {column.name: column.kind for column in splits.train.columns}
    for column in start.columns:
        if here.get(column.name) != column.kind:
            raise TrainingFailed.by_spec(
                f"the job to start from reads column {json.dumps(column.name)} as {column.kind}, this one as "
                f"{here.get(column.name, 'nothing')}; both must read the same columns",
                field=_START,
            )
    return start


def _load(directory: Path, who: str, field: str) -> LoadedModel:
    try:
        return load_result(directory)
    except ResultError as error:
        raise TrainingFailed.by_missing_file(
            f"the result of the {who} cannot be read: {error}", field=field
        ) from error
