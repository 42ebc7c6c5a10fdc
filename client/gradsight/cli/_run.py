"""A run as the live view shows it: a job and its curves so far, kept up to date by its events."""

import math
from collections import deque
from collections.abc import Sequence

from gradsight import _events as events
from gradsight._enums import JobState, Split
from gradsight._events import JobEvent
from gradsight._insight import Finding
from gradsight._job import Job
from gradsight._measurements import EvaluationCompleted, Layer, ModelBuilt, StepsRecorded
from gradsight._records import Series
from gradsight.cli._headline import METRICS as HEADLINE_METRICS
from gradsight.cli._headline import Headline
from gradsight.cli._lines import event_line

METRICS = ("loss", "gradient_norm", "layer_gradient_norm", "gain_ratio", *HEADLINE_METRICS)
_CURVE_POINTS = 600
# These stand in the picture itself and are no news below it.
_SHOWN_ELSEWHERE = (
    StepsRecorded,
    EvaluationCompleted,
    events.ArtifactReady,
    events.FindingOpened,
    events.FindingUpdated,
    events.VerdictReached,
)


class Run:
    """What is known of a run. Curves hold the newest 600 points; `sequence` is that of the newest event in it."""

    def __init__(self, job: Job, curves: Sequence[Series], findings: Sequence[Finding] = ()) -> None:
        progress, summary = job.progress, job.summary
        self.job_id, self.name = job.job_id, job.name
        self.state = job.state
        self.waiting = job.waiting.message if job.waiting else ""
        self.sequence = job.last_sequence
        self.attempt = job.attempts[-1].number if job.attempts else 0
        self.place = f"{job.attempts[-1].device} of {job.attempts[-1].worker_id}" if job.attempts else ""
        self.step = progress.step if progress else 0
        self.total_steps = progress.total_steps if progress else 0
        self.steps_per_epoch = 0
        self.epoch = progress.epoch if progress else 0.0
        self.rows_per_second = progress.samples_per_second if progress else 0.0
        self.seconds_left = progress.remaining.total_seconds() if progress and progress.remaining else None
        self.learning_rate = summary.learning_rate if summary else None
        self.nonfinite_steps = summary.nonfinite_steps if summary else 0
        self.gain_ratio = summary.gain_ratio if summary else None
        self.validation = summary.validation if summary else None
        self.kept = summary.kept if summary else None
        self.layers: tuple[Layer, ...] = summary.layers if summary else ()
        self.loss = _curve(curves, "loss")
        self.gradient_norm = _curve(curves, "gradient_norm")
        self.headline = _curve(curves, Headline.of(self.validation).metric if self.validation else "")
        self.layer_norms = {
            layer.path: _curve(curves, "layer_gradient_norm", layer.path) for layer in self.layers
        }
        self.gain_ratios = _curve(curves, "gain_ratio")
        self.efficacy = summary.update_efficacy if summary else None
        self.verdict = job.verdict
        self.findings = {finding.finding_id: finding for finding in findings if finding.open}
        self.news: deque[str] = deque(maxlen=4)
        self._pace: deque[tuple[float, int, int]] = deque(maxlen=20)

    def take(self, event: JobEvent) -> None:
        """Brings the run up to date."""
        self.sequence = event.sequence
        match event.detail:
            case StepsRecorded() as steps:
                self._steps(steps)
            case EvaluationCompleted(split=Split.VALIDATION, baseline_job_id=None) as evaluation:
                self._evaluation(evaluation)
            case events.StateChanged() as changed:
                self.state = changed.state
                self.waiting = changed.message or "" if changed.state is JobState.QUEUED else ""
            case events.AttemptStarted() as started:
                self.place = f"{started.device} of {started.worker_id}"
                self._begin(event.attempt, started.resumed_at_step)
            case events.AttemptRewound() as rewound:
                self._begin(event.attempt, rewound.resumed_at_step)
            case events.TrainingStopped() as stopped:
                self.total_steps, self.seconds_left = stopped.step, None
            case ModelBuilt() as model:
                self.layers, self.total_steps = model.layers, model.total_steps
                self.steps_per_epoch = model.steps_per_epoch
                for layer in model.layers:
                    self.layer_norms.setdefault(layer.path, deque(maxlen=_CURVE_POINTS))
            case events.FindingOpened() | events.FindingUpdated() as said:
                self.findings[said.finding.finding_id] = said.finding
            case events.FindingClosed() as closed:
                self.findings.pop(closed.finding.finding_id, None)
            case events.VerdictReached() as reached:
                self.verdict = reached.verdict
        if not isinstance(event.detail, _SHOWN_ELSEWHERE):
            self.news.append(event_line(event))

    def _steps(self, steps: StepsRecorded) -> None:
        self.step = steps.first_step + len(steps.loss) - 1
        self.loss.extend(steps.loss)
        self.gradient_norm.extend(steps.gradient_norm)
        self.learning_rate = steps.learning_rate[-1]
        self.nonfinite_steps += len(steps.nonfinite_steps)
        for probe in steps.probes:
            if probe.gain_ratio is not None:
                self.gain_ratio = probe.gain_ratio
                self.gain_ratios.append(probe.gain_ratio)
            for layer, norm in zip(self.layers, probe.layer_gradient_norm, strict=False):
                self.layer_norms[layer.path].append(norm)
        if self.steps_per_epoch:
            self.epoch = self.step / self.steps_per_epoch
        self._measure_pace(steps)

    def _measure_pace(self, steps: StepsRecorded) -> None:
        """Throughput and time to go, over the last batches, by the run's own clock, so that a replay shows the same."""
        self._pace.append((steps.training_seconds, steps.samples_total, self.step))
        seconds, rows, taken = (new - old for new, old in zip(self._pace[-1], self._pace[0], strict=True))
        if seconds > 0 and taken > 0:
            self.rows_per_second = rows / seconds
            self.seconds_left = max(0, self.total_steps - self.step) * seconds / taken

    def _evaluation(self, evaluation: EvaluationCompleted) -> None:
        self.validation = evaluation
        self.epoch = evaluation.epoch
        self.headline.append(Headline.of(evaluation).value)
        self.efficacy = evaluation.update_efficacy or self.efficacy
        if evaluation.kept:
            self.kept = evaluation

    def _begin(self, attempt: int, step: int) -> None:
        self.attempt, self.step = attempt, step
        self._pace.clear()


def _curve(curves: Sequence[Series], metric: str, layer: str | None = None) -> deque[float]:
    found = next((series.values for series in curves if (series.metric, series.layer) == (metric, layer)), ())
    return deque(found, maxlen=_CURVE_POINTS)


def newest(values: Sequence[float] | deque[float]) -> float:
    """Returns a curve's newest value, NaN when it has none."""
    return values[-1] if values else math.nan
