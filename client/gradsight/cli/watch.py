"""`gradsight watch` and `gradsight logs`: what happens to a job, and what happened."""

import click

from gradsight._events import JobEvent
from gradsight._measurements import StepsRecorded
from gradsight.cli._follow import conclude, follow
from gradsight.cli._lines import event_line
from gradsight.cli._verb import Duration, Session, option, verb


@verb
@click.argument("job_id", metavar="JOB")
@option("--after", type=click.IntRange(0), default=0, help="Only events after this sequence, in a pipe.")
@option("--timeout", type=Duration(), help="Exit 5 after this time, 30m say; the job goes on.")
def watch(session: Session, job_id: str, after: int, timeout: float | None) -> int:
    """Follow a job live until it ends.

    On a terminal: loss, gradient norm by layer, held-out error, throughput and time to go. In a pipe: a line per event,
    with --format json the events themselves. Ctrl-C detaches, the job goes on. The exit code is the outcome.
    """
    with session.client() as client:
        return conclude(session, follow(session, client.job(job_id), after=after, timeout=timeout))


@verb
@click.argument("job_id", metavar="JOB")
@option("--follow", is_flag=True, help="Go on until the job ends.")
@option("--after", type=click.IntRange(0), default=0, help="Only events after this sequence.")
@option("--kind", "kinds", multiple=True, help="Only events of this kind, `checkpoint_saved` say; repeat it.")
@option("--steps/--no-steps", default=False, help="Batches of steps, too. Default: without.")
def logs(session: Session, job_id: str, follow: bool, after: int, kinds: tuple[str, ...], steps: bool) -> int:
    """Print what happened to a job, line by line.

    Batches of steps are left out unless --steps or --kind steps_recorded asks for them.
    """
    with session.client() as client:
        handle = client.job(job_id)
        events = handle.watch(after, kinds=kinds) if follow else handle.events(after, kinds=kinds)
        for event in events:
            if steps or kinds or not isinstance(event.detail, StepsRecorded):
                _print(session, event)
    return 0


def _print(session: Session, event: JobEvent) -> None:
    if session.json:
        session.line(event)
    else:
        click.echo(event_line(event))
