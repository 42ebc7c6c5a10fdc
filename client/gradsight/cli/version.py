"""`gradsight version`: of this client, and of the service if one answers."""

import click

from gradsight._errors import GradsightError
from gradsight._version import __version__
from gradsight.cli._verb import Session, verb


@verb
def version(session: Session) -> int:
    """Print the versions of this client and of the service, if one answers."""
    with session.client(call_attempts=1) as client:
        try:
            service, said = client.server_info().version, ""
        except GradsightError as error:
            service, said = None, error.message
    if session.json:
        session.document({"client": __version__, "service": service, "address": client.address})
    else:
        click.echo(f"client   {__version__}")
        click.echo(f"service  {f'{service} at {client.address}' if service else f'unknown: {said}'}")
    return 0
