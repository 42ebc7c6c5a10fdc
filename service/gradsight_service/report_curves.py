"""A job's curves for its report, collected from the log: what a resumed attempt took back is dropped."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gradsight.v1 import event_pb2, state_pb2
from gradsight_insight.history import last_valid_steps
from gradsight_insight.report.data import Curve, Efficacy, LayerProbes, Mitigation
from gradsight_service.report_words import evidence_of, word_of

_STEP_CURVES = {"train_loss": "loss", "gradient_norm": "gradient_norm", "learning_rate": "learning_rate"}
_FIGURES = {
    "perplexity": "perplexity",
    "error_ratio": "error",
    "root_mean_square_error": "root mean square error",
}
"""What stands for held-out error, by field: the first that an evaluation has."""


class _Chunk(NamedTuple):
    """Points of one attempt, steps rising; values by row."""

    attempt: int
    steps: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


class ReportCurves:
    """Curves, probes, efficacies and repairs in the making; events are added in the log's order."""

    def __init__(self) -> None:
        self._resumed_at_step: dict[int, int] = {}
        self._layers = 0
        self._chunks: dict[str, list[_Chunk]] = {}
        self._efficacies: list[tuple[int, Efficacy]] = []
        self._mitigations: dict[str, tuple[int, Mitigation]] = {}
        self.figure_name = "error"
        self.prepared: event_pb2.DataPrepared | None = None
        self.stopped = ""

    def add(self, event: event_pb2.JobEvent) -> None:
        """Take in one event."""
        match event.WhichOneof("kind"):
            case "attempt_started":
                self._resumed_at_step[event.attempt] = event.attempt_started.resumed_at_step
                self.stopped = ""
            case "attempt_rewound":
                self._resumed_at_step[event.attempt] = event.attempt_rewound.resumed_at_step
            case "data_prepared":
                self.prepared = event.data_prepared
            case "model_built":
                self._layers = len(event.model_built.layers)
            case "steps_recorded":
                self._add_steps(event.attempt, event.steps_recorded)
            case "evaluation_completed":
                self._add_evaluation(event.attempt, event.evaluation_completed)
            case "training_stopped":
                self.stopped = event.training_stopped.message
            case "mitigation_applied" | "mitigation_kept" | "mitigation_reverted":
                self._add_mitigation(event)

    def curve(self, name: str) -> Curve:
        """A curve by its name in ReportData, `train_loss` say."""
        steps, values = self._valid(name, 1)
        return Curve(steps=steps, values=values[:, 0])

    def probes(self) -> LayerProbes:
        """What probes saw of the layers."""
        steps, rms = self._valid("gradient_rms", self._layers)
        _, ratios = self._valid("update_ratio", self._layers)
        return LayerProbes(steps=steps, gradient_rms=rms, update_ratio=ratios)

    def efficacies(self) -> tuple[Efficacy, ...]:
        """The judgements of windows that still hold."""
        last = last_valid_steps(self._resumed_at_step)
        return tuple(
            efficacy
            for attempt, efficacy in self._efficacies
            if efficacy.last_step <= last.get(attempt, math.inf)
        )

    def mitigations(self) -> tuple[Mitigation, ...]:
        """The repairs that still hold or were taken back by themselves."""
        last = last_valid_steps(self._resumed_at_step)
        found = [
            repair
            for attempt, repair in self._mitigations.values()
            if repair.step <= last.get(attempt, math.inf)
        ]
        return tuple(sorted(found, key=lambda repair: repair.step))

    def _add_steps(self, attempt: int, recorded: event_pb2.StepsRecorded) -> None:
        for name, field in _STEP_CURVES.items():
            values = getattr(recorded, field)
            self._put(name, attempt, range(recorded.first_step, recorded.first_step + len(values)), values)
        for probe in recorded.probes:
            if probe.HasField("gain_ratio"):
                self._put("gain_ratio", attempt, [probe.step], [probe.gain_ratio])
            if self._layers:
                self._put("gradient_rms", attempt, [probe.step], [self._row(probe.layer_gradient_rms)])
                self._put("update_ratio", attempt, [probe.step], [self._row(probe.layer_update_ratio)])

    def _row(self, values: Sequence[float]) -> Sequence[float]:
        return values if len(values) == self._layers else [math.nan] * self._layers

    def _add_evaluation(self, attempt: int, evaluation: event_pb2.EvaluationCompleted) -> None:
        if evaluation.split != state_pb2.SPLIT_VALIDATION or evaluation.baseline_job_id:
            return
        self._put("validation_loss", attempt, [evaluation.step], [evaluation.loss])
        for field, name in _FIGURES.items():
            if evaluation.HasField(field):  # type: ignore[arg-type]
                self.figure_name = name
                self._put("validation_figure", attempt, [evaluation.step], [getattr(evaluation, field)])
                break
        if evaluation.HasField("update_efficacy"):
            told = evaluation.update_efficacy
            efficacy = Efficacy(
                first_step=told.first_step,
                last_step=told.last_step,
                verdict=word_of(told, "verdict"),
                gain_ratio=told.gain_ratio if told.HasField("gain_ratio") else None,
                held_out_z=told.held_out_z if told.HasField("held_out_z") else None,
            )
            self._efficacies.append((attempt, efficacy))

    def _add_mitigation(self, event: event_pb2.JobEvent) -> None:
        if event.HasField("mitigation_applied"):
            applied = event.mitigation_applied
            self._mitigations[applied.mitigation_id] = (
                event.attempt,
                Mitigation(
                    mitigation_id=applied.mitigation_id,
                    finding_id=applied.finding_id,
                    action=word_of(applied, "action"),
                    description=applied.description,
                    step=applied.step,
                    outcome="on trial" if applied.trial else "applied",
                ),
            )
            return
        kept = event.HasField("mitigation_kept")
        judged: Any = event.mitigation_kept if kept else event.mitigation_reverted
        if known := self._mitigations.get(judged.mitigation_id):
            changed = vars(known[1]) | {
                "outcome": "kept" if kept else "reverted",
                "outcome_step": judged.step,
                "message": "" if kept else judged.message,
                "evidence": evidence_of(judged.evidence),
            }
            self._mitigations[judged.mitigation_id] = (known[0], Mitigation(**changed))

    def _put(self, name: str, attempt: int, steps: Sequence[int], values: Sequence[Any]) -> None:
        if len(steps):
            rows = np.asarray(values, dtype=np.float64).reshape(len(steps), -1)
            self._chunks.setdefault(name, []).append(_Chunk(attempt, np.asarray(steps, dtype=np.int64), rows))

    def _valid(self, name: str, columns: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Steps and values, shape (points, columns), of what still holds."""
        last = last_valid_steps(self._resumed_at_step)
        steps, values = [np.zeros(0, dtype=np.int64)], [np.zeros((0, columns))]
        for chunk in self._chunks.get(name, ()):
            valid = int(np.searchsorted(chunk.steps, last.get(chunk.attempt, math.inf), side="right"))
            if chunk.values.shape[1] == columns:
                steps.append(chunk.steps[:valid])
                values.append(chunk.values[:valid])
        return np.concatenate(steps), np.concatenate(values)
