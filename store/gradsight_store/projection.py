"""A job's figures, folded from its events: pure, so that whoever has the events has the figures."""

from gradsight.v1 import event_pb2, job_pb2


class JobProjection:
    """Progress and summary of a job so far; `job` is a `Job` with only these two set."""

    def __init__(self, job: job_pb2.Job | None = None) -> None:
        """Go on from an earlier attempt's figures: `JobProjection(claim.record.job)`."""
        raise NotImplementedError


def apply_event(projection: JobProjection, event: event_pb2.JobEvent) -> None:
    """Fold one event in."""
    raise NotImplementedError
