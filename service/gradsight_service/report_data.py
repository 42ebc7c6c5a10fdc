"""All of a report from a job's record, its findings and its log."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from gradsight.v1 import event_pb2, insight_pb2, job_pb2, state_pb2
from gradsight_insight.report import data as report
from gradsight_service.report_curves import ReportCurves
from gradsight_service.report_spec import cut, label_lines, row_lines, spec_lines
from gradsight_service.report_words import evidence_of, interval_of, share_of, word_of

MOST_FINDINGS = 100
"""The first of those that the store keeps."""
_LONG = 2000


def report_data(
    job: job_pb2.Job,
    findings: Sequence[insight_pb2.Finding],
    curves: ReportCurves,
    *,
    written: datetime,
    version: str,
) -> report.ReportData:
    """The data of a report. `curves` has seen the whole log."""
    summary = job.summary
    prepared = curves.prepared
    return report.ReportData(
        job_id=job.job_id,
        name=job.spec.name or job.job_id,
        state=word_of(job, "state"),
        done=job.done,
        written=written,
        version=version,
        labels=label_lines(job),
        created=_moment(job, "create_time"),
        started=_moment(job, "start_time"),
        ended=_moment(job, "end_time"),
        step=job.progress.step,
        total_steps=job.progress.total_steps,
        asked=spec_lines(job.spec),
        rows=row_lines(prepared, job.spec.objective) if prepared else (),
        prior_loss=prepared.prior_loss if prepared else None,
        prior_error_ratio=_optional(prepared, "prior_error_ratio") if prepared else None,
        layers=tuple(layer.path for layer in summary.layers),
        train_loss=curves.curve("train_loss"),
        gradient_norm=curves.curve("gradient_norm"),
        learning_rate=curves.curve("learning_rate"),
        gain_ratio=curves.curve("gain_ratio"),
        validation_loss=curves.curve("validation_loss"),
        validation_figure=curves.curve("validation_figure"),
        figure_name=curves.figure_name,
        probes=curves.probes(),
        efficacies=curves.efficacies(),
        nonfinite_steps=summary.nonfinite_steps,
        kept=_evaluation(summary, "kept"),
        test=_evaluation(summary, "test"),
        baseline_test=_evaluation(summary, "baseline_test"),
        verdict=_verdict(job.verdict) if job.HasField("verdict") else None,
        comparison=_comparison(summary.comparison) if summary.HasField("comparison") else None,
        findings=tuple(_finding(finding) for finding in findings[:MOST_FINDINGS]),
        mitigations=curves.mitigations(),
        stopped=cut(curves.stopped, _LONG),
        failure=_failure(job.error) if job.HasField("error") else None,
        attempts=tuple(_attempt(attempt) for attempt in job.attempts),
    )


def _evaluation(summary: job_pb2.JobSummary, field: str) -> report.EvaluationFigures | None:
    if not summary.HasField(field):  # type: ignore[arg-type]
        return None
    told: event_pb2.EvaluationCompleted = getattr(summary, field)
    # An error ratio of tokens says nothing of rows, so it has no interval over them.
    rows_are_wrong = told.HasField("error_ratio") and not told.HasField("perplexity") and told.examples > 0
    return report.EvaluationFigures(
        step=told.step,
        examples=told.examples,
        loss=told.loss,
        error=share_of(told.error_ratio, told.examples) if rows_are_wrong else None,
        weighted_error_ratio=_optional(told, "weighted_error_ratio"),
        macro_f1=_optional(told, "macro_f1"),
        root_mean_square_error=_optional(told, "root_mean_square_error"),
        mean_absolute_error=_optional(told, "mean_absolute_error"),
        perplexity=_optional(told, "perplexity"),
        categories=tuple(_category(category, rows_are_wrong) for category in told.categories),
    )


def _category(told: event_pb2.CategoryEvaluation, rows_are_wrong: bool) -> report.CategoryFigures:
    error = None
    if rows_are_wrong and told.HasField("error_interval"):
        error = interval_of(told.error_interval)
    elif rows_are_wrong and told.HasField("error_ratio") and told.examples:
        error = share_of(told.error_ratio, told.examples)
    return report.CategoryFigures(
        category=cut(told.category), examples=told.examples, error=error, loss=told.loss
    )


def _verdict(told: insight_pb2.RunVerdict) -> report.RunVerdict:
    return report.RunVerdict(
        verdict=word_of(told, "verdict"),
        confirmed=told.confirmed,
        reasons=tuple(cut(reason, _LONG) for reason in told.reasons),
        evidence=evidence_of(told.evidence),
        kept_checkpoint_usable=told.kept_checkpoint_usable,
        step=told.step,
    )


def _comparison(told: insight_pb2.Comparison) -> report.Comparison:
    return report.Comparison(
        baseline_job_id=told.baseline_job_id,
        verdict=word_of(told, "verdict"),
        message=cut(told.message, _LONG),
        overall=_change("", 1.0, told.overall) if told.HasField("overall") else None,
        categories=tuple(_change(one.category, one.impact, one.change) for one in told.categories),
        baseline_weighted_error_ratio=told.baseline_weighted_error_ratio,
        weighted_error_ratio=told.weighted_error_ratio,
    )


def _change(category: str, impact: float, told: insight_pb2.PairedChange) -> report.Change:
    return report.Change(
        category=cut(category),
        examples=told.examples,
        baseline_error=interval_of(told.baseline_error_ratio),
        error=interval_of(told.error_ratio),
        only_baseline_wrong=told.only_baseline_wrong,
        only_new_wrong=told.only_new_wrong,
        p_value=told.p_value,
        smallest_detectable_fall=_optional(told, "smallest_detectable_fall"),
        verdict=word_of(told, "verdict"),
        impact=impact,
    )


def _finding(told: insight_pb2.Finding) -> report.Finding:
    return report.Finding(
        finding_id=told.finding_id,
        kind=told.kind,
        severity=word_of(told, "severity"),
        subject_kind=word_of(told, "subject_kind"),
        subject=cut(told.subject),
        first_step=told.first_step,
        last_step=told.last_step,
        explanation=cut(told.explanation, _LONG),
        actions=tuple(cut(action, _LONG) for action in told.actions[:10]),
        evidence=evidence_of(told.evidence[:20]),
        confidence=told.confidence,
        open=told.open,
        cause_finding_id=told.cause_finding_id,
        page_url=cut(told.page_url),
        suspects=tuple(
            report.SuspectRow(
                row_id=cut(row.row_id, 80),
                split=word_of(row, "split"),
                category=cut(row.category, 80),
                target=cut(row.target, 80),
                predicted=cut(row.predicted, 80),
                loss=row.loss,
                rank=row.rank,
            )
            for row in told.suspect_rows
        ),
    )


def _failure(told: state_pb2.JobError) -> report.Failure:
    return report.Failure(
        reason=word_of(told, "reason"),
        fault=word_of(told, "fault"),
        message=cut(told.message, _LONG),
        field=told.field,
        row=told.row,
    )


def _attempt(told: job_pb2.JobAttempt) -> report.Attempt:
    return report.Attempt(
        number=told.number,
        worker=told.worker_id,
        device=told.device,
        resumed_at_step=told.resumed_at_step,
        started=_moment(told, "start_time"),
        ended=_moment(told, "end_time"),
        failure=_failure(told.error) if told.HasField("error") else None,
    )


def _moment(message: Any, field: str) -> datetime | None:
    if not message.HasField(field):
        return None
    stamp: Timestamp = getattr(message, field)
    return stamp.ToDatetime(tzinfo=UTC)


def _optional(message: Any, field: str) -> float | None:
    return float(getattr(message, field)) if message.HasField(field) else None
