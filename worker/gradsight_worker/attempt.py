"""One try of a job, in a process of its own: claims it, keeps the lease, forks the trainer and tells the store.

`Attempt.run` is the story. One thread waits for the trainer's messages, its end, file transfers, a signal and the
next deadline; whatever could take long happens in a child, so that nothing delays the lease.
"""

import logging
import os
import selectors
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gradsight.v1 import artifact_pb2, event_pb2, state_pb2
from gradsight_store import attempts
from gradsight_store.errors import JobNotFound, StoreFull, StoreUnavailable
from gradsight_store.operations import Answer, JobRef, new_operation_id
from gradsight_store.projection import JobProjection, apply_event
from gradsight_store.records import Changed
from gradsight_store.settings import StoreSettings
from gradsight_store.store import Store
from gradsight_store.v1 import record_pb2
from gradsight_worker import failures, inputs, processes
from gradsight_worker.deliveries import Deliveries
from gradsight_worker.devices import Device
from gradsight_worker.errand import Errand, ErrandFailed
from gradsight_worker.lease import Lease
from gradsight_worker.outbox import MOST_BYTES, Fenced, Outbox, Write
from gradsight_worker.scratch import Scratch
from gradsight_worker.trainer_process import Rehearse, RunTrainer, WaitingTrainer
from gradsight_worker.training.channel import (
    AttemptChannel,
    CheckpointMessage,
    Command,
    EventMessage,
    FailureMessage,
    Message,
    ResultMessage,
    RewoundMessage,
)
from gradsight_worker.training.plan import ExitStatus, TrainingPlan

_HURRY_S = 0.1

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AttemptSettings:
    """What every attempt of a worker shares. Durations are in seconds."""

    store: StoreSettings
    artifacts: str
    """Directory or fsspec URL."""
    worker_id: str
    device: Device
    scratch: Scratch
    run_trainer: RunTrainer
    rehearse: Rehearse | None = None
    threads: int | None = None
    """CPU threads of a trainer whose job does not say. None: torch's choice."""
    stall_timeout_s: float = 300.0
    """A trainer that says nothing for this long is killed."""
    drain_s: float = 50.0
    """A trainer that was asked to stop and has not after this long is killed."""
    data_memory_bytes: int = 1 << 30
    """Most memory of a trainer for encoded rows."""
    memory_limit_bytes: int | None = None
    """Address space of the trainer. Not for CUDA, which reserves far more than it uses."""


class Attempt:
    """A try of one job. Runs once, in the main thread of a process that forks.

    Made before there is a job, together with the trainer's process, which waits likewise.
    """

    def __init__(self, settings: AttemptSettings) -> None:
        self._settings = settings
        self._waiting_trainer = self._new_trainer()
        self._store = Store.open(settings.store)
        self._selector = selectors.DefaultSelector()
        self._trainer: processes.Child | None = None
        self._channel: AttemptChannel | None = None
        self._heard_at: float | None = None  # None while nothing is expected of the trainer
        self._stop_signalled = False
        self._drain_deadline: float | None = None
        self._timeout_at: float | None = None
        self._closing = False
        self._over = False

    def run(self, ref: JobRef, term: int, name: str) -> None:
        """Make the attempt. When it returns, the store knows how it ended or somebody else has the job.

        Args:
            ref: The job.
            term: The term in which the job was assigned.
            name: Name for the attempt's directory.
        """
        self._ref, self._term, self._name = ref, term, name
        self._watch_signals()
        if not self._claim():
            return
        try:
            self._bring_inputs()
            while not self._over:
                self._turn()
        except Fenced as error:
            _log.warning("attempt given up: %s", error)
        finally:
            self._lease.end()
            self._kill_trainer()
            self._files.close()

    def _turn(self) -> None:
        """Wait for the next thing to happen and deal with it."""
        for key, _ in self._selector.select(max(0.0, self._next_time() - time.monotonic())):
            key.data()
        now = time.monotonic()
        self._obey(self._lease.renew_if_due(now))
        self._check_deadlines(now)
        self._outbox.send(now)
        self._obey(self._outbox.desired_state)
        self._listen_or_not(now)

    def _next_time(self) -> float:
        times = (
            self._lease.renew_at,
            self._outbox.due(),
            self._stall_at(),
            self._drain_deadline,
            self._timeout_at,
        )
        return min(moment for moment in times if moment is not None)

    # Beginning

    def _claim(self) -> bool:
        """Take the job. False: it is not ours to take."""
        operation_id = new_operation_id()
        patience = time.monotonic() + self._settings.store.lease_s
        while True:
            sent_at = time.monotonic()
            try:
                claim = self._store.run(
                    attempts.claim(
                        self._ref,
                        self._term,
                        worker_id=self._settings.worker_id,
                        device=self._settings.device.name,
                        operation_id=operation_id,
                    )
                )
                break
            except JobNotFound as error:
                _log.warning("not claimed: %s", error)
                return False
            except (StoreUnavailable, StoreFull):
                if sent_at > patience:
                    return False
                time.sleep(_HURRY_S)
        if claim.answer is Answer.FENCED:
            _log.info("not claimed: the term is over, or the message was a copy")
            return False
        self._begin(claim, sent_at)
        return True

    def _begin(self, claim: attempts.Claim, claimed_at: float) -> None:
        self._record, self._number = claim.record, claim.attempt
        figures = JobProjection(claim.record.job, claim.findings)
        started = event_pb2.AttemptStarted(resumed_at_step=claim.resumed_at_step)  # the store has told of it
        apply_event(figures, event_pb2.JobEvent(attempt_started=started))
        self._outbox = Outbox(self._store, self._ref, self._term, figures)
        self._files = Deliveries(
            self._settings.artifacts, self._ref, self._term, self._selector, self._outbox
        )
        self._lease = Lease(
            self._store,
            self._ref,
            self._term,
            lease_s=self._settings.store.lease_s,
            claimed_at=claimed_at,
            last_act=self._kill_trainer,
        )
        self._set_timeout(claim.record, claimed_at)
        _log.info("claimed", extra={"attempt": claim.attempt, "resumed_at_step": claim.resumed_at_step})
        self._obey(claim.record.desired_state)

    def _set_timeout(self, record: record_pb2.JobRecord, claimed_at: float) -> None:
        """Turn the job's timeout, counted from its first attempt, into this process's clock."""
        if record.job.spec.budget.HasField("timeout"):
            this_start = record.job.attempts[-1].start_time.ToMicroseconds()
            elapsed = (this_start - record.job.start_time.ToMicroseconds()) / 1e6  # both on the store's clock
            self._timeout_at = claimed_at + record.job.spec.budget.timeout.ToMicroseconds() / 1e6 - elapsed

    def _bring_inputs(self) -> None:
        directory = self._settings.scratch.make(self._name)
        if self._closing:
            return
        try:
            wanted = self._look_up()
            target, address = directory / "inputs", self._settings.artifacts
            if wanted.is_quick(address):
                self._start_trainer(inputs.inputs_from(inputs.gather(address, wanted, target)), directory)
                return
        except inputs.InputUnavailable as error:
            self._finish(state_pb2.JOB_STATE_FAILED, error.error)
            return
        self._files.transfers.add(
            lambda: inputs.gather(address, wanted, target),
            lambda errand: self._inputs_came(errand, directory),
        )

    def _look_up(self) -> inputs.Wanted:
        while True:
            try:
                return inputs.look_up(self._store, self._ref, self._record)
            except StoreUnavailable:
                time.sleep(_HURRY_S)  # until the store is back, or the lease's alarm goes off
                self._lease.renew_if_due(time.monotonic())

    def _inputs_came(self, errand: Errand, directory: Path) -> None:
        try:
            self._start_trainer(inputs.inputs_from(errand.result()), directory)
        except inputs.InputUnavailable as error:
            self._finish(state_pb2.JOB_STATE_FAILED, error.error)
        except ErrandFailed as error:
            self._storage_failed(str(error))

    # The trainer

    def _start_trainer(self, files: inputs.Inputs, directory: Path) -> None:
        if files.unusable:
            self._pass_over(files)
        self._checkpoints = {checkpoint.path: checkpoint.digest for checkpoint in files.checkpoints}
        spec = self._record.job.spec
        own_threads = spec.resources.HasField("threads")
        plan = TrainingPlan(
            job_id=self._ref.job_id,
            attempt=self._number,
            spec=spec,
            device=self._settings.device.trainer_name,
            directory=directory,
            train=files.data["train"],
            validation=files.data.get("validation"),
            test=files.data.get("test"),
            baseline=files.results.get(inputs.BASELINE),
            graph=files.program.get("graph"),
            weights=files.program.get("weights"),
            extended=files.extended,
            start_weights=files.results.get(inputs.START),
            checkpoints=tuple(self._checkpoints),
            data_memory_bytes=self._settings.data_memory_bytes,
            threads=spec.resources.threads if own_threads else self._settings.threads,
        )
        if self._waiting_trainer.child.ended():  # killed while it waited: that is nobody's loss
            self._waiting_trainer.dismiss()
            self._waiting_trainer = self._new_trainer()
        self._memory_kills_before = processes.count_memory_kills()
        self._trainer = self._waiting_trainer.child
        self._channel = self._waiting_trainer.start(plan)
        self._heard_at = time.monotonic()
        self._selector.register(self._channel, selectors.EVENT_READ, self._receive)
        self._selector.register(self._trainer.descriptor, selectors.EVENT_READ, self._trainer_ended)
        _log.info("trainer started", extra={"trainer": self._trainer.pid})

    def _new_trainer(self) -> WaitingTrainer:
        settings = self._settings
        return WaitingTrainer(settings.run_trainer, settings.rehearse, settings.memory_limit_bytes)

    def _receive(self) -> None:
        assert self._channel is not None
        try:
            for message in self._channel.receive():
                self._heard_at = time.monotonic()
                self._take(message)
        except ValueError as error:
            self._finish(
                state_pb2.JOB_STATE_FAILED,
                failures.internal(f"the trainer's words: {error}", retryable=False),
            )
        if self._channel.closed:
            self._stop_listening()

    def _take(self, message: Message) -> None:
        if self._closing:
            return
        match message:
            case EventMessage():
                self._outbox.add(message.event)
            case CheckpointMessage():
                self._files.checkpoint(message)
            case RewoundMessage():
                digests = [self._checkpoints[path] for path in message.unusable]
                self._files.rewind(message.step, message.reason, digests)
            case ResultMessage():
                self._heard_at = None
                self._files.result(message.files, self._result_stored, self._storage_failed)
            case FailureMessage():
                self._finish(state_pb2.JOB_STATE_FAILED, message.error)

    def _trainer_ended(self) -> None:
        """Name the cause of death, unless the trainer had said its last word."""
        assert self._trainer is not None
        self._receive()
        self._stop_listening()
        self._selector.unregister(self._trainer.descriptor)
        status, peak_bytes = self._trainer.wait_measured()
        self._trainer = None
        if self._closing or self._heard_at is None:
            return
        self._heard_at = None
        if status == ExitStatus.STOPPED and self._drain_deadline is not None:
            self._release(failures.drained(saved=True), after_files=True)
            return
        memory_kills = processes.count_memory_kills() - self._memory_kills_before
        error = failures.trainer_died(status, memory_kills, peak_bytes)
        _log.warning("trainer died: %s", error.message)
        if error.retryable:
            self._release(error, after_files=True)
        else:
            self._finish(state_pb2.JOB_STATE_FAILED, error)

    def _kill_trainer(self) -> None:
        if self._trainer is not None:
            self._trainer.kill()

    def _listen_or_not(self, now: float) -> None:
        """Stop reading when too much waits for the store: then the trainer's own outbox fills, and drops."""
        if self._channel is None or self._channel.closed:
            return
        listening = self._channel in self._selector.get_map()
        if self._outbox.waiting_bytes > MOST_BYTES:
            if listening:
                self._selector.unregister(self._channel)
        elif not listening and not self._closing:
            self._selector.register(self._channel, selectors.EVENT_READ, self._receive)
            if self._heard_at is not None:
                self._heard_at = now

    def _stop_listening(self) -> None:
        if self._channel is not None and self._channel in self._selector.get_map():
            self._selector.unregister(self._channel)

    # Ending

    def _obey(self, desired_state: int) -> None:
        if desired_state == record_pb2.DESIRED_STATE_CANCELLED:
            self._finish(state_pb2.JOB_STATE_CANCELLED)
        elif desired_state == record_pb2.DESIRED_STATE_DRAINED or self._stop_signalled:
            self._drain()

    def _drain(self) -> None:
        """Ask the trainer to save its state and stop; without a trainer, give the job back at once."""
        if self._drain_deadline is not None or self._closing:
            return
        self._drain_deadline = time.monotonic() + self._settings.drain_s
        if self._channel is None:
            self._release(failures.drained(saved=False))
        else:
            self._channel.send_command(Command.STOP_AFTER_CHECKPOINT)

    def _stall_at(self) -> float | None:
        return None if self._heard_at is None else self._heard_at + self._settings.stall_timeout_s

    def _check_deadlines(self, now: float) -> None:
        stall_at = self._stall_at()
        if self._drain_deadline is not None and now >= self._drain_deadline:
            self._drain_deadline = None
            self._files.transfers.drop()
            self._release(failures.drained(saved=False))
        elif self._timeout_at is not None and now >= self._timeout_at:
            self._timeout_at = None
            self._finish(state_pb2.JOB_STATE_FAILED, failures.timed_out(self._record.job.spec.budget.timeout))
        elif stall_at is not None and now >= stall_at:
            self._heard_at = None
            self._release(failures.stalled(self._settings.stall_timeout_s))

    def _pass_over(self, files: inputs.Inputs) -> None:
        """Some checkpoints are lost: the next older one counts, or else what the job began with."""
        earliest = self._record.extended.step
        step = files.checkpoints[0].step if files.checkpoints else earliest
        reason = "; ".join(lost.reason for lost in files.unusable)
        _log.warning("begins at step %d: %s", step, reason)
        self._files.rewind(step, reason, [lost.digest for lost in files.unusable])

    def _result_stored(self, result: list[artifact_pb2.Artifact]) -> None:
        directory = self._settings.scratch.directory / self._name
        self._files.history(
            self._settings.store, directory, lambda history: self._succeed([*result, *history])
        )

    def _succeed(self, result: list[artifact_pb2.Artifact]) -> None:
        self._finish(state_pb2.JOB_STATE_SUCCEEDED, result=result)

    def _storage_failed(self, problem: str) -> None:
        self._release(failures.storage_failed(problem))

    def _finish(
        self,
        state: state_pb2.JobState.ValueType,
        error: state_pb2.JobError | None = None,
        result: list[artifact_pb2.Artifact] | None = None,
    ) -> None:
        operation_id = new_operation_id()
        write = Write(
            operation=lambda: attempts.finish(
                self._ref,
                self._term,
                state=state,
                error=error,
                result=result or (),
                operation_id=operation_id,
            ),
            applied=self._ended,
        )
        self._close(write, after_files=False)

    def _release(self, error: state_pb2.JobError, *, after_files: bool = False) -> None:
        operation_id = new_operation_id()
        write = Write(
            operation=lambda: attempts.release(self._ref, self._term, error=error, operation_id=operation_id),
            applied=self._ended,
        )
        self._close(write, after_files=after_files)

    def _close(self, write: Write, *, after_files: bool) -> None:
        """Say the last word about the attempt, once; after the files on their way, or instead of them."""
        if self._closing:
            return
        self._closing = True
        self._heard_at = None
        self._stop_listening()
        self._kill_trainer()
        if not after_files:
            self._files.transfers.drop()
        self._files.transfers.when_idle(lambda: self._outbox.add(write))

    def _ended(self, changed: Changed) -> None:
        self._over = True
        self._files.let_go(changed)
        _log.info("attempt over", extra={"state": state_pb2.JobState.Name(changed.job.state)})

    # Signals and words

    def _watch_signals(self) -> None:
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._on_stop_signal)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self._selector.register(reading, selectors.EVENT_READ, lambda: _empty(reading))
        processes.unblock_signals()

    def _on_stop_signal(self, *_: object) -> None:
        self._stop_signalled = True


def _empty(descriptor: int) -> None:
    with suppress(BlockingIOError):
        os.read(descriptor, 4096)
