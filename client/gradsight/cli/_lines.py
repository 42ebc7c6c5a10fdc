"""Events as lines, for pipes and logs."""

from gradsight import _events as events
from gradsight._enums import JobState, Severity, Split
from gradsight._events import JobError, JobEvent
from gradsight._figures import clock, count, number, percent, size, span
from gradsight._insight import Finding
from gradsight._job import Job
from gradsight._measurements import ColumnRemark, DataPrepared, EvaluationCompleted, ModelBuilt, StepsRecorded
from gradsight.cli._insight import (
    comparison_words,
    efficacy_words,
    finding_line,
    repair_line,
    verdict_words,
    words,
)

_SHOWN_REMARKS = 5


def event_line(event: JobEvent) -> str:
    """Returns one line that says what happened."""
    return f"{clock(event.record_time)}  {_text(event)}"


def error_line(error: JobError) -> str:
    """Returns an error as one line: reason, whose fault, where, what."""
    where = f", field {error.field}" if error.field else ""
    where += f", row {error.row}" if error.row else ""
    return f"{error.reason} (fault: {error.fault}{where}): {error.message}"


def evaluation_figures(evaluation: EvaluationCompleted) -> str:
    """Returns an evaluation's figures, those that fit its kind of answers, the loss last."""
    figures = []
    if evaluation.perplexity is not None:
        figures.append(f"perplexity {number(evaluation.perplexity)}")
    if evaluation.error_ratio is not None:
        weighted = evaluation.weighted_error_ratio
        differs = weighted is not None and abs(weighted - evaluation.error_ratio) > 1e-9
        extra = f" (weighted {percent(weighted)})" if differs else ""
        figures.append(f"error {percent(evaluation.error_ratio)}{extra}")
    if evaluation.root_mean_square_error is not None:
        figures.append(f"RMSE {number(evaluation.root_mean_square_error)}")
    if evaluation.mean_absolute_error is not None:
        figures.append(f"MAE {number(evaluation.mean_absolute_error)}")
    return ", ".join([*figures, f"loss {number(evaluation.loss)}"])


def outcome_line(job: Job) -> str:
    """Returns how a job ended, in one line."""
    took = f" in {span(job.end_time - job.create_time)}" if job.end_time and job.create_time else ""
    if job.state is JobState.FAILED and job.error:
        return f"job {job.job_id} failed{took}: {error_line(job.error)}"
    line = f"job {job.job_id} {job.state}{took}"
    if job.summary and job.summary.test:
        line += f": test {evaluation_figures(job.summary.test)}"
        if job.summary.baseline_test:
            line += f"; baseline {evaluation_figures(job.summary.baseline_test)}"
    return line


def judgement_lines(job: Job) -> list[str]:
    """Returns what the service makes of a job that ended: the run, and the new model against the old."""
    lines = []
    if job.verdict:
        why = f": {job.verdict.reason}" if job.verdict.reason else ""
        lines.append(f"run        {verdict_words(job.verdict)}{why}")
    if job.summary and job.summary.comparison:
        lines.append(f"new model  {comparison_words(job.summary.comparison)}")
    opened = [f"{each.open} {each.severity} {words(each.kind)}" for each in job.findings if each.open]
    if opened:
        lines.append(f"findings   {', '.join(opened)}")
    return lines


class StepThrottle:
    """Lets at most one line of steps through per second of training, so that a fast job does not flood a log."""

    def __init__(self) -> None:
        self._last = 0.0

    def passes(self, steps: StepsRecorded) -> bool:
        """Returns whether this batch of steps deserves a line."""
        now = steps.last_step_time.timestamp() if steps.last_step_time else self._last + 1
        if now - self._last < 1:
            return False
        self._last = now
        return True


def _text(event: JobEvent) -> str:
    match event.detail:
        case events.StateChanged() as changed:
            why = f": {error_line(changed.error)}" if changed.error else ""
            return f"{changed.state}{why or (f': {changed.message}' if changed.message else '')}"
        case events.AttemptStarted() as started:
            resumed = f", resumes after step {started.resumed_at_step:,}" if started.resumed_at_step else ""
            return f"attempt {event.attempt} on {started.worker_id} ({started.device}){resumed}"
        case DataPrepared() as data:
            return _data(data)
        case ModelBuilt() as model:
            return (
                f"model {model.architecture}: {count(model.parameters)} parameters in {len(model.layers)} layers, "
                f"{model.total_steps:,} steps to take"
            )
        case StepsRecorded() as steps:
            return _steps(steps)
        case EvaluationCompleted() as evaluation:
            whose = f" of baseline {evaluation.baseline_job_id}" if evaluation.baseline_job_id else ""
            kept = ", best so far" if evaluation.kept and evaluation.split is Split.VALIDATION else ""
            when = "" if whose else f" at step {evaluation.step:,}"
            said = efficacy_words(evaluation.update_efficacy) if evaluation.update_efficacy else ""
            updates = f"; updates {said}" if said else ""
            return f"{evaluation.split}{whose}{when}: {evaluation_figures(evaluation)}{kept}{updates}"
        case events.CheckpointSaved() as saved:
            return f"checkpoint at step {saved.step:,} ({size(saved.artifact.size_bytes)}, {span(saved.seconds)})"
        case events.ArtifactReady() as ready:
            return f"file {ready.artifact.filename} ({size(ready.artifact.size_bytes)})"
        case events.MicroBatchReduced() as reduced:
            held = f", {size(reduced.peak_bytes)} held" if reduced.peak_bytes else ""
            parts = f"{reduced.accumulation_steps} parts of {reduced.micro_batch_size} rows"
            return f"step {reduced.step:,} did not fit into memory{held}; from now on {parts}"
        case events.TrainingStopped() as stopped:
            return f"stopped after step {stopped.step:,}: {stopped.message}"
        case events.AttemptRewound() as rewound:
            return f"begins after step {rewound.resumed_at_step:,} instead: {rewound.message}"
        case events.LogLine() as line:
            return line.message if line.severity is Severity.INFO else f"{line.severity}: {line.message}"
        case events.FindingOpened() | events.FindingUpdated() | events.FindingClosed() as about:
            return _finding(event.kind.removeprefix("finding_"), about.finding)
        case events.MitigationApplied() | events.MitigationKept() | events.MitigationReverted() as repair:
            return repair_line(repair)
        case events.VerdictReached() as reached:
            why = f": {reached.verdict.reason}" if reached.verdict.reason else ""
            return f"verdict after step {reached.verdict.step:,}: {verdict_words(reached.verdict)}{why}"
        case events.ComparisonCompleted() as compared:
            limits = f". {compared.comparison.message}" if compared.comparison.message else ""
            return f"comparison: {comparison_words(compared.comparison)}{limits}"


def _finding(what: str, finding: Finding) -> str:
    line = f"finding {what}: {finding.severity} {finding_line(finding)}"
    if finding.cause_finding_id:
        return f"{line} (consequence of {finding.cause_finding_id})"
    return f"{line} To do: {finding.actions[0]}" if what == "opened" and finding.actions else line


def _data(data: DataPrepared) -> str:
    rows = ", ".join(f"{part.rows:,} {part.split}" for part in data.splits)
    line = f"data: {rows} rows"
    if data.classes:
        line += f", {len(data.classes)} classes"
    if data.categories:
        line += f", {len(data.categories)} categories"
    if data.duplicate_rows:
        line += f", {data.duplicate_rows:,} duplicates"
    if data.leaked_rows:
        line += f", {data.leaked_rows:,} held-out rows also in train"
    return line + "".join(
        f"; {remark}" for remark in map(_remark, data.column_remarks[:_SHOWN_REMARKS]) if remark
    )


def _remark(remark: ColumnRemark) -> str:
    what = []
    if remark.constant:
        what.append("the same value in every training row")
    if remark.missing_rows:
        what.append(f"{remark.missing_rows:,} without a value")
    if remark.unseen_rows:
        what.append(f"{remark.unseen_rows:,} held-out words that train does not have")
    return f"column {remark.column}: {', '.join(what)}" if what else ""


def _steps(steps: StepsRecorded) -> str:
    last = steps.first_step + len(steps.loss) - 1
    bad = f"  {len(steps.nonfinite_steps)} non-finite" if steps.nonfinite_steps else ""
    return (
        f"step {last:,}  loss {number(steps.loss[-1])}  gradient norm {number(steps.gradient_norm[-1])}"
        f"  learning rate {number(steps.learning_rate[-1])}{bad}"
    )
