"""From waiting job to free worker.

```python
idle = await store.run(idle_workers())
waiting = await store.run(waiting_jobs(len(idle), queues=queues_of(idle), recipes=recipes_of(idle)))
for job, worker in choose(waiting, idle):
    assigned = await store.run(assign(job.ref, worker.worker_id, operation_id=new_operation_id()))
    if assigned.answer is not Answer.FENCED:
        await store.run(enqueue_attempt(worker.worker_id, job.ref, assigned.term))
```
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from gradsight.v1 import spec_pb2, worker_pb2
from gradsight_store import keys, rules
from gradsight_store.commits import Guard, change
from gradsight_store.operations import Answer, JobRef, Operation, Pipeline, read_settings
from gradsight_store.placements import DEVICE_CLASSES, parse_waiting_score
from gradsight_store.v1 import record_pb2
from gradsight_store.workers import list_workers


@dataclass(frozen=True)
class WaitingJob:
    """A job that could start now."""

    ref: JobRef
    queue: str
    device_class: int
    """A `gradsight.v1.DeviceClass`; unspecified: any."""
    priority: int
    waiting_since_ms: int
    avoided_worker_id: str = ""
    recipe: str = ""
    """Name of the recipe that its worker must have; empty: none."""


@dataclass(frozen=True)
class Assigned:
    """The term to hand to the worker with the job. FENCED: somebody else was faster, or the worker is taken."""

    answer: Answer
    term: int


def waiting_jobs(
    limit: int, *, queues: Collection[str] | None = None, recipes: Collection[str] = ()
) -> Operation[list[WaitingJob]]:
    """The waiting jobs of all tenants, best first: higher priority, then longer wait.

    At most `limit` of each queue, device class and recipe, so that a line nobody serves hides no other. `queues` None:
    of all. Jobs that need a recipe are among them for the named `recipes` only.
    """
    if queues is None:
        (names,) = yield Pipeline([("SMEMBERS", keys.QUEUES)])
        queues = [name.decode() for name in names]
    lines = list(product(queues, DEVICE_CLASSES, ("", *sorted(recipes))))
    if not lines:
        return []
    replies = yield Pipeline([("ZRANGE", keys.waiting(*line), 0, limit - 1, "WITHSCORES") for line in lines])
    found: list[tuple[float, JobRef, tuple[str, int, str]]] = []
    for line, reply in zip(lines, replies, strict=True):
        for member, score in zip(reply[::2], reply[1::2], strict=True):
            found.append((float(score), keys.parse_member(member), line))
    if not found:
        return []
    found.sort()
    avoided = yield Pipeline([("HGET", keys.job(ref), "avoided") for _, ref, _ in found])
    return [
        WaitingJob(ref, queue, device_class, *parse_waiting_score(score), (worker or b"").decode(), recipe)
        for (score, ref, (queue, device_class, recipe)), worker in zip(found, avoided, strict=True)
    ]


def idle_workers() -> Operation[list[worker_pb2.Worker]]:
    """Workers that are alive, not draining and hold no job."""
    workers = yield from list_workers()
    return [worker for worker in workers if worker.state == worker_pb2.WORKER_STATE_IDLE]


def queues_of(workers: Iterable[worker_pb2.Worker]) -> set[str]:
    """The queues that workers serve."""
    return {worker.queue for worker in workers}


def recipes_of(workers: Iterable[worker_pb2.Worker]) -> set[str]:
    """Names of the recipes that any of the workers has."""
    return {recipe.name for worker in workers for recipe in worker.recipes}


def choose(
    waiting: Sequence[WaitingJob], idle: Sequence[worker_pb2.Worker]
) -> list[tuple[WaitingJob, worker_pb2.Worker]]:
    """Pair jobs, best first, with workers of their queue and class that have their recipe.

    A job's avoided worker is taken only when no other idle worker fits. A job for any device takes a CUDA device
    when one is free.
    """
    free = list(idle)
    pairs = []
    for job in waiting:
        fitting = [worker for worker in free if _fits(job, worker)]
        if fitting:
            worker = min(fitting, key=lambda worker: _reluctance(job, worker))
            free.remove(worker)
            pairs.append((job, worker))
    return pairs


def assign(ref: JobRef, worker_id: str, *, operation_id: str) -> Operation[Assigned]:
    """Hand a waiting job to an idle worker, which has `assignment_s` to claim it.

    Nothing starts by this alone: `transport.enqueue_attempt` tells the worker.

    Raises:
        JobNotFound: There is no such job.
    """
    settings = yield from read_settings()

    def rule(record: record_pb2.JobRecord, now_ms: int) -> rules.Verdict:
        deadline_ms = now_ms + round(settings.assignment_s * 1000)
        return rules.assign(record, now_ms, worker_id=worker_id, deadline_ms=deadline_ms)

    idle = Guard("worker_idle", keys.worker(worker_id), keys.WORKERS)
    outcome = yield from change(ref, rule, operation_id=operation_id, guards=[idle])
    return Assigned(outcome.answer, outcome.stored.record.term)


def _fits(job: WaitingJob, worker: worker_pb2.Worker) -> bool:
    wanted = (spec_pb2.DEVICE_CLASS_UNSPECIFIED, worker.device_class)
    recipe = not job.recipe or job.recipe in recipes_of([worker])
    return job.queue == worker.queue and job.device_class in wanted and recipe


def _reluctance(job: WaitingJob, worker: worker_pb2.Worker) -> tuple[bool, bool, str]:
    avoided = worker.worker_id == job.avoided_worker_id
    return avoided, worker.device_class != spec_pb2.DEVICE_CLASS_CUDA, worker.worker_id
