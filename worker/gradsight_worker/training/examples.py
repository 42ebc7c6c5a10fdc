"""`examples.parquet`: one line per held-out row, so that every figure can be taken apart."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from gradsight.v1 import state_pb2
from gradsight_worker.training.evaluation import Answers, HeldOut

_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("split", pa.string()),
        ("category", pa.string()),
        ("target", pa.string()),
        ("predicted", pa.string()),
        ("loss", pa.float32()),
        ("correct", pa.bool_()),
        ("baseline_correct", pa.bool_()),
    ]
)


def write_examples(path: Path, sides: Sequence[tuple[HeldOut, Answers, Answers | None]]) -> None:
    """Write the rows of each side with what the model, and perhaps the baseline, made of them.

    `category` and `baseline_correct` are null where there is none.
    """
    tables = [_table(held_out, answers, baseline) for held_out, answers, baseline in sides]
    path.parent.mkdir(parents=True, exist_ok=True)
    pa.parquet.write_table(pa.concat_tables(tables), path)


def _table(held_out: HeldOut, answers: Answers, baseline: Answers | None) -> pa.Table:
    rows = held_out.rows
    nothing = np.full(len(rows), None, dtype=object)
    columns = {
        "row_id": rows.ids,
        "split": np.full(
            len(rows), state_pb2.Split.Name(held_out.split).removeprefix("SPLIT_").lower(), dtype=object
        ),
        "category": nothing if rows.categories is None else rows.categories,
        "target": rows.targets,
        "predicted": answers.predicted,
        "loss": answers.losses,
        "correct": answers.correct,
        "baseline_correct": nothing if baseline is None else baseline.correct,
    }
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in _SCHEMA}, _SCHEMA)
