"""What Prometheus is told about one job: its record folded into lines, family by family.

Every figure comes from the job as `GetJob` shows it, so a query and a call never disagree. A record holds at most
32 layers and 100 categories (the trainer folds the rest), so a job's series are bounded.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradsight.v1 import event_pb2, insight_pb2, job_pb2, state_pb2
from gradsight_service.exporter.exposition import Family, labelled, sample, value_word

_FAMILIES = {
    "info": ("gauge", "The job's names; always 1."),
    "state": ("gauge", "1 for the state that the job is in."),
    "step": ("gauge", "Optimizer steps done; goes back when an attempt resumes."),
    "steps_total": ("counter", "Optimizer steps taken over all attempts, repeated ones included."),
    "samples_total": (
        "counter",
        "Training rows consumed by the run; a resume resets it to the checkpoint's.",
    ),
    "nonfinite_steps_total": ("counter", "Steps that were not finite and changed nothing."),
    "progress_ratio": ("gauge", "Share of the run's optimizer steps that are done, 0 to 1."),
    "last_step_timestamp_seconds": ("gauge", "When the last recorded step ended, seconds since the epoch."),
    "loss": ("gauge", "Newest loss, in the objective's unit (nats for cross entropy)."),
    "error_ratio": ("gauge", "Newest share of wrong answers on held-out rows, or tokens, 0 to 1."),
    "macro_f1": ("gauge", "Newest mean F1 of the classes or labels on held-out rows, 0 to 1."),
    "root_mean_square_error": (
        "gauge",
        "Newest root mean square error on held-out rows, in the target's unit.",
    ),
    "mean_absolute_error": ("gauge", "Newest mean absolute error on held-out rows, in the target's unit."),
    "perplexity": (
        "gauge",
        "Newest perplexity on held-out rows: exponential of the loss per token, at least 1.",
    ),
    "learning_rate": ("gauge", "Learning rate of the newest recorded step."),
    "gradient_norm": ("gauge", "Global gradient norm of the newest recorded step, before clipping."),
    "layer_gradient_norm": ("gauge", "Gradient norm of a layer at the newest probe, before clipping."),
    "layer_update_ratio": (
        "gauge",
        "Norm of a layer's update over the norm of its weights at the newest probe.",
    ),
    "gain_ratio": ("gauge", "Decrease of the loss that updates brought over the decrease they promised."),
    "category_error_ratio": ("gauge", "Newest share of wrong answers in a category, 0 to 1."),
    "category_loss": (
        "gauge",
        "Newest loss in a category, in the objective's unit; where there is no error ratio.",
    ),
    "category_examples": ("gauge", "Held-out rows of a category."),
    "findings": ("gauge", "Findings about the run that are open."),
    "verdict": ("gauge", "1 for the verdict on the run."),
    "update_efficacy": ("gauge", "1 for the judgement on what the newest window of updates achieved."),
    "comparison": (
        "gauge",
        "1 for the verdict on the new model against the baseline's on the same test rows.",
    ),
    "regressed_category": (
        "gauge",
        "1 for a category whose test error rose significantly against the baseline.",
    ),
}
FAMILIES = {
    key: Family(name=f"gradsight_job_{key}", kind=kind, help=text) for key, (kind, text) in _FAMILIES.items()
}
"""Families by job, in the order of the page."""


def job_lines(job: job_pb2.Job) -> dict[str, str]:
    """Render one job: the lines of each family that the job has figures for, by the family's key."""
    lines: dict[str, str] = {}
    for key, labels, value in _samples(job):
        lines[key] = lines.get(key, "") + sample(FAMILIES[key].name, labels, value)
    return lines


def _samples(job: job_pb2.Job) -> Iterator[tuple[str, str, float]]:
    """Family key, rendered labels and value of every series of the job."""
    own = labelled(job_id=job.job_id)
    spec = job.spec
    names = {"name": spec.name, "tenant": job.tenant, "queue": spec.queue, "model": _model(job)}
    yield "info", f"{own},{labelled(**names)}", 1.0
    yield "state", f"{own},{labelled(state=value_word(state_pb2.JobState.DESCRIPTOR, job.state))}", 1.0
    yield from _judgement_samples(own, job)
    if job.HasField("progress"):
        yield from _progress_samples(own, job.progress)
    yield from _summary_samples(own, job.summary)


def _judgement_samples(own: str, job: job_pb2.Job) -> Iterator[tuple[str, str, float]]:
    for count in job.findings:
        severity = value_word(state_pb2.Severity.DESCRIPTOR, count.severity)
        # 0 stays: it says that they were closed.
        yield "findings", f"{own},{labelled(kind=count.kind, severity=severity)}", float(count.open)
    if job.HasField("verdict"):
        verdict = value_word(insight_pb2.Verdict.DESCRIPTOR, job.verdict.verdict)
        yield "verdict", f"{own},{labelled(verdict=verdict)}", 1.0
    if job.summary.HasField("update_efficacy"):
        achieved = value_word(insight_pb2.EfficacyVerdict.DESCRIPTOR, job.summary.update_efficacy.verdict)
        yield "update_efficacy", f"{own},{labelled(verdict=achieved)}", 1.0
    if job.summary.HasField("comparison"):
        comparison = job.summary.comparison
        verdict = value_word(insight_pb2.ComparisonVerdict.DESCRIPTOR, comparison.verdict)
        yield "comparison", f"{own},{labelled(verdict=verdict)}", 1.0
        for category in comparison.categories:
            if category.change.verdict == insight_pb2.CHANGE_VERDICT_REGRESSED:
                yield "regressed_category", f"{own},{labelled(category=category.category)}", 1.0


def _progress_samples(own: str, progress: job_pb2.JobProgress) -> Iterator[tuple[str, str, float]]:
    yield "step", own, float(progress.step)
    yield "steps_total", own, float(progress.steps_taken)
    yield "samples_total", own, float(progress.samples_total)
    if progress.total_steps:
        yield "progress_ratio", own, progress.step / progress.total_steps
    if progress.HasField("last_step_time"):
        yield "last_step_timestamp_seconds", own, progress.last_step_time.ToNanoseconds() / 1e9


def _summary_samples(own: str, summary: job_pb2.JobSummary) -> Iterator[tuple[str, str, float]]:
    yield "nonfinite_steps_total", own, float(summary.nonfinite_steps)
    if summary.HasField("train_loss"):
        yield "loss", f'{own},split="train"', summary.train_loss
    if summary.HasField("learning_rate"):
        yield "learning_rate", own, summary.learning_rate
    if summary.HasField("gradient_norm"):
        yield "gradient_norm", own, summary.gradient_norm
    if summary.HasField("gain_ratio"):
        yield "gain_ratio", own, summary.gain_ratio
    yield from _layer_samples(own, summary)
    if summary.HasField("validation"):
        yield from _evaluation_samples(own, "validation", summary.validation)
    if summary.HasField("test"):
        yield from _evaluation_samples(own, "test", summary.test)


def _layer_samples(own: str, summary: job_pb2.JobSummary) -> Iterator[tuple[str, str, float]]:
    columns = {
        "layer_gradient_norm": summary.probe.layer_gradient_norm,
        "layer_update_ratio": summary.probe.layer_update_ratio,
    }
    for key, values in columns.items():
        for layer, value in zip(summary.layers, values, strict=False):
            yield key, f"{own},{labelled(layer=layer.path, depth=str(layer.index))}", value


def _evaluation_samples(
    own: str, split: str, evaluation: event_pb2.EvaluationCompleted
) -> Iterator[tuple[str, str, float]]:
    labels = f'{own},split="{split}"'
    yield "loss", labels, evaluation.loss
    if evaluation.HasField("error_ratio"):
        yield "error_ratio", labels, evaluation.error_ratio
    if evaluation.HasField("macro_f1"):
        yield "macro_f1", labels, evaluation.macro_f1
    if evaluation.HasField("root_mean_square_error"):
        yield "root_mean_square_error", labels, evaluation.root_mean_square_error
    if evaluation.HasField("mean_absolute_error"):
        yield "mean_absolute_error", labels, evaluation.mean_absolute_error
    if evaluation.HasField("perplexity"):
        yield "perplexity", labels, evaluation.perplexity
    for category in evaluation.categories:
        named = f"{labels},{labelled(category=category.category)}"
        if category.HasField("error_ratio"):
            yield "category_error_ratio", named, category.error_ratio
        else:
            yield "category_loss", named, category.loss
        yield "category_examples", named, float(category.examples)


def _model(job: job_pb2.Job) -> str:
    kind = job.spec.model.WhichOneof("kind")
    return (job.spec.model.builtin.WhichOneof("architecture") if kind == "builtin" else kind) or ""
