"""A job's figures, folded from its events: pure, so that whoever has the events has the figures."""

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from gradsight.v1 import event_pb2, insight_pb2, job_pb2, state_pb2
from gradsight_store.findings import FindingsBook
from gradsight_store.v1 import record_pb2

_RATE_WINDOW_S = 10.0
"""Throughput is that of the last so many seconds of training."""


class _Point(NamedTuple):
    seconds: float
    samples: int
    step: int


class JobProjection:
    """Progress, summary, verdict and findings of a job so far.

    Attributes:
        job: A `Job` with only `progress`, `summary`, `verdict` and the counts in `findings` set; its bytes are what
            the store keeps.
        findings: The findings themselves, which the store keeps beside it.
    """

    def __init__(
        self, job: job_pb2.Job | None = None, findings: Iterable[record_pb2.KeptFinding] = ()
    ) -> None:
        """Go on from what earlier attempts left: `JobProjection(claim.record.job, claim.findings)`."""
        self.job = job_pb2.Job()
        self.steps_per_epoch = 0
        self.recent: deque[_Point] = deque()
        if job is not None:
            for field in ("progress", "summary", "verdict"):
                if job.HasField(field):
                    getattr(self.job, field).CopyFrom(getattr(job, field))
            self.job.findings.extend(job.findings)
        self.findings = FindingsBook(findings, self.job.findings)


def apply_event(projection: JobProjection, event: event_pb2.JobEvent) -> None:
    """Fold one event in. Kinds that carry no figures change nothing."""
    match event.WhichOneof("kind"):
        case "attempt_started":
            _begin_at(projection, event.attempt_started.resumed_at_step)
        case "attempt_rewound":
            _begin_at(projection, event.attempt_rewound.resumed_at_step)
        case "training_stopped":
            # The run takes no more steps than these.
            projection.job.progress.total_steps = event.training_stopped.step
            projection.job.progress.ClearField("remaining")
        case "data_prepared":
            classes = projection.job.summary.classes
            del classes[:]
            classes.extend(event.data_prepared.classes)
        case "model_built":
            _note_model(projection, event.model_built)
        case "steps_recorded":
            _note_steps(projection, event.steps_recorded)
        case "evaluation_completed":
            _note_evaluation(projection.job.summary, event.evaluation_completed)
        case "finding_opened":
            _note_finding(projection, event.finding_opened.finding, opened=True, is_open=True)
        case "finding_updated":
            updated = event.finding_updated.finding
            _note_finding(projection, updated, is_open=updated.open)
        case "finding_closed":
            _note_finding(projection, event.finding_closed.finding, is_open=False)
        case "verdict_reached":
            projection.job.verdict.CopyFrom(event.verdict_reached.verdict)
        case "comparison_completed":
            projection.job.summary.comparison.CopyFrom(event.comparison_completed.comparison)


def _begin_at(projection: JobProjection, step: int) -> None:
    """The run goes on after `step` steps: figures of later ones no longer hold."""
    projection.recent.clear()
    projection.findings.go_back(step)
    _count_findings(projection)
    if projection.job.verdict.step > step:
        projection.job.ClearField("verdict")
    if projection.job.summary.update_efficacy.last_step > step:
        projection.job.summary.ClearField("update_efficacy")
    if projection.job.HasField("progress"):
        projection.job.progress.step = step
        projection.job.progress.ClearField("remaining")
        if projection.steps_per_epoch:
            projection.job.progress.epoch = step / projection.steps_per_epoch


def _note_model(projection: JobProjection, built: event_pb2.ModelBuilt) -> None:
    projection.steps_per_epoch = built.steps_per_epoch
    projection.job.progress.total_steps = built.total_steps
    layers = projection.job.summary.layers
    del layers[:]
    layers.extend(built.layers)


def _note_steps(projection: JobProjection, steps: event_pb2.StepsRecorded) -> None:
    taken = len(steps.loss)
    if not taken:
        return
    progress, summary = projection.job.progress, projection.job.summary
    progress.step = steps.first_step + taken - 1
    progress.steps_taken += taken
    progress.samples_total = steps.samples_total
    if projection.steps_per_epoch:
        progress.epoch = progress.step / projection.steps_per_epoch
    if steps.HasField("last_step_time"):
        progress.last_step_time.CopyFrom(steps.last_step_time)
    summary.train_loss = steps.loss[-1]
    if steps.gradient_norm:
        summary.gradient_norm = steps.gradient_norm[-1]
    if steps.learning_rate:
        summary.learning_rate = steps.learning_rate[-1]
    summary.nonfinite_steps += len(steps.nonfinite_steps)
    if steps.probes:
        summary.probe.CopyFrom(steps.probes[-1])
        if summary.probe.HasField("gain_ratio"):
            summary.gain_ratio = summary.probe.gain_ratio
    _note_rate(projection, _Point(steps.training_seconds, steps.samples_total, progress.step))


def _note_rate(projection: JobProjection, point: _Point) -> None:
    recent, progress = projection.recent, projection.job.progress
    if recent and (point.seconds < recent[-1].seconds or point.step <= recent[-1].step):
        recent.clear()  # the run went back: rates across the seam mean nothing
    recent.append(point)
    while len(recent) > 2 and point.seconds - recent[1].seconds >= _RATE_WINDOW_S:
        recent.popleft()
    # Before there are two points, the run so far is the window; after a resume it counts earlier attempts in.
    first = recent[0] if len(recent) > 1 else _Point(0.0, 0, 0)
    seconds = point.seconds - first.seconds
    if seconds <= 0:
        return
    progress.samples_per_second = (point.samples - first.samples) / seconds
    steps_per_second = (point.step - first.step) / seconds
    if steps_per_second > 0 and progress.total_steps:
        remaining_s = max(0, progress.total_steps - point.step) / steps_per_second
        progress.remaining.FromMilliseconds(round(remaining_s * 1000))


def _note_evaluation(summary: job_pb2.JobSummary, evaluation: event_pb2.EvaluationCompleted) -> None:
    if evaluation.split == state_pb2.SPLIT_VALIDATION and not evaluation.baseline_job_id:
        summary.validation.CopyFrom(evaluation)
        if evaluation.kept:
            summary.kept.CopyFrom(evaluation)
        if evaluation.HasField("update_efficacy"):
            summary.update_efficacy.CopyFrom(evaluation.update_efficacy)
    elif evaluation.split == state_pb2.SPLIT_TEST:
        target = summary.baseline_test if evaluation.baseline_job_id else summary.test
        target.CopyFrom(evaluation)


def _note_finding(
    projection: JobProjection, finding: insight_pb2.Finding, *, is_open: bool, opened: bool = False
) -> None:
    noted = insight_pb2.Finding()
    noted.CopyFrom(finding)
    noted.open = is_open
    projection.findings.note(noted, projection.job.progress.step, opened=opened)
    _count_findings(projection)


def _count_findings(projection: JobProjection) -> None:
    del projection.job.findings[:]
    projection.job.findings.extend(projection.findings.counts())
