"""`gradsight jobs`, `show`, `wait` and `cancel`: one look at many jobs, or at one."""

import datetime
from collections.abc import Sequence
from itertools import islice

import click

from gradsight._enums import JobState
from gradsight._figures import date, number, span
from gradsight._job import Job
from gradsight._requirements import Requirement
from gradsight.cli._columns import print_columns
from gradsight.cli._follow import conclude, follow, with_requirements
from gradsight.cli._headline import Headline
from gradsight.cli._insight import VERDICT_STYLES, words
from gradsight.cli._lines import event_line
from gradsight.cli._outcome import Exit
from gradsight.cli._verb import Assignment, Duration, Session, option, require_option, verb

_STATES = [state.value for state in JobState if state is not JobState.UNKNOWN]
_COLORS = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}
_VERDICT_COLORS = {words(verdict): color for verdict, color in VERDICT_STYLES.items()}


@verb
@option("--state", "states", multiple=True, type=click.Choice(_STATES), help="Only these states; repeat it.")
@option("--label", "labels", multiple=True, type=Assignment(), help="Only jobs with this label; repeat it.")
@option("--name", default="", help="Only jobs of this name.")
@option("--queue", default="", help="Only jobs of this queue.")
@option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most that many.")
@option("--follow", is_flag=True, help="Instead: the state changes of all jobs from now on, until Ctrl-C.")
def jobs(
    session: Session,
    states: tuple[str, ...],
    labels: tuple[tuple[str, str], ...],
    name: str,
    queue: str,
    limit: int,
    follow: bool,
) -> int:
    """List jobs, newest first."""
    with session.client() as client:
        if follow:
            for change in client.watch_jobs():
                if session.json:
                    session.line(change)
                else:
                    click.echo(f"{change.job_id}  {change.name}  {event_line(change.event)}")
            return Exit.OK
        found = list(islice(client.jobs(states=states, labels=dict(labels), name=name, queue=queue), limit))
    if session.json:
        for job in found:
            session.line(job)
    elif found:
        _table(found)
    else:
        click.echo("no jobs", err=True)
    return Exit.OK


@verb
@click.argument("job_id", metavar="[JOB]", default="")
def show(session: Session, job_id: str) -> int:
    """Show a job on one page; without a job, the service at a glance."""
    with session.client() as client:
        if job_id:
            job = client.job(job_id).get()
            if session.json:
                session.document(job)
                return Exit.OK
            from gradsight.cli._page import print_job

            print_job(job, client.job(job_id))
            return Exit.OK
        info, workers, newest = client.server_info(), list(client.workers()), list(islice(client.jobs(), 10))
    if session.json:
        session.document({"service": info, "workers": workers, "jobs": newest})
        return Exit.OK
    from gradsight.cli._page import print_service

    print_service(client.address, info, workers)
    if newest:
        _table(newest)
    return Exit.OK


@verb
@click.argument("job_ids", metavar="JOB...", nargs=-1, required=True)
@option("--timeout", type=Duration(), help="Exit 5 after this time, 30m say; the jobs go on.")
@require_option("Exit 4 unless each result is so; repeat it.")
def wait(
    session: Session, job_ids: tuple[str, ...], timeout: float | None, require: tuple[Requirement, ...]
) -> int:
    """Wait for jobs to end.

    The exit code is the outcome: 0 all succeeded, 1 one failed, 3 one was cancelled, 4 a requirement is not met, 5
    timeout.

    Conditions: no-regression, improved, improved=CATEGORY,…, error<=0.1, error[CATEGORY]<=5%, verdict=converged,…,
    verdict!=diverged,…, usable. What cannot be judged is not met.

    \b
      gradsight wait JOB --require no-regression --require 'error[returns]<=0.05'
    """  # noqa: D301 (click reads the backspace)
    outcomes = set()
    with session.client() as client:
        for job_id in job_ids:
            job = follow(session, client.job(job_id), quiet=True, timeout=timeout)
            results = job.check(require)
            if session.json:
                session.line(with_requirements(job, results))
            outcomes.add(conclude(session, job, results))
    worst_first = (Exit.FAILED, Exit.CANCELLED, Exit.REQUIREMENT_NOT_MET, Exit.OK)
    return next(code for code in worst_first if code in outcomes)


@verb
@click.argument("job_ids", metavar="JOB...", nargs=-1, required=True)
def cancel(session: Session, job_ids: tuple[str, ...]) -> int:
    """Ask jobs to end. A running job ends within seconds; `gradsight wait` tells when."""
    with session.client() as client:
        for job_id in job_ids:
            job = client.job(job_id).cancel()
            if session.json:
                session.line(job)
            else:
                click.echo(f"job {job.job_id} is {job.state}")
    return Exit.OK


def _table(found: Sequence[Job]) -> None:
    """Prints one aligned row per job."""
    header = ("JOB", "NAME", "STATE", "PROGRESS", "LOSS", "ERROR", "VERDICT", "CREATED", "TOOK")
    print_columns(header, [_row(job) for job in found], {2: _COLORS, 6: _VERDICT_COLORS})


def _row(job: Job) -> tuple[str, ...]:
    state: str = job.state
    if job.waiting:
        state += f" ({job.waiting.reason.replace('_', ' ')})"
    progress, summary = job.progress, job.summary
    done = f"{progress.step / progress.total_steps:.0%}" if progress and progress.total_steps else "–"
    evaluation = summary and (summary.test or summary.validation)
    end = job.end_time or datetime.datetime.now(datetime.UTC)
    return (
        job.job_id,
        job.name or "–",
        state,
        done,
        number(summary.train_loss if summary else None),
        Headline.of(evaluation).short if evaluation else "–",
        words(job.verdict.verdict) if job.verdict else "–",
        date(job.create_time),
        span(end - job.start_time) if job.start_time else "–",
    )
