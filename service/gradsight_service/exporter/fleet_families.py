"""What Prometheus is told about the fleet: jobs, queues and workers, from counters that the store keeps itself."""

from collections.abc import Iterable, Iterator, Mapping

from gradsight.v1 import state_pb2, worker_pb2
from gradsight_service.exporter.exposition import Family, labelled, number, sample, value_word
from gradsight_store.figures import WAIT_BUCKETS_S, FleetFigures, QueueWaits

JOBS = Family(name="gradsight_jobs", kind="gauge", help="Jobs in the store.")
CREATED = Family(name="gradsight_jobs_created_total", kind="counter", help="Jobs created.")
FINISHED = Family(name="gradsight_jobs_finished_total", kind="counter", help="Jobs ended.")
QUEUED = Family(name="gradsight_queue_jobs", kind="gauge", help="Jobs that wait in a queue.")
OLDEST = Family(
    name="gradsight_queue_oldest_job_age_seconds",
    kind="gauge",
    help="Age of the longest wait that lasts; 0 when none.",
)
WAITS = Family(
    name="gradsight_queue_wait_seconds",
    kind="histogram",
    help="Time from queued to running, attempts after losses too.",
)
WORKERS = Family(name="gradsight_workers", kind="gauge", help="Workers known to the store.")


def fleet_lines(figures: FleetFigures) -> Iterator[str]:
    """All lines about the fleet, family by family."""
    yield from _family(JOBS, _by_queue_and_state(figures.jobs))
    yield from _family(
        CREATED, ((labelled(queue=queue), float(n)) for queue, n in sorted(figures.created.items()))
    )
    yield from _family(FINISHED, _finished(figures))
    yield from _family(
        QUEUED, ((labelled(queue=queue), float(n)) for queue, n in sorted(figures.queued.items()))
    )
    ages = {queue: figures.oldest_waiting_s.get(queue, 0.0) for queue in figures.queued}
    yield from _family(OLDEST, ((labelled(queue=queue), age) for queue, age in sorted(ages.items())))
    yield WAITS.header()
    for queue, waits in sorted(figures.waits.items()):
        yield from _histogram(queue, waits)
    yield from _family(WORKERS, _workers(figures.workers))


def _family(family: Family, samples: Iterable[tuple[str, float]]) -> Iterator[str]:
    yield family.header()
    for labels, value in samples:
        yield sample(family.name, labels, value)


def _by_queue_and_state(counts: Mapping[tuple[str, int], int]) -> Iterator[tuple[str, float]]:
    for (queue, state), count in sorted(counts.items()):
        yield labelled(queue=queue, state=value_word(state_pb2.JobState.DESCRIPTOR, state)), float(count)


def _finished(figures: FleetFigures) -> Iterator[tuple[str, float]]:
    for (queue, state, fault, reason), count in sorted(figures.finished.items()):
        labels = {
            "queue": queue,
            "state": value_word(state_pb2.JobState.DESCRIPTOR, state),
            "fault": value_word(state_pb2.Fault.DESCRIPTOR, fault) if fault else "",
            "reason": value_word(state_pb2.JobErrorReason.DESCRIPTOR, reason) if reason else "",
        }
        yield labelled(**labels), float(count)


def _workers(counts: Mapping[tuple[str, int], int]) -> Iterator[tuple[str, float]]:
    for (queue, state), count in sorted(counts.items()):
        yield (
            labelled(queue=queue, state=value_word(worker_pb2.WorkerState.DESCRIPTOR, state)),
            float(count),
        )


def _histogram(queue: str, waits: QueueWaits) -> Iterator[str]:
    labels = labelled(queue=queue)
    total = 0
    for bound, count in zip([*WAIT_BUCKETS_S, float("inf")], waits.buckets, strict=True):
        total += count
        yield sample(f"{WAITS.name}_bucket", f'{labels},le="{number(float(bound))}"', float(total))
    yield sample(f"{WAITS.name}_sum", labels, waits.total_s)
    yield sample(f"{WAITS.name}_count", labels, float(total))
