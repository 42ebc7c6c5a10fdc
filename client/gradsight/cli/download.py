"""`gradsight download`: files of a job, or one file by its digest."""

from pathlib import Path

import click

from gradsight._enums import ArtifactKind
from gradsight._figures import size
from gradsight.cli._outcome import Exit
from gradsight.cli._verb import Session, option, verb

_KINDS = [kind.value for kind in ArtifactKind if kind is not ArtifactKind.UNKNOWN]


@verb
@click.argument("source", metavar="JOB|DIGEST")
@option(
    "--to",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory. Default: the job's id.",
)
@option(
    "--kind", "kinds", multiple=True, type=click.Choice(_KINDS), help="Files of this kind instead; repeat it."
)
@option("--wait", is_flag=True, help="Wait for the job to end first.")
def download(
    session: Session, source: str, directory: Path | None, kinds: tuple[str, ...], wait: bool
) -> int:
    """Fetch the files of a job's result, verified by digest; what is there already is not fetched again.

    With --kind checkpoint, say, fetches files that exist before the job has ended.
    """
    with session.client() as client:
        if source.startswith("sha256:"):
            paths = client.download([client.artifact(source)], directory or Path())
        else:
            handle = client.job(source)
            if not (wait or kinds):
                job = handle.get()
                if not job.done:
                    click.echo(f"gradsight: job {source} is {job.state} and has no result yet", err=True)
                    click.echo(f"Wait for it with --wait or `{session.command(f'wait {source}')}`.", err=True)
                    return Exit.FAILED
            wanted = [ArtifactKind(kind) for kind in kinds]
            paths = handle.download(directory or Path(source), kinds=wanted)
    for path in paths:
        if session.json:
            session.line({"path": str(path), "size_bytes": path.stat().st_size})
        else:
            click.echo(f"{path}  {size(path.stat().st_size)}")
    return Exit.OK
