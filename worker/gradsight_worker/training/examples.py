"""`examples.parquet`: one line per held-out row, so that every figure can be taken apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet

from gradsight.v1 import state_pb2
from gradsight_models.outputs import Outputs
from gradsight_worker.training.answers import Answers, HeldOut, targets_of


def write_examples(
    path: Path, sides: Sequence[tuple[HeldOut, Answers, Answers | None]], outputs: Outputs
) -> None:
    """Write the rows of each side with what the model, and perhaps the baseline, made of them.

    All have `row_id`, `split`, `category` and `loss`, which is null where no token counts. Beside them:

    | answers | columns |
    |---|---|
    | classes | `target`, `predicted`: names; `correct`, `baseline_correct` |
    | labels | `target`, `predicted`: lists of names; `correct`, `baseline_correct` |
    | numbers | `target`, `predicted`: in units, lists where there are several; `baseline_loss` |
    | tokens | `tokens`: how many count; `baseline_loss` |

    `category`, `baseline_correct` and `baseline_loss` are null where there is none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tables = [_table(held_out, answers, baseline, outputs) for held_out, answers, baseline in sides]
    pa.parquet.write_table(pa.concat_tables(tables), path)


def _table(held_out: HeldOut, answers: Answers, baseline: Answers | None, outputs: Outputs) -> pa.Table:
    rows, size = held_out.rows, len(held_out.rows)
    split = state_pb2.Split.Name(held_out.split).removeprefix("SPLIT_").lower()
    counts = np.ones(size) if answers.counted is None else answers.counted
    columns: dict[str, pa.Array] = {
        "row_id": pa.array(rows.ids, pa.string()),
        "split": pa.repeat(pa.scalar(split), size),
        "category": pa.array(
            np.full(size, None) if rows.categories is None else rows.categories, pa.string()
        ),
        **_target_and_predicted(held_out, answers, outputs),
        "loss": pa.array(answers.losses, pa.float32(), mask=counts == 0),
    }
    if outputs.kind in ("classes", "labels"):
        columns |= {"correct": _correct(answers, size), "baseline_correct": _correct(baseline, size)}
    else:
        losses = None if baseline is None else baseline.losses
        columns["baseline_loss"] = (
            pa.nulls(size, pa.float32()) if losses is None else pa.array(losses, mask=counts == 0)
        )
    return pa.table(columns)


def _target_and_predicted(held_out: HeldOut, answers: Answers, outputs: Outputs) -> Mapping[str, pa.Array]:
    if outputs.kind == "tokens":
        return {"tokens": pa.array(answers.counted, pa.int64())}
    assert answers.predicted is not None
    if outputs.kind == "numbers":
        # As the file has them: what training saw was rounded to float32.
        targets = np.asarray(held_out.rows.targets, dtype=np.float64).reshape(len(held_out.rows), -1)
        return {"target": _numbers(targets), "predicted": _numbers(answers.predicted)}
    expected = np.concatenate([targets.cpu().numpy() for targets in targets_of(held_out.encoded, outputs)])
    as_names = _class_names if outputs.kind == "classes" else _label_names
    return {
        "target": as_names(expected, outputs.names),
        "predicted": as_names(answers.predicted, outputs.names),
    }


def _class_names(numbers: npt.NDArray[Any], names: Sequence[str]) -> pa.Array:
    return pa.array(names, pa.string()).take(pa.array(numbers))


def _label_names(table: npt.NDArray[Any], names: Sequence[str]) -> pa.Array:
    rows, labels = np.nonzero(table)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(table)))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), _class_names(labels, names))


def _numbers(table: npt.NDArray[np.float64]) -> pa.Array:
    if table.shape[1] == 1:
        return pa.array(table[:, 0])
    offsets = np.arange(len(table) + 1) * table.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(table.ravel()))


def _correct(answers: Answers | None, size: int) -> pa.Array:
    if answers is None or answers.wrong is None:
        return pa.nulls(size, pa.bool_())
    return pa.array(answers.wrong == 0)
