"""Why a job waits, and its place in line."""

from collections.abc import Sequence
from itertools import cycle

from gradsight.v1 import job_pb2, spec_pb2, worker_pb2
from gradsight_store import keys
from gradsight_store.operations import Command, Operation, Pipeline
from gradsight_store.placements import DEVICE_CLASSES, waiting_score
from gradsight_store.v1 import record_pb2
from gradsight_store.workers import list_workers

_REASONS = {
    job_pb2.WAITING_REASON_WORKERS_BUSY: "all workers that could take it are busy",
    job_pb2.WAITING_REASON_NO_WORKER: "no worker that could take it is alive",
    job_pb2.WAITING_REASON_ASSIGNED: "handed to a worker that has not started it yet",
    job_pb2.WAITING_REASON_BACK_OFF: "backs off after a lost attempt",
}


def fill_waiting(queued: Sequence[tuple[record_pb2.JobRecord, job_pb2.Job]], now_ms: int) -> Operation[None]:
    """Fill `waiting` of jobs that are QUEUED, by the server's clock."""
    if not queued:
        return
    commands: list[Command] = []
    for record, _ in queued:
        commands += _line_commands(record) + _worker_commands(record, now_ms)
    replies = yield Pipeline(commands)
    needs_recipe = any(_recipe(record) for record, _ in queued)
    everyone = (yield from list_workers()) if needs_recipe else []
    for record, job in queued:
        lines, workers = len(_line_commands(record)), len(_worker_classes(record))
        line_counts, worker_counts = replies[:lines], replies[lines : lines + workers]
        replies = replies[lines + workers :]
        can_serve = len(_equipped(record, everyone)) if _recipe(record) else sum(worker_counts)
        _describe(record, job, now_ms, ahead=_ahead(record, line_counts), workers=can_serve)


def _describe(
    record: record_pb2.JobRecord, job: job_pb2.Job, now_ms: int, *, ahead: int, workers: int
) -> None:
    position = 0
    if record.worker_id:
        reason = job_pb2.WAITING_REASON_ASSIGNED
    elif record.not_before_ms > now_ms:
        reason = job_pb2.WAITING_REASON_BACK_OFF
    else:
        reason = job_pb2.WAITING_REASON_WORKERS_BUSY if workers else job_pb2.WAITING_REASON_NO_WORKER
        position = ahead + 1
    message = _REASONS[reason]
    if reason == job_pb2.WAITING_REASON_NO_WORKER:
        device_class = record.job.spec.resources.device_class
        wanted = spec_pb2.DeviceClass.Name(device_class).removeprefix("DEVICE_CLASS_").lower()
        device = "" if device_class == spec_pb2.DEVICE_CLASS_UNSPECIFIED else f" with a {wanted} device"
        recipe = f" and the recipe {_recipe(record)!r} installed" if _recipe(record) else ""
        message += f": start one{device} for queue {record.job.spec.queue!r}{recipe}"
    job.waiting.reason = reason
    job.waiting.position = position
    job.waiting.message = message
    job.waiting.since.FromMilliseconds(record.waiting_since_ms)


def _line_commands(record: record_pb2.JobRecord) -> list[Command]:
    """Counts of jobs that are better placed, by device class: those without a recipe, and those with the same."""
    spec = record.job.spec
    score = waiting_score(spec.priority, record.waiting_since_ms)
    return [
        ("ZCOUNT", keys.waiting(spec.queue, device_class, recipe), "-inf", f"({score}")
        for recipe in sorted({"", _recipe(record)})
        for device_class in DEVICE_CLASSES
    ]


def _ahead(record: record_pb2.JobRecord, counts: Sequence[int]) -> int:
    """Jobs ahead that want a worker which this one could have."""
    own = record.job.spec.resources.device_class
    anything = spec_pb2.DEVICE_CLASS_UNSPECIFIED
    return sum(
        count
        for device_class, count in zip(cycle(DEVICE_CLASSES), counts, strict=False)
        if anything in (own, device_class) or own == device_class
    )


def _worker_classes(record: record_pb2.JobRecord) -> Sequence[int]:
    wanted = record.job.spec.resources.device_class
    return DEVICE_CLASSES if wanted == spec_pb2.DEVICE_CLASS_UNSPECIFIED else (wanted,)


def _recipe(record: record_pb2.JobRecord) -> str:
    return record.job.spec.model.recipe.name


def _equipped(
    record: record_pb2.JobRecord, workers: Sequence[worker_pb2.Worker]
) -> Sequence[worker_pb2.Worker]:
    """Workers that take jobs and could take this one, its recipe included."""
    working = (worker_pb2.WORKER_STATE_IDLE, worker_pb2.WORKER_STATE_BUSY)
    return [
        worker
        for worker in workers
        if worker.state in working
        and worker.queue == record.job.spec.queue
        and worker.device_class in _worker_classes(record)
        and any(recipe.name == _recipe(record) for recipe in worker.recipes)
    ]


def _worker_commands(record: record_pb2.JobRecord, now_ms: int) -> list[Command]:
    queue = record.job.spec.queue
    return [
        ("ZCOUNT", keys.workers_of(queue, device_class), f"({now_ms}", "+inf")
        for device_class in _worker_classes(record)
    ]
