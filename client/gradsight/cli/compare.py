"""`gradsight compare`: two jobs side by side, old against new."""

from typing import TYPE_CHECKING

import click

from gradsight._errors import GradsightError
from gradsight._records import Series
from gradsight.cli._outcome import Exit
from gradsight.cli._verb import Session, verb

if TYPE_CHECKING:
    from gradsight._client import JobHandle


@verb
@click.argument("baseline_job_id", metavar="BASELINE")
@click.argument("job_id", metavar="JOB")
def compare(session: Session, baseline_job_id: str, job_id: str) -> int:
    """Compare the models of two jobs on the test rows that both answered.

    The verdict, the error by category with its 95 % interval and what the rows could have shown, the curves of both
    jobs on one scale, and where their specs differ. The exit code does not judge; `wait --require no-regression` does.
    """
    from gradsight.cli._comparison_page import METRICS, print_comparison

    with session.client() as client:
        compared = client.compare(baseline_job_id, job_id)
        if session.json:
            session.document(compared)
            return Exit.OK
        handles = (client.job(baseline_job_id), client.job(job_id))
        jobs = tuple(handle.get() for handle in handles)
        curves = tuple(_curves(handle, METRICS) for handle in handles)
    print_comparison(compared, jobs, curves)
    return Exit.OK


def _curves(handle: "JobHandle", metrics: tuple[str, ...]) -> tuple[Series, ...]:
    """Returns the curves; none where the service keeps none, for the comparison stands without them."""
    try:
        return handle.history(metrics, max_points=500)
    except GradsightError:
        return ()
