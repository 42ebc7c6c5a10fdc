"""Staying with a job until it ends: live on a terminal, in lines elsewhere, quietly on request."""

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import click

from gradsight._enums import JobState, WaitingReason
from gradsight._events import JobEvent
from gradsight._job import Job
from gradsight._measurements import StepsRecorded
from gradsight._requirements import RequirementResult
from gradsight.cli._lines import StepThrottle, event_line, judgement_lines, outcome_line
from gradsight.cli._outcome import Exit, outcome_of
from gradsight.cli._verb import Session

if TYPE_CHECKING:
    from gradsight._client import JobHandle


class View(Protocol):
    """Something that shows a job's events; `sequence` is that of the newest one it shows."""

    @property
    def sequence(self) -> int:
        """Sequence of the newest event that is shown."""

    def take(self, event: JobEvent) -> None:
        """Shows one more event."""


def follow(
    session: Session, handle: "JobHandle", *, quiet: bool = False, after: int = 0, timeout: float | None
) -> Job:
    """Returns the job once it has ended. Ctrl-C leaves the job alone, says how to come back and exits with 130."""
    shown: View | None = None
    try:
        if quiet or session.json or not on_terminal():
            say_if_nobody_works(handle.get())
        if quiet:
            return handle.wait(timeout)
        with _view(session, handle, after) as shown:
            for event in handle.watch(shown.sequence, timeout=timeout):
                shown.take(event)
        return handle.get()
    except KeyboardInterrupt:
        _say_how_to_come_back(session, handle.job_id, shown.sequence if shown else after)
        sys.exit(Exit.DETACHED)


def conclude(session: Session, job: Job, results: Sequence[RequirementResult] = ()) -> Exit:
    """Says how the job ended and what became of requirements on it, and returns the exit code."""
    outcome = outcome_of(job.state)
    if outcome is Exit.OK and not all(result.met for result in results):
        outcome = Exit.REQUIREMENT_NOT_MET
    if session.json:
        return outcome
    for line in (outcome_line(job), *judgement_lines(job)):
        click.echo(line, err=outcome not in (Exit.OK, Exit.REQUIREMENT_NOT_MET))
    for result in results if job.state is JobState.SUCCEEDED else ():
        click.echo(result.sentence, err=not result.met)
    if job.state is JobState.SUCCEEDED:
        click.echo(f"see it with      {session.command(f'show {job.job_id}')}", err=True)
        click.echo(f"take it home by  {session.command(f'download {job.job_id}')}", err=True)
    elif job.state is JobState.FAILED:
        click.echo(f"see more with    {session.command(f'show {job.job_id}')}", err=True)
    return outcome


def with_requirements(job: Job, results: Sequence[RequirementResult]) -> Any:
    """Returns the job as a JSON document, with what became of requirements on it where there were any."""
    return {**job.to_dict(), "requirements": results} if results else job


def say_if_nobody_works(job: Job) -> None:
    """Says on stderr that the job waits for a worker that does not exist, and what to do."""
    if job.waiting and job.waiting.reason is WaitingReason.NO_WORKER:
        click.echo(f"job {job.job_id} waits: {job.waiting.message}", err=True)


def on_terminal() -> bool:
    """Returns whether stdout is a terminal that can be drawn on."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _view(session: Session, handle: "JobHandle", after: int) -> AbstractContextManager[View]:
    if session.json or not on_terminal():
        return _Lines(session, after)
    from gradsight.cli._live import LiveView

    return LiveView(handle)


class _Lines:
    """One line per event, in text or JSON."""

    def __init__(self, session: Session, after: int) -> None:
        self.sequence = after
        self._session = session
        self._throttle = StepThrottle()

    def take(self, event: JobEvent) -> None:
        if self._session.json:
            self._session.line(event)
        elif not isinstance(event.detail, StepsRecorded) or self._throttle.passes(event.detail):
            click.echo(event_line(event))
        # Only now: who is interrupted in between comes back to a line twice rather than never.
        self.sequence = event.sequence

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass


def _say_how_to_come_back(session: Session, job_id: str, sequence: int) -> None:
    after = f" --after {sequence}" if sequence and not on_terminal() else ""
    click.echo(f"\ndetached; job {job_id} goes on", err=True)
    click.echo(f"  come back  {session.command(f'watch {job_id}{after}')}", err=True)
    click.echo(f"  wait       {session.command(f'wait {job_id}')}", err=True)
    click.echo(f"  end it     {session.command(f'cancel {job_id}')}", err=True)
