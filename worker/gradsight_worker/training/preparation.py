"""Everything before the first step: rows read, checked, split and encoded; the model built from the seed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gradsight.v1 import event_pb2, spec_pb2, state_pb2
from gradsight_insight.categories import Categories
from gradsight_insight.evaluation import Prior, prior_baseline
from gradsight_models import (
    ARCHITECTURES,
    LabelNames,
    Layer,
    LoadedModel,
    Preprocessing,
    ResultError,
    build_model,
    fit_preprocessing,
    layers_of,
    load_result,
)
from gradsight_worker.training.data.batches import TrainingBatches, derive_seed
from gradsight_worker.training.data.reading import read_rows
from gradsight_worker.training.data.rows import Roles, Rows, TextColumn
from gradsight_worker.training.data.splits import Splits, split_rows
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.evaluation import HeldOut
from gradsight_worker.training.plan import TrainingPlan
from gradsight_worker.training.randomness import seed_everything


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A job's rows and its model, ready to train."""

    device: torch.device
    architecture: str
    options: Mapping[str, Any]
    """Of the architecture, defaults filled in."""
    splits: Splits
    labels: LabelNames
    prior: Prior
    """What answering without a model costs on validation."""
    preprocessing: Preprocessing
    batches: TrainingBatches
    validation: HeldOut
    test: HeldOut
    baseline: LoadedModel | None

    @property
    def classes(self) -> npt.NDArray[np.object_]:
        """Names of the classes, by their numbers."""
        return np.array(self.labels.names, dtype=object)


def prepare(plan: TrainingPlan) -> Prepared:
    """Read, check, split and encode the rows. Raises TrainingFailed with the field or the row at fault."""
    device = torch.device(plan.device)
    architecture, options = architecture_of(plan.spec)
    splits = _read_splits(plan, reads_text=ARCHITECTURES[architecture].reads_text)
    baseline = _load_baseline(plan.baseline, splits.test) if plan.baseline else None
    labels = LabelNames.fit(
        np.concatenate([s.targets for s in (splits.train, splits.validation, splits.test)])
    )
    if len(labels.names) < 2:
        raise TrainingFailed.by_data(
            f"column {json.dumps(plan.spec.data.target_column)} has the one class {json.dumps(labels.names[0])}; "
            f"at least 2 are needed",
            field="data.target_column",
        )
    try:
        preprocessing = fit_preprocessing(architecture, splits.train.columns, options)
        train = _to_device(preprocessing.encode(splits.train.columns), device)
        impacts = dict(plan.spec.evaluation.category_impacts)
        held_out = {
            split: HeldOut(
                split=split,
                rows=rows,
                inputs=_to_device(preprocessing.encode(rows.columns), device),
                targets=labels.encode(rows.targets.tolist()).to(device),
                categories=None if rows.categories is None else Categories.of(rows.categories),
                impacts=impacts,
            )
            for split, rows in (
                (state_pb2.SPLIT_VALIDATION, splits.validation),
                (state_pb2.SPLIT_TEST, splits.test),
            )
        }
    except ValueError as error:
        raise TrainingFailed.by_data(
            f"the rows cannot be encoded: {error}", field="data.input_columns"
        ) from error
    train_targets = labels.encode(splits.train.targets.tolist())
    batches = TrainingBatches(
        train,
        train_targets.to(device),
        batch_size=plan.spec.data.batch_size,
        seed=derive_seed(plan.spec.seed, "batches"),
    )
    return Prepared(
        device=device,
        architecture=architecture,
        options=options,
        splits=splits,
        labels=labels,
        prior=prior_baseline(
            train_targets.numpy(),
            held_out[state_pb2.SPLIT_VALIDATION].targets.cpu().numpy(),
            len(labels.names),
        ),
        preprocessing=preprocessing,
        batches=batches,
        validation=held_out[state_pb2.SPLIT_VALIDATION],
        test=held_out[state_pb2.SPLIT_TEST],
        baseline=baseline,
    )


def build(prepared: Prepared, plan: TrainingPlan) -> tuple[nn.Module, list[Layer]]:
    """The model, initialised from the seed alone, and its layers. Generators go on from there: dropout's."""
    seed_everything(derive_seed(plan.spec.seed, "model"), prepared.device)
    # Initialised on the processor, so that the device does not change the numbers.
    model = build_model(
        prepared.architecture, prepared.options, prepared.preprocessing, len(prepared.labels.names)
    )
    smallest = min(len(prepared.splits.train), plan.spec.data.batch_size)
    if smallest < 2 and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        raise TrainingFailed.by_spec(
            f"batch normalization needs at least 2 rows in a step, got {smallest}; raise the batch size or "
            f"choose another normalization",
            field="data.batch_size",
        )
    return model.to(prepared.device).train(), layers_of(model)


def architecture_of(spec: spec_pb2.JobSpec) -> tuple[str, Mapping[str, Any]]:
    """Name and options of the architecture, defaults filled in. Raises TrainingFailed."""
    name = spec.model.builtin.WhichOneof("architecture") or ""
    if name not in ARCHITECTURES:
        raise TrainingFailed.by_spec(
            f"got {name or 'no architecture'}, allowed: {', '.join(ARCHITECTURES)}", field="model.builtin"
        )
    message = getattr(spec.model.builtin, name)
    options: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.enum_type is not None:
            prefix = field.enum_type.values_by_number[0].name.removesuffix("UNSPECIFIED")
            options[field.name] = field.enum_type.values_by_number[value].name.removeprefix(prefix).lower()
        else:
            options[field.name] = list(value) if field.is_repeated else value
    try:
        return name, ARCHITECTURES[name].configuration.from_json(options).to_json()
    except ValueError as error:
        raise TrainingFailed.by_spec(str(error), field=f"model.builtin.{name}") from error


def prepared_event(prepared: Prepared) -> event_pb2.DataPrepared:
    """What there is to say about the rows."""
    splits = prepared.splits
    sides = (
        (state_pb2.SPLIT_TRAIN, splits.train),
        (state_pb2.SPLIT_VALIDATION, splits.validation),
        (state_pb2.SPLIT_TEST, splits.test),
    )
    return event_pb2.DataPrepared(
        splits=[event_pb2.SplitRows(split=split, rows=len(rows)) for split, rows in sides],
        classes=prepared.labels.names,
        categories=_category_rows({split: rows.categories for split, rows in sides}),
        duplicate_rows=splits.duplicate_rows,
        leaked_rows=splits.leaked_rows,
        split_digest=splits.digest,
        input_columns=splits.train.input_names,
        prior_error_ratio=prepared.prior.error_ratio,
        prior_loss=prepared.prior.loss,
    )


def classes_without_training_rows(prepared: Prepared) -> list[str]:
    """Names of classes that occur in held-out rows only."""
    return sorted(set(prepared.labels.names) - set(prepared.splits.train.targets.tolist()))


def _read_splits(plan: TrainingPlan, *, reads_text: bool) -> Splits:
    data = plan.spec.data
    roles = Roles(
        inputs=tuple(data.input_columns),
        numeric=not reads_text,
        target=data.target_column,
        category=data.category_column or None,
        id=data.id_column or None,
    )
    if reads_text and len(roles.inputs) != 1:
        raise TrainingFailed.by_spec(
            f"got {len(roles.inputs)} input columns, a text model reads exactly one",
            field="data.input_columns",
        )
    train = read_rows(plan.train, roles, field="data.train")
    # A held-out file must have the columns that were found in train, not its own idea of numeric ones.
    roles = replace(roles, inputs=train.input_names)
    validation = read_rows(plan.validation, roles, field="data.validation") if plan.validation else None
    test = read_rows(plan.test, roles, field="data.test") if plan.test else None
    return split_rows(train, validation, test, data.split)


def _load_baseline(directory: Path, test: Rows) -> LoadedModel:
    try:
        baseline = load_result(directory)
    except ResultError as error:
        raise TrainingFailed.by_missing_file(
            f"the baseline's result cannot be read: {error}", field="evaluation.baseline_job_id"
        ) from error
    if missing := [name for name in baseline.input_columns if name not in test.input_names]:
        raise TrainingFailed.by_spec(
            f"the baseline reads column {json.dumps(missing[0])}, which is not an input of this job; both must read "
            f"the same rows",
            field="evaluation.baseline_job_id",
        )
    return baseline


def _to_device(columns: tuple[Tensor, ...], device: torch.device) -> tuple[Tensor, ...]:
    return tuple(column.to(device) for column in columns)


def _category_rows(
    columns: Mapping[state_pb2.Split.ValueType, TextColumn | None],
) -> list[event_pb2.CategoryRows]:
    """Rows per category and split, most frequent first, at most 100 and the rest as `other`."""
    present = [column for column in columns.values() if column is not None]
    if not present:
        return []
    folded = Categories.of(np.concatenate(present)).folded()
    by_split = np.split(folded.codes, np.cumsum([len(column) for column in present])[:-1])
    counts = [np.bincount(codes, minlength=len(folded.names)) for codes in by_split]
    return [
        event_pb2.CategoryRows(
            category=name,
            splits=[
                event_pb2.SplitRows(split=split, rows=int(count[code]))
                for split, count in zip(columns, counts, strict=True)
            ],
        )
        for code, name in enumerate(folded.names)
    ]
