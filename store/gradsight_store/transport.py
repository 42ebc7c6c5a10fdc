"""RQ carries one message per attempt: "someone please try this job in this term". It decides nothing.

Everything an RQ entry says but its id is ignored: whoever writes to the store can name any job and term, which the
claim then judges, and nothing else. Refusing a forged entry by an exception would make RQ's worker quit.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

import redis
from redis.retry import Retry
from rq import Queue
from rq.defaults import RQ_KEY_PREFIX
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.utils import utcformat

from gradsight_store import scripts
from gradsight_store.connections import client_arguments, no_backoff
from gradsight_store.keys import message_id as message_id
from gradsight_store.keys import parse_message as parse_message
from gradsight_store.operations import Argument, JobRef, Operation, Pipeline
from gradsight_store.settings import StoreSettings
from gradsight_store.workers import queue_name as queue_name

_UNREAD_ENTRIES_KEPT_S = 3600
_FAILED_ENTRIES_KEPT_S = 60
_UNPARSABLE = "unparsable"

log = logging.getLogger(__name__)


class AttemptJob(Job):
    """An RQ job that runs `entry_point(ref, term)` with what its id says, whatever its entry contains.

    The entry's function, arguments, callbacks, webhooks, retries, repeats, result and limits are never read.
    """

    entry_point: ClassVar[Callable[[JobRef, int], None] | None] = None
    """Set by the worker's process before it works: `AttemptJob.entry_point = staticmethod(run_attempt)`."""

    data = b""
    func_name = "gradsight attempt"
    instance = None
    args = ()
    kwargs: ClassVar[dict[str, Any]] = {}
    success_callback = None
    failure_callback = None
    stopped_callback = None

    @classmethod
    def fetch(
        cls,
        id: str,  # noqa: A002 -- RQ's own name
        connection: redis.Redis | None = None,
        serializer: Any = None,
    ) -> Job:
        """The entry of this id. For anything that is not a message id there is none."""
        try:
            parse_message(id)
        except ValueError as error:
            log.warning("dropped an entry that is not a message: %s", error)
            raise NoSuchJobError(str(error)) from error
        return super().fetch(id, connection=connection, serializer=serializer)

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Take the queue's name from the entry and nothing else."""
        self.origin = raw_data.get(b"origin", b"").decode("utf-8", "replace")
        self.description = self.func_name
        self.timeout = -1  # no alarm: the attempt has limits of its own
        self.result_ttl = 0
        self.failure_ttl = _FAILED_ENTRIES_KEPT_S
        self._status = JobStatus.QUEUED

    def perform(self) -> None:
        """Run the entry point."""
        ref, term = parse_message(self.id)
        entry_point = type(self).entry_point
        assert entry_point is not None, "AttemptJob.entry_point is set before the worker works"
        entry_point(ref, term)


class AttemptQueue(Queue):
    """An RQ queue of AttemptJobs that survives entries which are not even text."""

    job_class = AttemptJob

    @classmethod
    def lmove(cls, connection: redis.Redis, queue_key: str, timeout: int | None) -> Any:
        """Pop an entry. What cannot be read is replaced by an id that names nothing.

        No intermediate list, unlike RQ: an assignment that nobody claims lapses and is handed out again, so
        nothing is lost with a worker that dies here.
        """
        popped = cls.lpop([queue_key], timeout, connection=connection)
        if popped is None:
            return None
        key, entry = popped
        try:
            parse_message(entry.decode())
        except ValueError:  # a UnicodeDecodeError is one
            return key, _UNPARSABLE
        return popped


def enqueue_attempt(worker_id: str, ref: JobRef, term: int) -> Operation[None]:
    """Put the message in the worker's RQ queue, once: one round trip, safe to repeat."""
    message, queue = message_id(ref, term), queue_name(worker_id)
    now = utcformat(datetime.now(UTC))
    fields: dict[str, Argument] = {
        "origin": queue,
        "status": "queued",
        "created_at": now,
        "enqueued_at": now,
        "data": "",
        "timeout": -1,
    }
    arguments: list[Argument] = [message, _UNREAD_ENTRIES_KEPT_S]
    for name, value in fields.items():
        arguments += [name, value]
    rq_queue = f"{Queue.redis_queue_namespace_prefix}{queue}"
    script_keys = [AttemptJob.key_for(message), rq_queue, f"{RQ_KEY_PREFIX}:queues"]
    yield Pipeline([scripts.call("enqueue", script_keys, arguments)])


def rq_connection(settings: StoreSettings) -> redis.Redis:
    """A client for RQ alone: it does not send commands again; RQ raises its socket timeout above its blocking reads."""
    return redis.Redis(**client_arguments(settings, Retry(no_backoff(), 0)))
