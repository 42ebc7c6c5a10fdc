"""What the holder of a job may do, always checked against its term: a stale one is FENCED and changes nothing."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from gradsight.v1 import artifact_pb2, event_pb2, state_pb2
from gradsight_store import keys, rules, scripts
from gradsight_store.commits import OPERATIONS_REMEMBERED, Outcome, Rule, change, lease_ms
from gradsight_store.errors import JobNotFound
from gradsight_store.findings import read_kept
from gradsight_store.operations import Answer, Argument, JobRef, Operation, Pipeline, read_settings
from gradsight_store.projection import JobProjection
from gradsight_store.records import Changed
from gradsight_store.v1 import record_pb2


@dataclass(frozen=True)
class Claim:
    """An attempt that may start. FENCED: it may not; the message is stale.

    `record.job` carries the figures of earlier attempts, `findings` what they found.
    """

    answer: Answer
    record: record_pb2.JobRecord
    attempt: int
    resumed_at_step: int
    findings: Sequence[record_pb2.KeptFinding] = ()


@dataclass(frozen=True)
class Renewal:
    """FENCED: the lease is gone. Else what the holder is asked to do, a `DesiredState`."""

    answer: Answer
    desired_state: int


@dataclass(frozen=True)
class Appended:
    """Sequence of the job's newest event; what the holder is asked to do comes with it, as in a renewal."""

    answer: Answer
    last_sequence: int
    desired_state: int


def claim(ref: JobRef, term: int, *, worker_id: str, device: str, operation_id: str) -> Operation[Claim]:
    """Start the attempt that was assigned: QUEUED becomes RUNNING and the lease begins.

    Raises:
        JobNotFound: There is no such job.
    """

    def rule(record: record_pb2.JobRecord, now_ms: int) -> rules.Verdict:
        return rules.claim(record, now_ms, term=term, worker_id=worker_id, device=device)

    outcome = yield from change(ref, rule, operation_id=operation_id)
    record = record_pb2.JobRecord()
    record.CopyFrom(outcome.stored.record)
    record.job.CopyFrom(outcome.stored.job())
    number = len(record.job.attempts)
    resumed_at_step = record.job.attempts[-1].resumed_at_step if number else 0
    # Only now: the term before this one can write no more. A first attempt has nothing to read.
    kept = (yield from read_kept(ref)) if number > 1 and outcome.answer is not Answer.FENCED else []
    return Claim(outcome.answer, record, number, resumed_at_step, kept)


def renew_lease(ref: JobRef, term: int) -> Operation[Renewal]:
    """Keep the job for another lease, counted from now on the server's clock.

    Raises:
        JobNotFound: There is no such job.
    """
    settings = yield from read_settings()
    arguments: list[Argument] = [term, lease_ms(settings), keys.member(ref)]
    (reply,) = yield Pipeline([scripts.call("renew_lease", [keys.job(ref), keys.LEASES], arguments)])
    return Renewal(_answer(ref, reply[0]), int(reply[1]))


def append_events(
    ref: JobRef,
    term: int,
    events: Sequence[event_pb2.JobEvent],
    projection: JobProjection,
    *,
    operation_id: str,
) -> Operation[Appended]:
    """Append facts to the job's log and replace its figures and findings, all or nothing.

    Sequence, time and attempt of the events are given by the store; the caller leaves them unset.

    Raises:
        JobNotFound: There is no such job.
    """
    settings = yield from read_settings()
    findings = projection.findings.unsent()
    arguments: list[Argument] = [
        operation_id,
        OPERATIONS_REMEMBERED,
        term,
        projection.job.SerializeToString(),
        settings.log_max_events,
        settings.log_max_bytes,
        keys.member(ref),
        len(findings),
        *(argument for finding in findings.items() for argument in finding),
        *(event.SerializeToString() for event in events),
    ]
    job_keys = [keys.job(ref), keys.operations(ref), keys.events(ref), keys.OVERLONG, keys.findings(ref)]
    (reply,) = yield Pipeline([scripts.call("append", job_keys, arguments)])
    appended = Appended(_answer(ref, reply[0]), int(reply[1]), int(reply[2]))
    if appended.answer is not Answer.FENCED:
        projection.findings.note_sent(findings)
    return appended


def record_checkpoint(
    ref: JobRef, term: int, artifact: artifact_pb2.Artifact, seconds: float, *, operation_id: str
) -> Operation[Changed]:
    """Make a stored file the checkpoint to resume from; the spec's `checkpoint.keep` newest stay.

    Args:
        ref: The job.
        term: The caller's.
        artifact: The file, kind CHECKPOINT, `step` set.
        seconds: Time that saving took from the training.
        operation_id: Knows this call again.

    Raises:
        JobNotFound: There is no such job.
    """

    def rule(record: record_pb2.JobRecord, now_ms: int) -> rules.Verdict:
        return rules.checkpoint(record, now_ms, term=term, artifact=artifact, seconds=seconds)

    return (yield from _changed(ref, rule, operation_id))


def rewind(
    ref: JobRef, term: int, *, step: int, reason: str, unusable: Collection[str], operation_id: str
) -> Operation[Changed]:
    """Say that the running attempt begins at another step, and let go of checkpoints that cannot be used.

    Args:
        ref: The job.
        term: The caller's.
        step: Optimizer steps that are done, in place of the claim's.
        reason: Why, for people.
        unusable: Digests of the checkpoints.
        operation_id: Knows this call again.

    Raises:
        JobNotFound: There is no such job.
    """

    def rule(record: record_pb2.JobRecord, now_ms: int) -> rules.Verdict:
        return rules.rewind(record, now_ms, term=term, step=step, reason=reason, unusable=unusable)

    return (yield from _changed(ref, rule, operation_id))


def finish(
    ref: JobRef,
    term: int,
    *,
    state: int,
    error: state_pb2.JobError | None = None,
    result: Sequence[artifact_pb2.Artifact] = (),
    operation_id: str,
) -> Operation[Changed]:
    """End the job and free the worker's slot.

    Args:
        ref: The job.
        term: The caller's.
        state: SUCCEEDED, FAILED or CANCELLED. A job that was asked to cancel ends CANCELLED whatever is said here:
            look at the answer's job.
        error: Why it failed; exactly when FAILED.
        result: Files of the result, when SUCCEEDED.
        operation_id: Knows this call again.

    Raises:
        JobNotFound: There is no such job.
        ValueError: State and error do not fit.
    """

    def rule(record: record_pb2.JobRecord, now_ms: int) -> rules.Verdict:
        return rules.finish(record, now_ms, term=term, state=state, error=error, result=result)

    return (yield from _changed(ref, rule, operation_id))


def release(ref: JobRef, term: int, *, error: state_pb2.JobError, operation_id: str) -> Operation[Changed]:
    """Give the job back and free the worker's slot: QUEUED again, or FAILED when the budget of losses is used up.

    The reason WORKER_DRAINED uses no budget.

    Raises:
        JobNotFound: There is no such job.
    """

    def rule(record: record_pb2.JobRecord, now_ms: int) -> rules.Verdict:
        return rules.release(record, now_ms, term=term, error=error)

    return (yield from _changed(ref, rule, operation_id))


def _changed(ref: JobRef, rule: Rule, operation_id: str) -> Operation[Changed]:
    before: list[artifact_pb2.Artifact] = []

    def remembering(record: record_pb2.JobRecord, now_ms: int) -> rules.Verdict:
        before[:] = record.checkpoints
        return rule(record, now_ms)

    outcome: Outcome = yield from change(ref, remembering, operation_id=operation_id)
    kept = {checkpoint.digest for checkpoint in outcome.stored.record.checkpoints}
    dropped = tuple(checkpoint for checkpoint in before if checkpoint.digest not in kept)
    return Changed(outcome.answer, outcome.stored.job(), dropped)


def _answer(ref: JobRef, what: bytes) -> Answer:
    if what == b"unknown":
        raise JobNotFound(ref.job_id)
    return {b"applied": Answer.APPLIED, b"already": Answer.ALREADY_APPLIED, b"fenced": Answer.FENCED}[what]
