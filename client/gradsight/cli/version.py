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
            service = client.server_info().version
        except GradsightError:
            service = None
    if session.json:
        session.document({"client": __version__, "service": service, "address": client.address})
    else:
        click.echo(f"client   {__version__}")
        click.echo(f"service  {service or 'none answers'} at {client.address}")
    return 0
