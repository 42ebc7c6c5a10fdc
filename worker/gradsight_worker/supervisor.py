"""The one long-lived process of a worker: takes jobs from its own RQ queue and forks an attempt for each.

RQ carries messages and drives the loop (`rq.Worker.work`); what a message means is the store's. So nothing is
read of an RQ entry but its id, and of RQ's own records only the worker's is kept, for RQ's tools to show.

This process forks, therefore it has one thread, never computes with torch, never opens CUDA, never touches grpc.
"""

import logging
import math
import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, NamedTuple

import redis.exceptions
from rq import Queue, Worker
from rq.exceptions import DequeueTimeout, StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import as_text
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from gradsight.v1 import state_pb2, worker_pb2
from gradsight_store import attempts, workers
from gradsight_store.errors import JobNotFound, StoreError, TransitionRefused
from gradsight_store.operations import JobRef, Operation, Result, new_operation_id
from gradsight_store.store import Store
from gradsight_store.transport import AttemptJob, AttemptQueue, parse_message, queue_name, rq_connection
from gradsight_worker import failures, processes
from gradsight_worker.attempt import Attempt, AttemptSettings
from gradsight_worker.lease import FENCED_ITSELF
from gradsight_worker.logs import log_also
from gradsight_worker.metrics import Report

RENEWALS_PER_LEASE = 5
_RETRY_S = 0.2
_SAME_SIGNAL_S = 1.0
_FIRST_TURN_S = 0.1  # after a message the processor is the attempt's
_GROUP_PATIENCE_S = 10.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SupervisorSettings:
    """What a supervisor does about its worker's life. Durations are in seconds."""

    attempt: AttemptSettings
    offer: worker_pb2.Worker
    """What the worker offers: id, queue, device, host."""
    drain_timeout_s: float = 60.0
    """From the first stop signal to the end; a job that has not stopped by then is killed."""
    report: Callable[[Report], None] = lambda report: None
    """Told after every renewed lease, for the metrics."""
    ready: Callable[[], None] = lambda: None
    """Called once the worker is registered."""


class _Horse(NamedTuple):
    """A process that waits for the id of a message, or for the end of the pipe."""

    child: processes.Child
    message: int


class Supervisor(Worker):
    """A worker. `work()` runs until a stop signal came and the running attempt, if any, has stopped."""

    job_class = AttemptJob
    queue_class = AttemptQueue

    def __init__(self, settings: SupervisorSettings) -> None:
        self._settings = settings
        self._store_settings = settings.attempt.store
        self._store = Store.open(self._store_settings)
        self._lease_s = self._store_settings.worker_lease_s
        self._renew_at = 0.0
        self._doing: worker_pb2.WorkerState.ValueType = worker_pb2.WORKER_STATE_IDLE
        self._attempts = {"told": 0, "lost": 0}
        self._spare: _Horse | None = None
        self._troubled = False  # said so already
        self._waiting = False  # in the one call that a stop signal may break off
        self._stop_requested_at = 0.0
        self._kill_requested = False
        self._wake_reading, self._wake_writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        super().__init__(
            [queue_name(settings.offer.worker_id)],
            name=settings.offer.worker_id,
            connection=rq_connection(self._store_settings),
            serializer=JSONSerializer,
            worker_ttl=math.ceil(self._lease_s),
        )

    # What RQ's loop calls

    @property
    def stopped_on_request(self) -> bool:
        """Whether a stop signal came. RQ's loop ends by an unexpected error, too, and says so in the log only."""
        return self._stop_requested

    def bootstrap(self, *_: Any, **__: Any) -> None:
        """Register, in our records and in RQ's. Unlike RQ's own: without a thread that listens for commands."""
        processes.adopt_orphans()
        signal.set_wakeup_fd(self._wake_writing, warn_on_full_buffer=False)
        self._store.run(workers.register_worker(self._settings.offer))
        self.register_birth()  # type: ignore[no-untyped-call]
        # RQ does so after this only: a stop signal just after the worker said that it is ready would end it rudely.
        self._install_signal_handlers()  # type: ignore[no-untyped-call]
        self._settings.ready()
        _log.info(
            "worker ready", extra={"queue": self._settings.offer.queue, "device": self._settings.offer.device}
        )

    def check_for_suspension(self, burst: bool) -> None:
        """Nothing: `rq suspend` asks for what our own drain does, at the price of a question per job."""

    @property
    def should_run_maintenance_tasks(self) -> bool:
        """Never: RQ's registries are not used, and cleaning them could put jobs into queues again."""
        return False

    @property
    def dequeue_timeout(self) -> float:  # type: ignore[override]  # RQ counts whole seconds, Redis does not
        """Seconds in one blocking read: short enough to renew the lease in between."""
        return self._lease_s / RENEWALS_PER_LEASE

    @property
    def connection_timeout(self) -> float:  # type: ignore[override]
        """Seconds after which a blocking read counts as lost: the server's clock for it is coarse."""
        return self.dequeue_timeout + 2.0

    def dequeue_job_and_maintain_ttl(
        self, timeout: float | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue]:
        """Wait for a message that is one, however long it takes."""
        self._doing = worker_pb2.WORKER_STATE_IDLE
        self.heartbeat()
        if self._spare is None:
            self._spare = self._fork_horse()
        while True:
            self._renew_if_due()
            try:
                text = self._next_message()
                job = self.job_class(text, connection=self.connection, serializer=self.serializer)
                parse_message(job.id)
            except DequeueTimeout:
                continue
            except (redis.exceptions.RedisError, OSError) as error:
                _log.debug("the queue does not answer: %s", error)
                time.sleep(_RETRY_S)
            except (ValueError, TypeError) as error:
                _log.warning("an entry of the queue was thrown away: %s", error)
                self._forget_entries()
            else:
                return job, self.queues[0]

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run an attempt in a child and see to it that the store knows its end."""
        ref, term = parse_message(job.id)
        log = logging.LoggerAdapter(_log, {"job_id": ref.job_id, "term": term})
        horse = self._start_horse(job)
        self._horse_pid = horse.pid
        self._doing = worker_pb2.WORKER_STATE_BUSY
        self._renew_at = time.monotonic() + _FIRST_TURN_S
        self._watch(horse, job)
        self._forget_entries(job)
        status = self._bury(horse)
        self._horse_pid = 0
        log.info("attempt's process %s", processes.describe_exit(status))
        self._settings.attempt.scratch.remove(_scratch_name(ref, term))
        self._settle(job.id, ref, term, status)

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Renew the lease in our records and the worker's life in RQ's."""
        self._renew_at = time.monotonic() + self._lease_s / RENEWALS_PER_LEASE
        state = worker_pb2.WORKER_STATE_DRAINING if self._stop_requested else self._doing
        try:
            if not self._store.run(workers.renew_worker(self.name, state)):
                self._store.run(workers.register_worker(self._settings.offer))
                self._store.run(workers.renew_worker(self.name, state))
            with self.connection.pipeline() as commands:
                super().heartbeat(timeout, pipeline=commands)
                self.set_state("busy" if self._horse_pid else "idle", pipeline=commands)
                # RQ would keep the queue's set of workers for ever when this worker is killed.
                commands.expire(WORKERS_BY_QUEUE_KEY % self.queues[0].name, self.worker_ttl + 60)
                commands.execute()
        except (StoreError, redis.exceptions.RedisError, OSError) as error:
            if not self._troubled:
                _log.warning("worker's lease not renewed, tried again until it is: %s", error)
            self._troubled = True
            self._renew_at = time.monotonic() + _RETRY_S
        else:
            self._troubled = False
            name = worker_pb2.WorkerState.Name(state).removeprefix("WORKER_STATE_").lower()
            self._settings.report(Report(state=name, attempts=self._attempts))

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """On the first stop signal: take no more jobs, ask the running attempt to save and stop."""
        self._stop_requested = True
        self._stop_requested_at = time.monotonic()
        signal.signal(signal.SIGINT, self.request_force_stop)
        signal.signal(signal.SIGTERM, self.request_force_stop)
        if self._waiting:
            raise StopRequested

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        """On the second stop signal: kill what runs. The same signal sent along two ways counts once."""
        if time.monotonic() - self._stop_requested_at > _SAME_SIGNAL_S:
            self._kill_requested = True

    def teardown(self) -> None:
        """Leave: forget the worker in our records and in RQ's."""
        signal.set_wakeup_fd(-1)
        if self._spare is not None:
            self._bury(self._spare.child)
        try:
            self._store.run(workers.remove_worker(self.name))
            self.register_death()  # type: ignore[no-untyped-call]
        except (StoreError, redis.exceptions.RedisError, OSError) as error:
            _log.warning("the worker's record stays until its lease ends: %s", error)
        self._store.close()
        _log.info("worker ended")

    # The queue

    def _next_message(self) -> str:
        """The id of the next entry, which RQ moves to a list of its own until `_forget_entries`."""
        self._waiting = True
        try:
            if self._stop_requested:
                raise StopRequested
            _, entry = self.queue_class.lmove(
                self.connection,
                self.queues[0].key,
                self.dequeue_timeout,  # type: ignore[arg-type]
            )
        finally:
            self._waiting = False
        return as_text(entry)

    def _forget_entries(self, job: Job | None = None) -> None:
        """RQ's entry has done its duty once it was read; what becomes of the job is the store's."""
        keys = [self.queues[0].intermediate_queue_key]
        if job is not None:
            keys.append(job.key)
        try:
            self.connection.delete(*keys)
        except (redis.exceptions.RedisError, OSError) as error:
            _log.debug("an entry of RQ stays: %s", error)

    # The attempt

    def _fork_horse(self) -> _Horse:
        """Fork the process of the next attempt: it waits for its message, so that no job waits for the fork."""
        reading, writing = os.pipe()
        child = processes.fork_child(lambda: self._run_horse(reading, writing))
        os.close(reading)
        with suppress(OSError):
            os.setpgid(child.pid, child.pid)  # as the child does: whoever comes first
        return _Horse(child, writing)

    def _run_horse(self, reading: int, writing: int) -> int:
        os.setpgid(0, 0)
        os.close(writing)
        attempt = Attempt(self._settings.attempt)

        def run(ref: JobRef, term: int) -> None:
            log_also(job_id=ref.job_id)
            attempt.run(ref, term, _scratch_name(ref, term))

        with os.fdopen(reading) as pipe:
            message = pipe.read()
        if message:
            AttemptJob.entry_point = run
            self.job_class(message, connection=self.connection, serializer=self.serializer).perform()
        return 0

    def _start_horse(self, job: Job) -> processes.Child:
        """Hand the message to the waiting process, or to a new one if that has died."""
        while True:
            horse, self._spare = self._spare or self._fork_horse(), None
            try:
                with os.fdopen(horse.message, "w") as pipe:
                    pipe.write(job.id)
            except BrokenPipeError:
                _log.warning("the next attempt's process had died")
                self._bury(horse.child)
            else:
                return horse.child

    def _watch(self, horse: processes.Child, job: Job) -> None:
        """Wait for the attempt's end, renewing the lease and passing stop signals on."""
        poll = select.poll()
        poll.register(horse.descriptor, select.POLLIN)
        poll.register(self._wake_reading, select.POLLIN)
        told = False
        while True:
            ready = [descriptor for descriptor, _ in poll.poll(self._milliseconds_to_wait())]
            if self._wake_reading in ready:
                with suppress(BlockingIOError):
                    os.read(self._wake_reading, 4096)
            if self._stop_requested and not told:
                told = True
                os.kill(horse.pid, signal.SIGTERM)
                self._renew_at = 0.0  # the store learns at once that this worker takes no more
            if self._kill_requested or self._drain_is_over():
                processes.kill_group(horse.pid)
            if horse.descriptor in ready:
                return
            if time.monotonic() >= self._renew_at:
                self.heartbeat()
                self._forget_entries(job)

    def _milliseconds_to_wait(self) -> int:
        moments = [self._renew_at]
        if self._stop_requested:
            moments.append(self._stop_requested_at + self._settings.drain_timeout_s)
        return max(0, math.ceil((min(moments) - time.monotonic()) * 1000))

    def _drain_is_over(self) -> bool:
        waited = time.monotonic() - self._stop_requested_at
        return self._stop_requested and waited >= self._settings.drain_timeout_s

    def _bury(self, horse: processes.Child) -> int:
        """Make sure that nothing of the attempt lives, its trainer above all, before anything else happens."""
        processes.kill_group(horse.pid)
        status = horse.wait()
        if not processes.reap_group(horse.pid, _GROUP_PATIENCE_S):
            _log.error("a process of the attempt does not die; the device may still be taken")
        return status

    def _settle(self, message: str, ref: JobRef, term: int, status: int) -> None:
        """Tell the store what the attempt could not tell, and that this worker is free."""
        error = self._cause_of_death(status)
        self._attempts["lost" if error else "told"] += 1
        if error is not None:
            _log.warning("attempt lost: %s", error.message, extra={"job_id": ref.job_id})
            operation_id = new_operation_id()
            self._persist(lambda: attempts.release(ref, term, error=error, operation_id=operation_id))
        self._persist(lambda: workers.free_worker(self.name, message))

    def _cause_of_death(self, status: int) -> state_pb2.JobError | None:
        if status == 0:
            return None
        if self._stop_requested and status == -signal.SIGKILL:
            return failures.drained(saved=False)
        if status == FENCED_ITSELF:
            return failures.lease_lost(self._store_settings.lease_s)
        return failures.attempt_died(status)

    def _persist(self, operation: Callable[[], Operation[Result]]) -> None:
        """Carry an operation out as soon as the store answers; a worker that is told to stop tries once."""
        while True:
            try:
                self._store.run(operation())
            except (JobNotFound, TransitionRefused):
                return  # nobody needs to know any more
            except StoreError as error:
                if self._stop_requested:
                    _log.warning("the store was not told of the attempt's end: %s", error)
                    return
                time.sleep(_RETRY_S)
                self._renew_if_due()
            else:
                return

    # The lease

    def _renew_if_due(self) -> None:
        if time.monotonic() >= self._renew_at:
            self.heartbeat()


def _scratch_name(ref: JobRef, term: int) -> str:
    return f"{ref.tenant}.{ref.job_id}.{term}"
