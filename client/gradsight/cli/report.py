"""`gradsight report`: a job for people who were not there, as one file."""

import sys
import webbrowser

import click

from gradsight._enums import ReportFormat
from gradsight._figures import size
from gradsight.cli._outcome import Exit
from gradsight.cli._verb import Session, option, verb


@verb
@click.argument("job_id", metavar="JOB")
@option(
    "-o", "--output", "place", metavar="FILE", help="Where to put it, - for stdout. Default: its own name."
)
@option("--markdown", is_flag=True, help="Markdown instead of HTML; also when FILE ends in .md.")
@option("--open", "opened", is_flag=True, help="Show it in the browser.")
def report(session: Session, job_id: str, place: str | None, markdown: bool, opened: bool) -> int:
    """Write a report about a job: one file that needs nothing else to be read.

    What was asked, the verdict and why, curves, gradients layer by layer, findings, error by category, what to do next.

    \b
      gradsight report JOB --open
      gradsight report JOB -o - --markdown | less
    """  # noqa: D301 (click reads the backspace)
    markdown = markdown or (place or "").endswith(".md")
    if place == "-" and opened:
        raise click.UsageError("--open shows a file; leave out -o - or --open")
    with session.client() as client:
        made = client.job(job_id).report(ReportFormat.MARKDOWN if markdown else ReportFormat.HTML)
    if place == "-":
        if session.json:
            session.document(made.to_dict())
        else:
            sys.stdout.buffer.write(made.content)
        return Exit.OK
    try:
        path = made.save(place or ".")
    except OSError as error:
        raise click.UsageError(f"{place or made.filename} cannot be written: {error.strerror}") from None
    if session.json:
        session.document({"path": str(path), "media_type": made.media_type, "size_bytes": len(made.content)})
    else:
        click.echo(path)
        click.echo(f"{size(len(made.content))} of {made.media_type.partition(';')[0]}", err=True)
    if opened and not webbrowser.open(path.absolute().as_uri()):
        click.echo(f"no browser could be started; open {path.absolute().as_uri()}", err=True)
    return Exit.OK
