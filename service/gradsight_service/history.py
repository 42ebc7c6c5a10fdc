"""Curves of a job, read from its log: without what a resumed attempt took back, and thinned out."""

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from gradsight.v1 import event_pb2, state_pb2
from gradsight.v1 import training_service_pb2 as pb
from gradsight_insight.history import last_valid_steps, thinned_places
from gradsight_service import requests
from gradsight_service.calls import Context
from gradsight_service.errors import invalid_request
from gradsight_service.event_pages import whole_log
from gradsight_service.limits import shown
from gradsight_service.store_access import StoreAccess
from gradsight_store.artifacts import Artifacts
from gradsight_store.operations import JobRef

_STEP_METRICS = ("loss", "gradient_norm", "learning_rate", "clip_factor")
_LAYER_METRICS = ("layer_gradient_norm", "layer_gradient_rms", "layer_weight_norm", "layer_update_ratio")
_EVALUATION_METRICS = {
    "validation_loss": "loss",
    "validation_error_ratio": "error_ratio",
    "validation_macro_f1": "macro_f1",
    "validation_root_mean_square_error": "root_mean_square_error",
    "validation_mean_absolute_error": "mean_absolute_error",
    "validation_perplexity": "perplexity",
}
"""Fields of an evaluation; absent where they do not fit the kind of answers."""
METRICS = (*_STEP_METRICS, "gain_ratio", *_LAYER_METRICS, *_EVALUATION_METRICS, "category_error_ratio")
DEFAULT_METRICS = ("loss", "gradient_norm", "validation_loss", "validation_error_ratio")

_MOST_POINTS = 200_000  # in one answer: about 3 MB, below what clients accept in one message
_LAST_STEP = 2**62


class _Curve(NamedTuple):
    metric: str
    layer: str = ""
    category: str = ""


class _Chunk(NamedTuple):
    """Points of one attempt, steps rising."""

    attempt: int
    steps: Sequence[int]
    values: Sequence[float]


async def read_history(
    store: StoreAccess, artifacts: Artifacts, ref: JobRef, request: pb.GetJobHistoryRequest, context: Context
) -> list[pb.Series]:
    """The curves that a request asks for.

    Raises:
        CallError: The request names a metric that is none, or a range that is none.
    """
    wanted = _Wanted(request)
    curves = _Curves(wanted)
    async for event in whole_log(store, artifacts, ref, context):
        curves.add(event)
    return await asyncio.to_thread(curves.series)  # a long run has millions of points


class _Wanted:
    """A checked request."""

    def __init__(self, request: pb.GetJobHistoryRequest) -> None:
        for index, metric in enumerate(request.metrics):
            if metric not in METRICS:
                raise invalid_request(
                    f"metrics[{index}]", f"got {shown(metric)}, allowed {', '.join(METRICS)}"
                )
        self.metrics = frozenset(request.metrics or DEFAULT_METRICS)
        self.layers = frozenset(request.layers)
        self.first_step = requests.whole_number(
            "first_step", request.first_step, low=1, high=_LAST_STEP, default=1
        )
        self.last_step = requests.whole_number(
            "last_step", request.last_step, low=self.first_step, high=_LAST_STEP, default=_LAST_STEP
        )
        self.max_points = requests.whole_number(
            "max_points", request.max_points, low=2, high=10_000, default=1000
        )


class _Curves:
    """Curves in the making; events are added in the log's order."""

    def __init__(self, wanted: _Wanted) -> None:
        self._wanted = wanted
        self._layers: list[str] = []
        self._resumed_at_step: dict[int, int] = {}
        self._chunks: dict[_Curve, list[_Chunk]] = {}

    def add(self, event: event_pb2.JobEvent) -> None:
        """Take in one event."""
        match event.WhichOneof("kind"):
            case "attempt_started":
                self._resumed_at_step[event.attempt] = event.attempt_started.resumed_at_step
            case "attempt_rewound":
                self._resumed_at_step[event.attempt] = event.attempt_rewound.resumed_at_step
            case "model_built":
                self._layers = [layer.path for layer in event.model_built.layers]
            case "steps_recorded":
                self._add_steps(event.attempt, event.steps_recorded)
            case "evaluation_completed":
                self._add_evaluation(event.attempt, event.evaluation_completed)

    def series(self) -> list[pb.Series]:
        """The curves, thinned out, in the order of METRICS."""
        most = min(self._wanted.max_points, max(2, _MOST_POINTS // max(1, len(self._chunks))))
        last_steps = last_valid_steps(self._resumed_at_step)
        found = []
        for curve in sorted(self._chunks, key=lambda curve: METRICS.index(curve.metric)):
            steps: list[int] = []
            values: list[float] = []
            for chunk in self._chunks[curve]:
                valid = bisect_right(chunk.steps, last_steps[chunk.attempt])
                steps += chunk.steps[:valid]
                values += chunk.values[:valid]
            places = thinned_places(values, most)
            found.append(
                pb.Series(
                    metric=curve.metric,
                    layer=curve.layer,
                    category=curve.category,
                    steps=[steps[place] for place in places],
                    values=[values[place] for place in places],
                )
            )
        return found

    def _add_steps(self, attempt: int, recorded: event_pb2.StepsRecorded) -> None:
        for metric in _STEP_METRICS:
            if metric in self._wanted.metrics and (values := getattr(recorded, metric)):
                steps = range(recorded.first_step, recorded.first_step + len(values))
                self._put(_Curve(metric), _Chunk(attempt, steps, values))
        for probe in recorded.probes:
            self._add_probe(attempt, probe)

    def _add_probe(self, attempt: int, probe: event_pb2.Probe) -> None:
        if "gain_ratio" in self._wanted.metrics and probe.HasField("gain_ratio"):
            self._put(_Curve("gain_ratio"), _Chunk(attempt, [probe.step], [probe.gain_ratio]))
        for metric in _LAYER_METRICS:
            if metric in self._wanted.metrics:
                for layer, value in zip(self._layers, getattr(probe, metric), strict=False):
                    if not self._wanted.layers or layer in self._wanted.layers:
                        self._put(_Curve(metric, layer=layer), _Chunk(attempt, [probe.step], [value]))

    def _add_evaluation(self, attempt: int, evaluation: event_pb2.EvaluationCompleted) -> None:
        if evaluation.split != state_pb2.SPLIT_VALIDATION or evaluation.baseline_job_id:
            return
        step = [evaluation.step]
        for metric, field in _EVALUATION_METRICS.items():
            if metric in self._wanted.metrics and _is_there(evaluation, field):
                self._put(_Curve(metric), _Chunk(attempt, step, [getattr(evaluation, field)]))
        if "category_error_ratio" in self._wanted.metrics:
            for category in evaluation.categories:
                if category.HasField("error_ratio"):
                    curve = _Curve("category_error_ratio", category=category.category)
                    self._put(curve, _Chunk(attempt, step, [category.error_ratio]))

    def _put(self, curve: _Curve, chunk: _Chunk) -> None:
        first = bisect_left(chunk.steps, self._wanted.first_step)
        end = bisect_right(chunk.steps, self._wanted.last_step)
        if first < end:
            inside = _Chunk(chunk.attempt, chunk.steps[first:end], list(chunk.values[first:end]))
            self._chunks.setdefault(curve, []).append(inside)


def _is_there(evaluation: event_pb2.EvaluationCompleted, field: str) -> bool:
    return not evaluation.DESCRIPTOR.fields_by_name[field].has_presence or evaluation.HasField(field)  # type: ignore[arg-type]
