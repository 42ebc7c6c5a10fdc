"""What the trainer says of rows and model before the first step: two events, and lines for people."""

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from gradsight.v1 import event_pb2, state_pb2
from gradsight_insight.categories import Categories
from gradsight_insight.priors import Prior
from gradsight_insight.signals import InputFacts
from gradsight_models import Layer
from gradsight_worker.training.data.remarks import column_remarks, imbalance_ratio
from gradsight_worker.training.data.rows import TextColumn
from gradsight_worker.training.input_facts import input_figures
from gradsight_worker.training.preparation import Prepared

_NAMES_SHOWN = 5


def data_prepared(prepared: Prepared, prior: Prior, inputs: Sequence[InputFacts]) -> event_pb2.DataPrepared:
    """What there is to say about the rows."""
    splits = prepared.splits
    sides = (
        (state_pb2.SPLIT_TRAIN, splits.train),
        (state_pb2.SPLIT_VALIDATION, splits.validation),
        (state_pb2.SPLIT_TEST, splits.test),
    )
    return event_pb2.DataPrepared(
        splits=[event_pb2.SplitRows(split=split, rows=len(rows)) for split, rows in sides],
        classes=prepared.outputs.names,
        categories=_category_rows({split: rows.categories for split, rows in sides}),
        duplicate_rows=splits.duplicate_rows,
        leaked_rows=splits.leaked_rows,
        split_digest=splits.digest,
        input_columns=splits.train.input_names,
        prior_error_ratio=prior.error_ratio,
        prior_loss=prior.loss,
        column_remarks=column_remarks(splits, prepared.source.reads),
        inputs=map(input_figures, inputs),
    )


def model_built(prepared: Prepared, layers: Sequence[Layer], total_steps: int) -> event_pb2.ModelBuilt:
    """What there is to say about the model."""
    return event_pb2.ModelBuilt(
        architecture=prepared.source.name,
        parameters=sum(layer.parameter_count for layer in layers),
        layers=[
            event_pb2.Layer(
                index=layer.index, path=layer.path, kind=layer.kind, parameters=layer.parameter_count
            )
            for layer in layers
        ],
        total_steps=total_steps,
        steps_per_epoch=prepared.batches.steps_per_epoch,
    )


def warnings(
    prepared: Prepared, counts: npt.NDArray[np.int64] | None, remarks: Sequence[event_pb2.ColumnRemark]
) -> Iterator[str]:
    """What a person should know of the rows; `counts` are train's rows by class, where there are classes."""
    splits = prepared.splits
    if splits.leaked_rows:
        yield (
            f"{splits.leaked_rows} held-out rows also occur in train: the error on them says little; remove them from "
            f"one side"
        )
    for remark in remarks:
        yield from _of_column(remark, len(splits.train) + len(splits.validation) + len(splits.test))
    if counts is not None:
        yield from _of_classes(np.array(prepared.outputs.names, dtype=object), counts)


def _of_column(remark: event_pb2.ColumnRemark, rows: int) -> Iterator[str]:
    name = json.dumps(remark.column)
    if remark.constant:
        yield f"column {name} has the same value in every training row: it says nothing"
    if remark.missing_rows:
        yield f"column {name} has no value in {remark.missing_rows} of {rows} rows"
    if remark.unseen_rows:
        yield f"column {name} has words in {remark.unseen_rows} held-out rows that train does not have"


def _of_classes(names: npt.NDArray[np.object_], counts: npt.NDArray[np.int64]) -> Iterator[str]:
    if unseen := names[counts == 0].tolist():
        shown = ", ".join(unseen[:_NAMES_SHOWN]) + (" …" if len(unseen) > _NAMES_SHOWN else "")
        yield f"{len(unseen)} classes have no training rows and cannot be learnt: {shown}"
    if imbalance_ratio(counts) is not None:
        fewest = counts[counts > 0].min()
        yield (
            f"class {names[counts.argmax()]} has {counts.max()} training rows and class {names[counts == fewest][0]} "
            f"{fewest}: the rare ones may be passed over; more of their rows help, or "
            f"objective.cross_entropy.class_weighting balanced"
        )


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
