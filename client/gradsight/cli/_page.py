"""A job on one page, and the service at a glance."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from gradsight._enums import WorkerState
from gradsight._errors import GradsightError
from gradsight._figures import (
    bar,
    clock,
    count,
    date,
    nonfinite,
    number,
    percent,
    points,
    size,
    span,
    sparkline,
)
from gradsight._insight import UpdateEfficacy
from gradsight._job import Job, JobSummary
from gradsight._measurements import CategoryEvaluation
from gradsight._records import ServerInfo, Worker
from gradsight.cli._headline import Headline
from gradsight.cli._insight import EFFICACY_MEANINGS, EFFICACY_STYLES, efficacy_words, interval_words
from gradsight.cli._judgement import judgement, open_findings, repairs
from gradsight.cli._lines import error_line, evaluation_figures
from gradsight.cli._live import STATE_STYLES
from gradsight.cli._run import METRICS, Run
from gradsight.cli._tables import lineless, page

if TYPE_CHECKING:
    from gradsight._client import JobHandle

_STARTS = {"extend": "goes on with", "from_job": "begins with the weights of"}
_CURVE_WIDTH = 24
_WIDE = 100
_SHOWN_CATEGORIES = 20


def print_job(job: Job, handle: "JobHandle", console: Console | None = None) -> None:
    """Prints the page of a job; curves come from its history where the service has one."""
    try:
        curves = handle.history(METRICS, max_points=200) if job.progress else ()
    except GradsightError:
        curves = ()
    run = Run(job, curves)
    console = console or page()
    sections = [
        _facts(job, run),
        *_problems(job),
        judgement(job),
        open_findings(handle, job),
        repairs(handle, job),
    ]
    if job.summary:
        sections += [_categories(job.summary, console.width), _layers(job.summary, run, console.width)]
    sections += [_attempts(job), _files(job)]
    console.print(_head(job))
    for section in filter(None, sections):
        console.print()
        console.print(section)


def print_service(address: str, info: ServerInfo, workers: Sequence[Worker]) -> None:
    """Prints what the service is and who works for it."""
    console = page()
    console.print(Text.assemble(("gradsight ", "bold"), (info.version, "bold"), f" at {address}"))
    if info.architectures:
        console.print(
            f"models {', '.join(info.architectures)} · optimizers {', '.join(info.optimizers)}", style="dim"
        )
    console.print()
    if not workers:
        console.print(
            "no workers: jobs wait until one starts (`gradsight worker --device cpu`)", style="yellow"
        )
        console.print()
        return
    table = lineless("worker", "queue", "device", "state", "job", "since")
    for worker in workers:
        style = {WorkerState.IDLE: "green", WorkerState.BUSY: "cyan"}.get(worker.state, "yellow")
        device = f"{worker.device} ({worker.device_name})" if worker.device_name else worker.device
        since = date(worker.start_time)
        state = Text(worker.state, style=style)
        table.add_row(worker.worker_id, worker.queue, device, state, worker.job_id or "–", since)
    console.print(table)
    console.print()


def _head(job: Job) -> RenderableType:
    took = job.end_time - job.start_time if job.end_time and job.start_time else None
    head = Text.assemble(
        (f"{job.name}  " if job.name else "", "bold"),
        (f"{job.job_id}  ", "dim" if job.name else "bold"),
        (job.state.upper(), f"bold {STATE_STYLES.get(job.state, '')}"),
    )
    if took:
        head.append(f" in {span(took)}")
    if job.waiting:
        place = f", place {job.waiting.position}" if job.waiting.position else ""
        head.append(f": {job.waiting.message or job.waiting.reason}{place}")
    facts = [
        _model_name(job),
        f"queue {job.spec.get('queue', 'default')}",
        f"created {date(job.create_time)}",
    ]
    facts += [f"{_STARTS[how]} {earlier}" for how, earlier in job.spec.get("start", {}).items()]
    facts += [f"{name}={value}" for name, value in sorted(job.spec.get("labels", {}).items())]
    return Text("\n").join([head, Text(" · ".join(facts), style="dim")])


def _facts(job: Job, run: Run) -> Table | None:
    progress, summary = job.progress, job.summary
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", min_width=11)
    table.add_column()
    if progress:
        line = f"{progress.step:,} of {progress.total_steps:,} steps · epoch {progress.epoch:.1f}"
        line += f" · {count(progress.samples_per_second)} rows/s" if progress.samples_per_second else ""
        line += f" · {span(progress.remaining)} left" if progress.remaining and not job.done else ""
        table.add_row("progress", line)
    if summary:
        _add_figures(table, summary, run)
    return table if table.row_count else None


def _add_figures(table: Table, summary: JobSummary, run: Run) -> None:
    if summary.train_loss is not None:
        table.add_row("loss", _with_curve(number(summary.train_loss), sparkline([*run.loss], _CURVE_WIDTH)))
    if summary.gradient_norm is not None:
        facts = [f"norm {number(summary.gradient_norm)}", f"learning rate {number(summary.learning_rate)}"]
        if summary.gain_ratio is not None and not summary.update_efficacy:
            facts.append(f"gain ratio {number(summary.gain_ratio)}")
        curve = sparkline([*run.gradient_norm], _CURVE_WIDTH, logarithmic=True)
        table.add_row("gradients", _with_curve(" · ".join(facts), curve))
    if summary.update_efficacy and (said := efficacy_words(summary.update_efficacy)):
        table.add_row("updates", _updates(summary.update_efficacy, said))
    if summary.nonfinite_steps:
        table.add_row("", Text(f"{nonfinite(summary.nonfinite_steps)} and changed nothing", style="red"))
    if summary.validation:
        line = Text(f"{evaluation_figures(summary.validation)} at step {summary.validation.step:,}")
        if summary.kept and summary.kept.step != summary.validation.step:
            line.append(f" · kept step {summary.kept.step:,}: {evaluation_figures(summary.kept)}")
        table.add_row("validation", line)
    if summary.test:
        line = Text(f"{evaluation_figures(summary.test)} over {summary.test.examples:,} rows")
        if summary.baseline_test:
            before, after = Headline.of(summary.baseline_test), Headline.of(summary.test)
            line.append(f" · baseline {before.short} ")
            line.append(after.change_since(before), _color(after.value - before.value))
        table.add_row("test", line)


def _updates(efficacy: UpdateEfficacy, said: str) -> Text:
    """What the newest window of updates achieved, and what that means."""
    if efficacy.verdict is None:
        return Text(said)
    text = Text(said, EFFICACY_STYLES.get(efficacy.verdict, ""))
    meaning = EFFICACY_MEANINGS.get(efficacy.verdict)
    return text.append(f"\n{meaning}", "dim default") if meaning else text


def _with_curve(figure: str, curve: str) -> Text:
    return Text.assemble(figure, "  ", (curve, "cyan"))


def _problems(job: Job) -> list[RenderableType]:
    return [Text(error_line(job.error), style="red")] if job.error else []


def _categories(summary: JobSummary, width: int) -> Table | None:
    """Held-out error by category: on test where it was read, before and after where there is a baseline."""
    evaluation = summary.test or summary.kept or summary.validation
    if evaluation is None or not evaluation.categories:
        return None
    of_errors = evaluation.error_ratio is not None
    figure = percent if of_errors else number
    earlier = summary.baseline_test.categories if summary.baseline_test else ()
    before = {each.category: _value(each, of_errors) for each in earlier}
    columns = ["category", "rows>", *(["errors>"] if of_errors else [])]
    columns.append(f"{evaluation.split} {'error' if of_errors else 'loss'}>")
    table = lineless(*columns, *(["baseline>", "change>"] if before else []), "")
    values = [_value(each, of_errors) for each in evaluation.categories]
    largest = max((value for value in values if value is not None and math.isfinite(value)), default=0.0)
    for each, value in zip(evaluation.categories[:_SHOWN_CATEGORIES], values, strict=False):
        cells: list[Any] = [each.category, f"{each.examples:,}"]
        cells += [f"{each.errors or 0:,}"] if of_errors else []
        interval = each.error_interval if of_errors and width >= _WIDE else None
        cells.append(interval_words(interval) if interval else figure(value))
        if before:
            old = before.get(each.category)
            cells += [figure(old), _change(old, value, of_errors=of_errors)]
        table.add_row(*cells, Text(bar(value or 0.0, largest, 16), style="cyan"))
    rest = len(evaluation.categories) - _SHOWN_CATEGORIES
    if rest > 0:
        table.add_row(Text(f"… {rest} more in --format json", style="dim"))
    return table


def _value(category: CategoryEvaluation, of_errors: bool) -> float | None:
    return category.error_ratio if of_errors else category.loss


def _change(before: float | None, after: float | None, *, of_errors: bool) -> Text:
    """Returns the change: of an error in percentage points, of a loss as it is."""
    if before is None or after is None:
        return Text("–")
    difference = after - before
    text = points(difference) if of_errors else f"{difference:+.4g}".replace("-", "−")
    return Text(text, _color(difference))


def _color(difference: float) -> str:
    """Returns the colour of a change: less is green."""
    return "green" if difference < 0 else "red" if difference > 0 else "dim"


def _layers(summary: JobSummary, run: Run, width: int) -> Table | None:
    if not summary.layers:
        return None
    columns = ["layer", "kind", "parameters>", "gradient norm>", "", "over time", "update/weight>"]
    probe = summary.probe
    norms, ratios = (probe.layer_gradient_norm, probe.layer_update_ratio) if probe else ((), ())
    largest = max((norm for norm in norms if norm < float("inf")), default=0.0)
    # Where there is little room, the kind and the bar go first.
    shown = [column for column in columns if width >= _WIDE or column not in ("kind", "")]
    table = lineless(*shown)
    for layer in summary.layers:
        norm = norms[layer.index] if layer.index < len(norms) else None
        curve = sparkline([*run.layer_norms[layer.path]], _CURVE_WIDTH, logarithmic=True)
        cells: tuple[str | Text, ...] = (
            layer.path,
            Text(layer.kind, style="dim"),
            count(layer.parameters),
            number(norm),
            Text(bar(norm or 0.0, largest, 10), style="magenta"),
            Text(curve, style="magenta"),
            number(ratios[layer.index]) if layer.index < len(ratios) else "–",
        )
        row = dict(zip(columns, cells, strict=True))
        table.add_row(*(row[column] for column in shown))
    return table


def _attempts(job: Job) -> Table | None:
    if not job.attempts:
        return None
    table = lineless("attempt>", "worker", "device", "started", "ended", "from step>", "")
    for attempt in job.attempts:
        why = Text(error_line(attempt.error), style="yellow") if attempt.error else Text()
        table.add_row(
            str(attempt.number),
            attempt.worker_id,
            attempt.device,
            clock(attempt.start_time),
            clock(attempt.end_time) if attempt.end_time else "–",
            f"{attempt.resumed_at_step:,}",
            why,
        )
    return table


def _files(job: Job) -> Table | None:
    if not job.result:
        return None
    table = lineless("file", "size>", "digest")
    for artifact in job.result:
        table.add_row(
            artifact.filename, size(artifact.size_bytes), Text(artifact.digest[:19] + "…", style="dim")
        )
    return table


def _model_name(job: Job) -> str:
    model = job.spec.get("model", "")
    return model if isinstance(model, str) else next(iter(model), "")
