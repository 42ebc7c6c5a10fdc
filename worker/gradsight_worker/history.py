"""A job's curves as one Parquet file, read from its log once it has its result.

One row a point, in the log's order, without those that a resumed attempt took back:

| column | |
|---|---|
| `metric` | the names of STEP_METRICS, LAYER_METRICS and EVALUATION_METRICS below, and `gain_ratio` |
| `split` | `train`, `validation` or `test` |
| `layer` | path of the layer; empty for what is not of one layer |
| `category` | category; empty for what is of all |
| `step` | optimizer steps done, int64 |
| `value` | float64, may be non-finite |
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from gradsight.v1 import event_pb2, state_pb2
from gradsight_insight.history import last_valid_steps
from gradsight_store.artifacts import Artifacts
from gradsight_store.events import read_events
from gradsight_store.jobs import get_job
from gradsight_store.operations import JobRef
from gradsight_store.store import Store

FILENAME = "history.parquet"
STEP_METRICS = ("loss", "gradient_norm", "learning_rate", "clip_factor")
LAYER_METRICS = ("layer_gradient_norm", "layer_gradient_rms", "layer_weight_norm", "layer_update_ratio")
EVALUATION_METRICS = (
    "loss",
    "error_ratio",
    "weighted_error_ratio",
    "macro_f1",
    "root_mean_square_error",
    "mean_absolute_error",
    "perplexity",
)
CATEGORY_METRICS = ("loss", "error_ratio")

_EVENTS_AT_ONCE = 500
_ROWS_IN_GROUP = 100_000
_WORD = pa.dictionary(pa.int32(), pa.string())
_SCHEMA = pa.schema(
    [
        *((name, _WORD) for name in ("metric", "split", "layer", "category")),
        ("step", pa.int64()),
        ("value", pa.float64()),
    ]
)


class _Points(NamedTuple):
    """Points of one curve, steps rising."""

    metric: str
    split: str
    layer: str
    category: str
    steps: Sequence[int]
    values: Sequence[float]


def write_history(store: Store, ref: JobRef, artifacts: Artifacts, path: Path) -> None:
    """Write the curves of a job whose last step is in its log. Raises StoreError, OSError."""
    job = store.run(get_job(ref))
    curves = _Curves({attempt.number: attempt.resumed_at_step for attempt in job.attempts})
    waiting: list[_Points] = []
    rows, after, end = 0, 0, False
    with parquet.ParquetWriter(path, _SCHEMA) as file:
        while not end:
            page = store.run(read_events(ref, after, _EVENTS_AT_ONCE, artifacts))
            after, end = page.next_sequence, page.end
            for event in page.events:
                points = list(curves.points(event))
                waiting += points
                rows += sum(len(some.steps) for some in points)
            if rows >= _ROWS_IN_GROUP or end:
                file.write_table(_table(waiting))
                waiting, rows = [], 0


class _Curves:
    """Takes the points that still hold from events, in the log's order."""

    def __init__(self, resumed_at_step: Mapping[int, int]) -> None:
        self._last_steps = last_valid_steps(resumed_at_step)
        self._newest = max(resumed_at_step, default=0)
        self._layers: list[str] = []

    def points(self, event: event_pb2.JobEvent) -> Iterator[_Points]:
        """The points of one event."""
        last = self._last_steps.get(event.attempt, math.inf)
        match event.WhichOneof("kind"):
            case "model_built":
                self._layers = [layer.path for layer in event.model_built.layers]
            case "steps_recorded":
                yield from self._steps(event.steps_recorded, last)
            case "evaluation_completed":
                evaluation = event.evaluation_completed
                # The test rows are read at the end: what an earlier attempt read of them was read again.
                read_again = evaluation.split == state_pb2.SPLIT_TEST and event.attempt != self._newest
                if evaluation.step <= last and not evaluation.baseline_job_id and not read_again:
                    yield from _evaluation(evaluation)

    def _steps(self, recorded: event_pb2.StepsRecorded, last: float) -> Iterator[_Points]:
        for metric in STEP_METRICS:
            values = getattr(recorded, metric)
            valid = int(max(0, min(len(values), last - recorded.first_step + 1)))
            steps = range(recorded.first_step, recorded.first_step + valid)
            yield _Points(metric, "train", "", "", steps, values[:valid])
        for probe in recorded.probes:
            if probe.step <= last:
                yield from self._probe(probe)

    def _probe(self, probe: event_pb2.Probe) -> Iterator[_Points]:
        if probe.HasField("gain_ratio"):
            yield _Points("gain_ratio", "train", "", "", [probe.step], [probe.gain_ratio])
        for metric in LAYER_METRICS:
            for layer, value in zip(self._layers, getattr(probe, metric), strict=False):
                yield _Points(metric, "train", layer, "", [probe.step], [value])


def _evaluation(evaluation: event_pb2.EvaluationCompleted) -> Iterator[_Points]:
    split = state_pb2.Split.Name(evaluation.split).removeprefix("SPLIT_").lower()
    for metric in EVALUATION_METRICS:
        if _present(evaluation, metric):
            yield _Points(metric, split, "", "", [evaluation.step], [getattr(evaluation, metric)])
    for category in evaluation.categories:
        for metric in CATEGORY_METRICS:
            if _present(category, metric):
                value = getattr(category, metric)
                yield _Points(metric, split, "", category.category, [evaluation.step], [value])


def _present(message: event_pb2.EvaluationCompleted | event_pb2.CategoryEvaluation, metric: str) -> bool:
    return metric == "loss" or message.HasField(metric)  # type: ignore[arg-type]


def _table(points: Sequence[_Points]) -> pa.Table:
    lengths = [len(some.steps) for some in points]
    columns = [
        pa.array(np.repeat(np.array([some[place] for some in points], dtype=object), lengths), _WORD)
        for place in range(4)
    ]
    steps = np.fromiter((step for some in points for step in some.steps), np.int64)
    values = np.fromiter((value for some in points for value in some.values), np.float64)
    return pa.Table.from_arrays([*columns, pa.array(steps), pa.array(values)], schema=_SCHEMA)
