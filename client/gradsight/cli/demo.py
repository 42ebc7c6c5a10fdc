"""`gradsight demo`: the whole way of two jobs on this machine, from nothing to nothing.

It starts a household of its own with `gradsight up`, so that what it shows is what any user gets, and ends it whatever
happens.
"""

import contextlib
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradsight import Client, JobSpec, JobState, load_spec
from gradsight._enums import Split
from gradsight._figures import percent, points, size, span
from gradsight._insight import PairedChange
from gradsight._job import Job
from gradsight._measurements import EvaluationCompleted, StepsRecorded
from gradsight.cli._follow import on_terminal
from gradsight.cli._insight import verdict_words, words

if TYPE_CHECKING:
    from gradsight._client import JobHandle

QUESTION = "sent my boots back two weeks ago and still no money on my card, when will I get it?"


class DemoFailed(click.ClickException):
    """A step of the demo did not do what it should."""


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("examples/support_intents"),
    show_default=True,
    help="Folder with the two specs and their files.",
)
@click.option(
    "--to",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".demo"),
    show_default=True,
    help="Where this week's result is put.",
)
def demo(data: Path, to: Path) -> None:
    """Train last week's and this week's support-intent model on this machine, from nothing."""
    if not (data / "this_week.yaml").is_file():
        raise click.UsageError(
            f"no this_week.yaml in {data}: run it in a checkout of gradsight, or name --data"
        )
    with _household() as addresses:
        click.echo(
            f"up: service {addresses['service']}, store, exporter and one worker on this machine's CPU"
        )
        with Client(addresses["service"]) as client:
            last_week = _train(client, "last week", load_spec(data / "last_week.yaml"))
            spec = load_spec(data / "this_week.yaml", baseline=last_week.job_id)
            this_week = _train(client, "this week", spec)
            _compare(this_week)
            handle = client.job(this_week.job_id)
            files = [*handle.download(to), handle.report().save(to / "report.html")]
        _ask(to)
        _scrape(addresses["exporter"], this_week)
        click.echo(f"\nthe result, in {to}")
        for path in files:
            click.echo(f"  {path.name:<22}{size(path.stat().st_size):>10}")
    click.echo("\ndown: nothing is left running")


@contextlib.contextmanager
def _household() -> Iterator[dict[str, str]]:
    """Everything up, in a temporary directory and on free ports; down at the end, however it ends."""
    with tempfile.TemporaryDirectory(prefix="gradsight-demo-") as directory:
        command = [sys.executable, "-m", "gradsight.cli"]
        up = [*command, "up", "--detach", "--data", directory, "--worker-metrics-port", "0"]
        for flag in ("--address", "--exporter-address", "--metrics-address"):
            up += [flag, "127.0.0.1:0"]
        started = subprocess.run(up, capture_output=True, text=True, check=False)
        try:
            if started.returncode != 0:
                raise DemoFailed(started.stderr.strip().removeprefix("Error: "))
            lines = (line.split(maxsplit=1) for line in started.stdout.splitlines())
            yield {fields[0]: fields[1] for fields in lines if len(fields) == 2}
        finally:
            subprocess.run([*command, "down", "--data", directory], capture_output=True, check=False)


def _train(client: Client, title: str, spec: JobSpec) -> Job:
    """Submit a job, show it while it learns, and return it once it succeeded."""
    handle = client.submit(spec)
    click.echo(f"\n{title}: job {handle.job_id}")
    _follow(handle)
    job = handle.get()
    if job.state is not JobState.SUCCEEDED or job.summary is None or job.summary.test is None:
        why = f": {job.error.message}" if job.error else ""
        raise DemoFailed(f"{title}'s job {job.state}{why}")
    took = span(job.end_time - job.create_time) if job.end_time and job.create_time else "–"
    validation = job.summary.kept.error_ratio if job.summary.kept else None
    test = percent(job.summary.test.error_ratio)
    click.echo(f"  {job.state} in {took}: error {percent(validation)} on validation, {test} on test")
    if job.verdict:
        click.echo(f"  the run: {verdict_words(job.verdict)}")
    return job


def _follow(handle: "JobHandle") -> None:
    """Live on a terminal; elsewhere a line per evaluation."""
    if on_terminal():
        from gradsight.cli._live import LiveView

        with LiveView(handle) as view:
            for event in handle.watch():
                view.take(event)
        return
    norm: float | None = None
    for event in handle.watch():
        match event.detail:
            case StepsRecorded() as steps:
                norm = steps.gradient_norm[-1]
            case EvaluationCompleted(split=Split.VALIDATION) as evaluation:
                _say_evaluation(evaluation, norm)


def _say_evaluation(evaluation: EvaluationCompleted, norm: float | None) -> None:
    click.echo(
        f"  epoch {evaluation.epoch:4.1f}   loss {evaluation.loss:.3f}   gradient norm {norm or 0:.3f}"
        f"   validation error {percent(evaluation.error_ratio):>6}"
    )


def _compare(job: Job) -> None:
    """Test error by category, before and after, on the same rows."""
    compared = job.summary.comparison if job.summary else None
    if compared is None or compared.overall is None:
        raise DemoFailed(f"job {job.job_id} was not compared with its baseline")
    click.echo(f"\nerror on the same {compared.overall.examples:,} test rows")
    header = f"  {'category':<12}{'rows':>6}{'last week':>12}{'this week':>12}{'points':>9}   beyond chance"
    click.echo(header)
    for category in sorted(compared.categories, key=lambda category: category.category):
        _compare_line(category.category, category.change)
    _compare_line("all", compared.overall)
    click.echo(f"  this week's model, weighted by impact: {words(compared.verdict)}")


def _compare_line(name: str, change: PairedChange) -> None:
    before, after = (errors / change.examples for errors in (change.baseline_errors, change.errors))
    line = f"  {name:<12}{change.examples:>6}{percent(before):>12}{percent(after):>12}{points(after - before):>9}"
    click.echo(f"{line}   {words(change.verdict or 'not judged')}")


def _ask(result: Path) -> None:
    """One question, answered by the new model from its files alone."""
    from gradsight import load_result

    (answer,) = load_result(result).predict([QUESTION])
    click.echo(f"\na customer writes: {QUESTION}")
    click.echo(f"  this week's model answers {answer.label}, {answer.confidence:.0%} sure")


def _scrape(address: str, job: Job) -> None:
    """Where Prometheus finds all this, with a line of what it finds."""
    with urllib.request.urlopen(address, timeout=10) as page:  # noqa: S310 (our own exporter)
        lines = page.read().decode().splitlines()
    series = [line for line in lines if not line.startswith("#")]
    wanted = f'gradsight_job_category_error_ratio{{job_id="{job.job_id}",split="test",category="returns"}}'
    found = next((line for line in series if line.startswith(wanted)), None)
    if found is None:
        raise DemoFailed(f"the exporter at {address} does not show {wanted}")
    click.echo(f"\nPrometheus scrapes {address}: {len(series):,} series, among them\n  {found}")
