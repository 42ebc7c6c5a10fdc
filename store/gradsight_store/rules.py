"""The rules by which a job changes: pure functions from a record, a command and the time to a decision.

Every function takes the record as it is (and leaves it untouched) and the server's clock in milliseconds. It
returns a `Decision`, the changed record and the events that tell of it, or says why nothing changes:
`Answer.FENCED` when the caller may not (any more), `Answer.ALREADY_APPLIED` when what it wants is already so.
Which indexes the change touches follows from the two records alone: `placements.py`.

```
            create          assign, claim
              │      ┌────────────────────────┐
              ▼      │                        ▼
            QUEUED ──┘  ◀── lose, release ── RUNNING ── finish ──▶ SUCCEEDED | FAILED | CANCELLED
              │                               │ cancel                          ▲
              │ cancel                        ▼                                 │
              └──▶ CANCELLED              CANCELLING ─── finish, lose, release ─┘ (always CANCELLED)
```
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from gradsight.v1 import artifact_pb2, event_pb2, job_pb2, spec_pb2, state_pb2
from gradsight_store.errors import TransitionRefused
from gradsight_store.operations import Answer
from gradsight_store.v1 import record_pb2

TERMINAL = frozenset(
    {state_pb2.JOB_STATE_SUCCEEDED, state_pb2.JOB_STATE_FAILED, state_pb2.JOB_STATE_CANCELLED}
)
HELD = frozenset({state_pb2.JOB_STATE_RUNNING, state_pb2.JOB_STATE_PAUSING, state_pb2.JOB_STATE_CANCELLING})
"""States in which an attempt holds the job."""
DEFAULT_CHECKPOINTS_KEPT = 2


@dataclass(frozen=True)
class Decision:
    """A changed record and what to tell of the change, oldest first."""

    record: record_pb2.JobRecord
    events: Sequence[event_pb2.JobEvent] = ()


Verdict = Decision | Answer


@dataclass(frozen=True, kw_only=True)
class LossBudget:
    """How often a job may be lost before it fails, and how long it backs off in between."""

    max_losses: int = 10
    """Losses to infrastructure in all; one whose attempt advanced the checkpoint does not count."""
    max_losses_at_step: int = 3
    """Losses in a row with the same newest checkpoint: the job itself is the likely cause."""
    first_back_off_ms: int = 500
    """Back-off after the second counted loss; doubles with each. The first is tried again at once."""
    max_back_off_ms: int = 30_000

    def back_off_ms(self, losses: int) -> int:
        """Time to wait after the given number of counted losses."""
        return 0 if losses < 2 else min(self.max_back_off_ms, self.first_back_off_ms << min(losses - 2, 16))


LOSS_BUDGET = LossBudget()


def create(
    tenant: str,
    job_id: str,
    spec: spec_pb2.JobSpec,
    request_digest: str,
    extended: artifact_pb2.Artifact | None = None,
) -> Decision:
    """A new job waits. The store fills in the time, which nobody else knows in the same round trip.

    `extended` is the last training state of the job that this one goes on with.
    """
    record = record_pb2.JobRecord(
        job=job_pb2.Job(job_id=job_id, tenant=tenant, spec=spec), request_digest=request_digest
    )
    if extended is not None:
        record.extended.CopyFrom(extended)
    return _moved(record, state_pb2.JOB_STATE_QUEUED)


def cancel(record: record_pb2.JobRecord, now_ms: int) -> Verdict:
    """A waiting job ends at once; a held one is asked to end.

    Raises:
        TransitionRefused: The job has already succeeded or failed.
    """
    state = record.job.state
    if state in (state_pb2.JOB_STATE_CANCELLING, state_pb2.JOB_STATE_CANCELLED):
        return Answer.ALREADY_APPLIED
    if state in TERMINAL:
        name = state_pb2.JobState.Name(state).removeprefix("JOB_STATE_")
        raise TransitionRefused(state, f"job {record.job.job_id} is {name} and cannot be cancelled any more")
    changed = _copy(record)
    if state in HELD:
        changed.desired_state = record_pb2.DESIRED_STATE_CANCELLED
        return _moved(changed, state_pb2.JOB_STATE_CANCELLING)
    return _ended(changed, now_ms, state_pb2.JOB_STATE_CANCELLED)


def assign(record: record_pb2.JobRecord, now_ms: int, *, worker_id: str, deadline_ms: int) -> Verdict:
    """Hand a job that could start now to a worker, which has until `deadline_ms` to claim it."""
    if record.job.state != state_pb2.JOB_STATE_QUEUED or record.worker_id or record.not_before_ms > now_ms:
        return Answer.FENCED
    changed = _copy(record)
    changed.term += 1
    changed.worker_id = worker_id
    changed.assignment_deadline_ms = deadline_ms
    changed.not_before_ms = 0
    return Decision(changed)


def lapse(record: record_pb2.JobRecord, now_ms: int) -> Verdict:
    """Take back an assignment that was not claimed in time."""
    if (
        record.job.state != state_pb2.JOB_STATE_QUEUED
        or not record.worker_id
        or record.assignment_deadline_ms > now_ms
    ):
        return Answer.FENCED
    changed = _copy(record)
    changed.term += 1
    changed.avoided_worker_id = record.worker_id
    _vacate(changed)
    return Decision(changed)


def claim(record: record_pb2.JobRecord, now_ms: int, *, term: int, worker_id: str, device: str) -> Verdict:
    """Start the attempt that was assigned in this term to this worker."""
    if (
        record.job.state != state_pb2.JOB_STATE_QUEUED
        or record.term != term
        or record.worker_id != worker_id
        or not worker_id
    ):
        return Answer.FENCED
    changed = _copy(record)
    changed.assignment_deadline_ms = 0
    attempt = changed.job.attempts.add(
        number=len(record.job.attempts) + 1,
        worker_id=worker_id,
        device=device,
        resumed_at_step=newest_checkpoint_step(record),
    )
    attempt.start_time.FromMilliseconds(now_ms)
    if not changed.job.HasField("start_time"):
        changed.job.start_time.FromMilliseconds(now_ms)
    started = event_pb2.AttemptStarted(
        worker_id=worker_id, device=device, resumed_at_step=attempt.resumed_at_step
    )
    moved = _moved(changed, state_pb2.JOB_STATE_RUNNING)
    return Decision(changed, [*moved.events, event_pb2.JobEvent(attempt_started=started)])


def checkpoint(
    record: record_pb2.JobRecord,
    now_ms: int,
    *,
    term: int,
    artifact: artifact_pb2.Artifact,
    seconds: float,
) -> Verdict:
    """Resume from this file from now on; the oldest beyond the spec's `checkpoint.keep` are let go."""
    if not _holds(record, term):
        return Answer.FENCED
    changed = _copy(record)
    kept = record.job.spec.checkpoint.keep or DEFAULT_CHECKPOINTS_KEPT
    older = [known for known in record.checkpoints if known.digest != artifact.digest]
    del changed.checkpoints[:]
    changed.checkpoints.extend([artifact, *older][:kept])
    saved = event_pb2.CheckpointSaved(step=artifact.step, artifact=artifact, seconds=seconds)
    return Decision(changed, [event_pb2.JobEvent(checkpoint_saved=saved)])


def rewind(
    record: record_pb2.JobRecord,
    now_ms: int,
    *,
    term: int,
    step: int,
    reason: str,
    unusable: Collection[str],
) -> Verdict:
    """The attempt begins at another step than it said: no later one shall try the checkpoints of these digests."""
    if not _holds(record, term):
        return Answer.FENCED
    changed = _copy(record)
    del changed.checkpoints[:]
    changed.checkpoints.extend(known for known in record.checkpoints if known.digest not in unusable)
    changed.job.attempts[-1].resumed_at_step = step
    rewound = event_pb2.AttemptRewound(resumed_at_step=step, message=reason)
    return Decision(changed, [event_pb2.JobEvent(attempt_rewound=rewound)])


def finish(
    record: record_pb2.JobRecord,
    now_ms: int,
    *,
    term: int,
    state: int,
    error: state_pb2.JobError | None = None,
    result: Sequence[artifact_pb2.Artifact] = (),
) -> Verdict:
    """End the job. Once it was asked to cancel, it ends CANCELLED: that is what its owner was told.

    Of the checkpoints of a job that succeeded the newest stays: another job may extend it.

    Raises:
        ValueError: The state is not terminal, or FAILED comes without an error, or SUCCEEDED with one.
    """
    if state not in TERMINAL or (state == state_pb2.JOB_STATE_FAILED) != (error is not None):
        raise ValueError("finish: got a state that does not fit, allowed: FAILED with an error, else without")
    if not _holds(record, term):
        return Answer.FENCED
    changed = _copy(record)
    if record.job.state == state_pb2.JOB_STATE_CANCELLING:
        return _ended(changed, now_ms, state_pb2.JOB_STATE_CANCELLED)
    if state == state_pb2.JOB_STATE_SUCCEEDED:
        changed.job.result.extend(result)
        del changed.checkpoints[1:]
    return _ended(changed, now_ms, state, error)


def release(
    record: record_pb2.JobRecord,
    now_ms: int,
    *,
    term: int,
    error: state_pb2.JobError,
    budget: LossBudget = LOSS_BUDGET,
) -> Verdict:
    """The holder gives the job back: drained, or its trainer is lost."""
    if not _holds(record, term):
        return Answer.FENCED
    return _lost(record, now_ms, error, budget)


def lose(
    record: record_pb2.JobRecord, now_ms: int, *, error: state_pb2.JobError, budget: LossBudget = LOSS_BUDGET
) -> Verdict:
    """The lease has run out: whoever held the job holds it no more."""
    if record.job.state not in HELD:
        return Answer.FENCED
    return _lost(record, now_ms, error, budget)


def wake(record: record_pb2.JobRecord, now_ms: int) -> Verdict:
    """End a back-off whose time has come."""
    if (
        record.job.state != state_pb2.JOB_STATE_QUEUED
        or not record.not_before_ms
        or record.not_before_ms > now_ms
    ):
        return Answer.FENCED
    changed = _copy(record)
    changed.not_before_ms = 0
    return Decision(changed)


def shorten_log(record: record_pb2.JobRecord, now_ms: int, *, segment: record_pb2.LogSegment) -> Verdict:
    """Note that a prefix of the log, starting where the last segment ended, is a segment now."""
    end = record.segments[-1].last_sequence if record.segments else 0
    if segment.first_sequence != end + 1:
        return Answer.FENCED
    changed = _copy(record)
    changed.segments.append(segment)
    return Decision(changed)


def newest_checkpoint_step(record: record_pb2.JobRecord) -> int:
    """Optimizer steps that a new attempt need not repeat."""
    return record.checkpoints[0].step if record.checkpoints else record.extended.step


def _lost(
    record: record_pb2.JobRecord, now_ms: int, error: state_pb2.JobError, budget: LossBudget
) -> Decision:
    changed = _copy(record)
    if record.job.state == state_pb2.JOB_STATE_CANCELLING:
        return _ended(changed, now_ms, state_pb2.JOB_STATE_CANCELLED)
    if error.reason != state_pb2.JOB_ERROR_REASON_WORKER_DRAINED:
        _count_loss(changed)
        if failure := _exhausted(changed, error, budget):
            return _ended(changed, now_ms, state_pb2.JOB_STATE_FAILED, failure, attempt_error=error)
        back_off = budget.back_off_ms(changed.losses)
        changed.not_before_ms = now_ms + back_off if back_off else 0
    _end_attempt(changed, now_ms, error)
    changed.term += 1
    changed.avoided_worker_id = record.worker_id
    changed.waiting_since_ms = now_ms
    _vacate(changed)
    return _moved(changed, state_pb2.JOB_STATE_QUEUED, error)


def _count_loss(changed: record_pb2.JobRecord) -> None:
    step = newest_checkpoint_step(changed)
    advanced = step > changed.job.attempts[-1].resumed_at_step
    changed.losses += 0 if advanced else 1
    again = changed.losses_at_step > 0 and step == changed.last_loss_step
    changed.losses_at_step = changed.losses_at_step + 1 if again else 1
    changed.last_loss_step = step


def _exhausted(
    changed: record_pb2.JobRecord, error: state_pb2.JobError, budget: LossBudget
) -> state_pb2.JobError | None:
    if changed.losses_at_step >= budget.max_losses_at_step:
        fault = state_pb2.FAULT_UNKNOWN
        times = f"{changed.losses_at_step} times in a row after step {changed.last_loss_step}"
    elif changed.losses > budget.max_losses:
        fault = state_pb2.FAULT_INFRA
        times = f"{changed.losses} times, {budget.max_losses} are allowed"
    else:
        return None
    return state_pb2.JobError(
        reason=state_pb2.JOB_ERROR_REASON_TOO_MANY_LOSSES,
        fault=fault,
        message=f"the job was lost {times}; the last time: {error.message or 'no reason is known'}",
    )


def _ended(
    changed: record_pb2.JobRecord,
    now_ms: int,
    state: int,
    error: state_pb2.JobError | None = None,
    attempt_error: state_pb2.JobError | None = None,
) -> Decision:
    _end_attempt(changed, now_ms, attempt_error or error)
    changed.term += 1
    changed.desired_state = record_pb2.DESIRED_STATE_UNSPECIFIED
    changed.not_before_ms = 0
    _vacate(changed)
    changed.job.done = True
    changed.job.end_time.FromMilliseconds(now_ms)
    if error is not None:
        changed.job.error.CopyFrom(error)
    return _moved(changed, state, error)


def _end_attempt(changed: record_pb2.JobRecord, now_ms: int, error: state_pb2.JobError | None) -> None:
    if changed.job.state in HELD:
        attempt = changed.job.attempts[-1]
        attempt.end_time.FromMilliseconds(now_ms)
        if error is not None:
            attempt.error.CopyFrom(error)


def _vacate(changed: record_pb2.JobRecord) -> None:
    changed.worker_id = ""
    changed.assignment_deadline_ms = 0


def _moved(changed: record_pb2.JobRecord, state: int, error: state_pb2.JobError | None = None) -> Decision:
    told = event_pb2.StateChanged(previous_state=changed.job.state, state=state)  # type: ignore[arg-type]
    if error is not None:
        told.error.CopyFrom(error)
    changed.job.state = state  # type: ignore[assignment]
    return Decision(changed, [event_pb2.JobEvent(state_changed=told)])


def _holds(record: record_pb2.JobRecord, term: int) -> bool:
    return record.job.state in HELD and record.term == term


def _copy(record: record_pb2.JobRecord) -> record_pb2.JobRecord:
    changed = record_pb2.JobRecord()
    changed.CopyFrom(record)
    return changed
