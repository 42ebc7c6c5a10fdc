"""Workers are records too: what they offer, whether they live, what they hold."""

from gradsight.v1 import worker_pb2
from gradsight_store.operations import Operation


def register_worker(worker: worker_pb2.Worker) -> Operation[None]:
    """Make a worker known, idle and alive. Again with the same id: replaces what it offers, keeps what it holds."""
    raise NotImplementedError


def renew_worker(worker_id: str, state: int) -> Operation[bool]:
    """Keep a worker alive and say its `WorkerState`; False: it is not known (any more), register again."""
    raise NotImplementedError


def remove_worker(worker_id: str) -> Operation[None]:
    """Forget a worker that ended in order, with its transport queue."""
    raise NotImplementedError


def free_worker(worker_id: str, message_id: str) -> Operation[bool]:
    """Empty the worker's slot if it still holds this message."""
    raise NotImplementedError


def list_workers() -> Operation[list[worker_pb2.Worker]]:
    """All known workers by id; LOST when the lease has run out."""
    raise NotImplementedError
