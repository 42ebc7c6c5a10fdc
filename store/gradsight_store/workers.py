"""Workers are records too: what they offer, whether they live, which message they hold in their one slot."""

from collections.abc import Sequence

from rq.defaults import RQ_KEY_PREFIX

from gradsight.v1 import worker_pb2
from gradsight_store import keys, scripts
from gradsight_store.operations import Command, Operation, Pipeline, read_settings
from gradsight_store.records import milliseconds

_FIELDS = ("record", "slot", "takes_jobs", "renewed")


def register_worker(worker: worker_pb2.Worker) -> Operation[None]:
    """Make a worker known and alive for one lease.

    `state`, `job_id` and both times of `worker` are ignored. A worker that registers again replaces what it offers
    and keeps the message it holds.
    """
    settings = yield from read_settings()
    class_index = keys.workers_of(worker.queue, worker.device_class)
    record = worker_pb2.Worker()
    record.CopyFrom(worker)
    (time,) = yield Pipeline([("TIME",)])
    record.start_time.FromMilliseconds(milliseconds(time))
    worker_key = keys.worker(worker.worker_id)
    fields = ("record", record.SerializeToString(), "worker_id", worker.worker_id, "class_index", class_index)
    yield Pipeline(
        [
            ("HSET", worker_key, *fields),
            ("HSETNX", worker_key, "slot", ""),
            _renewal(worker.worker_id, worker_pb2.WORKER_STATE_IDLE, settings.worker_lease_s),
        ]
    )


def renew_worker(worker_id: str, state: int) -> Operation[bool]:
    """Keep a worker alive for another lease. DRAINING: it is given no more jobs; else it may be.

    False when the worker is not known (any more): it registers again.
    """
    settings = yield from read_settings()
    (known,) = yield Pipeline([_renewal(worker_id, state, settings.worker_lease_s)])
    return bool(known)


def remove_worker(worker_id: str) -> Operation[None]:
    """Forget a worker that ended in order, and its transport queue."""
    yield Pipeline([removal_command(worker_id, only_expired=False)])


def free_worker(worker_id: str, message_id: str) -> Operation[bool]:
    """Empty the worker's slot if it still holds this message; False when it does not."""
    script_keys = [keys.worker(worker_id), keys.WAKE]
    (freed,) = yield Pipeline([scripts.call("free_worker", script_keys, [message_id])])
    return bool(freed)


def list_workers() -> Operation[list[worker_pb2.Worker]]:
    """All known workers by id: LOST when the lease has run out, else DRAINING, BUSY or IDLE."""
    everyone = ("ZRANGE", keys.WORKERS, 0, -1, "WITHSCORES")
    time, leases = yield Pipeline([("TIME",), everyone])
    now_ms = milliseconds(time)
    ids = [worker_id.decode() for worker_id in leases[::2]]
    if not ids:
        return []
    replies = yield Pipeline([("HMGET", keys.worker(worker_id), *_FIELDS) for worker_id in ids])
    workers = [
        _parse(reply, alive=float(lease) > now_ms)
        for reply, lease in zip(replies, leases[1::2], strict=True)
        if reply[0] is not None
    ]
    return sorted(workers, key=lambda worker: worker.worker_id)


def list_recipes() -> Operation[list[worker_pb2.Recipe]]:
    """The recipes of the workers that are alive, by name. Where workers differ, the one that started last tells."""
    alive = [worker for worker in (yield from list_workers()) if worker.state != worker_pb2.WORKER_STATE_LOST]
    alive.sort(key=lambda worker: worker.start_time.ToMicroseconds())
    recipes = {recipe.name: recipe for worker in alive for recipe in worker.recipes}
    return [recipe for _, recipe in sorted(recipes.items())]


def removal_command(worker_id: str, *, only_expired: bool) -> Command:
    """The command that forgets a worker; answers 1 when it did."""
    rq_queue = f"{RQ_KEY_PREFIX}:queue:{queue_name(worker_id)}"
    script_keys = [keys.worker(worker_id), keys.WORKERS, rq_queue, f"{RQ_KEY_PREFIX}:queues"]
    return scripts.call("remove_worker", script_keys, [worker_id, int(only_expired)])


def queue_name(worker_id: str) -> str:
    """Name of the worker's own RQ queue."""
    return f"{keys.PREFIX}-{worker_id}"


def _renewal(worker_id: str, state: int, lease_s: float) -> Command:
    takes_jobs = int(state != worker_pb2.WORKER_STATE_DRAINING)
    script_keys = [keys.worker(worker_id), keys.WORKERS, keys.WAKE]
    return scripts.call("renew_worker", script_keys, [worker_id, round(lease_s * 1000), takes_jobs, state])


def _parse(reply: Sequence[bytes | None], *, alive: bool) -> worker_pb2.Worker:
    record, slot, takes_jobs, renewed = reply
    assert record is not None
    worker = worker_pb2.Worker.FromString(record)
    worker.job_id = keys.parse_message(slot.decode())[0].job_id if slot else ""
    worker.renew_time.FromMilliseconds(int(renewed or 0))
    if not alive:
        worker.state = worker_pb2.WORKER_STATE_LOST
    elif takes_jobs != b"1":
        worker.state = worker_pb2.WORKER_STATE_DRAINING
    elif slot:
        worker.state = worker_pb2.WORKER_STATE_BUSY
    else:
        worker.state = worker_pb2.WORKER_STATE_IDLE
    return worker
