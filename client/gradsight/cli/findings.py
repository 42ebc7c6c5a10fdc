"""`gradsight findings`: what the service found in a run, all of it in a table or one of it in full."""

from collections.abc import Sequence

import click

from gradsight._errors import InvalidRequest
from gradsight._insight import Finding
from gradsight.cli._columns import print_columns
from gradsight.cli._follow import on_terminal
from gradsight.cli._insight import SEVERITY_STYLES, first_sentence, in_order_of_cause, steps, where
from gradsight.cli._outcome import Exit
from gradsight.cli._verb import Session, option, verb

_COLORS = {severity.value: color for severity, color in SEVERITY_STYLES.items()}


@verb
@click.argument("job_id", metavar="JOB")
@click.argument("finding_id", metavar="[FINDING]", default="")
@option("--open", "open_only", is_flag=True, help="Only findings that are open.")
def findings(session: Session, job_id: str, finding_id: str, open_only: bool) -> int:
    """Print what the service found in a run; with a finding's id, all about that one.

    Most severe first, consequences indented below their causes; in a pipe a row each. A finding in full has its
    evidence, what it means for the model, what to do about it, and the rows that should be looked at.
    """
    with session.client() as client:
        found = client.job(job_id).findings(open_only=open_only)
    if finding_id:
        finding = _named(found, finding_id, job_id)
        if session.json:
            session.document(finding)
            return Exit.OK
        from gradsight.cli._finding_page import print_finding

        print_finding(finding)
        return Exit.OK
    if session.json:
        for each in found:
            session.line(each)
    elif found:
        if on_terminal():
            from gradsight.cli._finding_page import listed
            from gradsight.cli._tables import page

            page().print(listed(found))
        else:
            _table(found)
        first, _ = next(in_order_of_cause(found))
        explain = session.command(f"findings {job_id} {first.finding_id}")
        click.echo(f"all about one with  {explain}", err=True)
    else:
        click.echo("no open findings" if open_only else "no findings", err=True)
    return Exit.OK


def _named(found: Sequence[Finding], finding_id: str, job_id: str) -> Finding:
    """Returns the finding of that id, or the only one of that kind."""
    fitting = [each for each in found if finding_id in (each.finding_id, each.kind)]
    if not fitting:
        known = ", ".join(each.finding_id for each in found) or "none"
        raise InvalidRequest(f"finding: got {finding_id!r}, allowed: those of job {job_id}: {known}")
    return next((each for each in fitting if each.finding_id == finding_id), fitting[0])


def _table(found: Sequence[Finding]) -> None:
    header = ("FINDING", "SEVERITY", "STATE", "STEPS", "WHERE", "WHAT")
    rows = [
        (
            "  " * depth + each.finding_id,
            each.severity.value,
            "open" if each.open else "closed",
            steps(each.first_step, each.last_step),
            where(each),
            first_sentence(each.explanation),
        )
        for each, depth in in_order_of_cause(found)
    ]
    print_columns(header, rows, {1: _COLORS})
