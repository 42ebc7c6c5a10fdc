"""The rules by which jobs change: each command in each state, budgets of losses, and random histories."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gradsight.v1 import artifact_pb2, spec_pb2, state_pb2
from gradsight.v1.state_pb2 import (
    JOB_STATE_CANCELLED,
    JOB_STATE_CANCELLING,
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    JobError,
)
from gradsight_store import rules
from gradsight_store.errors import TransitionRefused
from gradsight_store.operations import Answer
from gradsight_store.rules import Decision
from gradsight_store.v1.record_pb2 import DESIRED_STATE_CANCELLED, JobRecord, LogSegment

NOW = 1_000_000
LOST = JobError(reason=state_pb2.JOB_ERROR_REASON_WORKER_LOST, fault=state_pb2.FAULT_INFRA, message="gone")
DRAINED = JobError(reason=state_pb2.JOB_ERROR_REASON_WORKER_DRAINED, fault=state_pb2.FAULT_INFRA)
BROKEN = JobError(reason=state_pb2.JOB_ERROR_REASON_INVALID_DATA, fault=state_pb2.FAULT_DATA)


def decided(verdict: Decision | Answer) -> JobRecord:
    assert isinstance(verdict, Decision), verdict
    return verdict.record


def queued() -> JobRecord:
    record = decided(rules.create("default", "job", spec_pb2.JobSpec(queue="default"), "digest"))
    record.waiting_since_ms = NOW
    return record


def assigned() -> JobRecord:
    return decided(rules.assign(queued(), NOW, worker_id="w1", deadline_ms=NOW + 2000))


def running(record: JobRecord | None = None) -> JobRecord:
    record = assigned() if record is None else record
    return decided(rules.claim(record, NOW, term=record.term, worker_id=record.worker_id, device="cpu"))


def cancelling() -> JobRecord:
    return decided(rules.cancel(running(), NOW))


def backing_off() -> JobRecord:
    record = running()
    record.losses = 3
    return decided(rules.lose(record, NOW, error=LOST))


def succeeded() -> JobRecord:
    return decided(rules.finish(running(), NOW, term=1, state=JOB_STATE_SUCCEEDED))


def failed() -> JobRecord:
    return decided(rules.finish(running(), NOW, term=1, state=JOB_STATE_FAILED, error=BROKEN))


def cancelled() -> JobRecord:
    return decided(rules.cancel(queued(), NOW))


COMMANDS: dict[str, Callable[[JobRecord], Decision | Answer]] = {
    "cancel": lambda record: rules.cancel(record, NOW),
    "assign": lambda record: rules.assign(record, NOW, worker_id="w2", deadline_ms=NOW + 1),
    "lapse": lambda record: rules.lapse(record, NOW + 5000),
    "claim": lambda record: rules.claim(record, NOW, term=record.term, worker_id="w1", device="cpu"),
    "checkpoint": lambda record: rules.checkpoint(
        record, NOW, term=record.term, artifact=artifact_pb2.Artifact(digest="a", step=5), seconds=0.1
    ),
    "rewind": lambda record: rules.rewind(
        record, NOW, term=record.term, step=0, reason="damaged", unusable={"a"}
    ),
    "finish": lambda record: rules.finish(record, NOW, term=record.term, state=JOB_STATE_SUCCEEDED),
    "release": lambda record: rules.release(record, NOW, term=record.term, error=LOST),
    "lose": lambda record: rules.lose(record, NOW, error=LOST),
    "wake": lambda record: rules.wake(record, NOW + 60_000),
}
FENCED, AGAIN, REFUSED = Answer.FENCED, Answer.ALREADY_APPLIED, TransitionRefused
TABLE: list[tuple[Callable[[], JobRecord], dict[str, Any]]] = [
    (queued, {"cancel": JOB_STATE_CANCELLED, "assign": JOB_STATE_QUEUED}),
    (assigned, {"cancel": JOB_STATE_CANCELLED, "lapse": JOB_STATE_QUEUED, "claim": JOB_STATE_RUNNING}),
    (backing_off, {"cancel": JOB_STATE_CANCELLED, "wake": JOB_STATE_QUEUED}),
    (
        running,
        {
            "cancel": JOB_STATE_CANCELLING,
            "checkpoint": JOB_STATE_RUNNING,
            "rewind": JOB_STATE_RUNNING,
            "finish": JOB_STATE_SUCCEEDED,
            "release": JOB_STATE_QUEUED,
            "lose": JOB_STATE_QUEUED,
        },
    ),
    (
        cancelling,
        {
            "cancel": AGAIN,
            "checkpoint": JOB_STATE_CANCELLING,
            "rewind": JOB_STATE_CANCELLING,
            "finish": JOB_STATE_CANCELLED,
            "release": JOB_STATE_CANCELLED,
            "lose": JOB_STATE_CANCELLED,
        },
    ),
    (succeeded, {"cancel": REFUSED}),
    (failed, {"cancel": REFUSED}),
    (cancelled, {"cancel": AGAIN}),
]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("make", "allowed"), TABLE, ids=[make.__name__ for make, _ in TABLE])
def test_every_command_in_every_state(
    make: Callable[[], JobRecord], allowed: dict[str, Any], command: str
) -> None:
    record = make()
    before = record.SerializeToString(deterministic=True)
    expected = allowed.get(command, FENCED)
    if expected is REFUSED:
        with pytest.raises(TransitionRefused) as refused:
            COMMANDS[command](record)
        assert refused.value.state == record.job.state
    elif isinstance(expected, Answer):
        assert COMMANDS[command](record) is expected
    else:
        assert decided(COMMANDS[command](record)).job.state == expected
    assert record.SerializeToString(deterministic=True) == before, "a rule must not touch what it is given"


@pytest.mark.parametrize("command", ["claim", "checkpoint", "finish", "release"])
def test_a_stale_term_is_fenced(command: str) -> None:
    record = assigned() if command == "claim" else running()
    stale = JobRecord()
    stale.CopyFrom(record)
    record.term += 1
    calls: dict[str, Callable[[], Decision | Answer]] = {
        "claim": lambda: rules.claim(record, NOW, term=stale.term, worker_id="w1", device="cpu"),
        "checkpoint": lambda: rules.checkpoint(
            record, NOW, term=stale.term, artifact=artifact_pb2.Artifact(), seconds=0
        ),
        "finish": lambda: rules.finish(record, NOW, term=stale.term, state=JOB_STATE_SUCCEEDED),
        "release": lambda: rules.release(record, NOW, term=stale.term, error=LOST),
    }
    assert calls[command]() is Answer.FENCED


def test_only_the_worker_that_was_assigned_may_claim() -> None:
    assert rules.claim(assigned(), NOW, term=1, worker_id="other", device="cpu") is Answer.FENCED


def test_an_assignment_does_not_lapse_before_its_deadline() -> None:
    assert rules.lapse(assigned(), NOW + 1999) is Answer.FENCED


def test_a_job_that_backs_off_is_not_assigned() -> None:
    record = backing_off()
    assert record.not_before_ms > NOW
    assert rules.assign(record, NOW, worker_id="w2", deadline_ms=NOW + 1) is Answer.FENCED


def test_a_lapse_costs_no_attempt_and_raises_the_term() -> None:
    record = decided(rules.lapse(assigned(), NOW + 2000))
    assert (record.term, record.avoided_worker_id, len(record.job.attempts)) == (2, "w1", 0)


def test_the_first_loss_is_tried_again_at_once_and_later_ones_back_off_longer() -> None:
    delays = [rules.LOSS_BUDGET.back_off_ms(losses) for losses in range(1, 12)]
    assert delays[:4] == [0, 500, 1000, 2000]
    assert delays[-1] == 30_000
    assert delays == sorted(delays)


def lose_at(record: JobRecord, step: int) -> JobRecord:
    """Run another attempt that saves a checkpoint at a step (0: none) and is lost."""
    if record.not_before_ms:
        record = decided(rules.wake(record, record.not_before_ms))
    record = running(decided(rules.assign(record, NOW, worker_id="w1", deadline_ms=NOW)))
    if step:
        artifact = artifact_pb2.Artifact(digest=f"c{step}", step=step)
        record = decided(rules.checkpoint(record, NOW, term=record.term, artifact=artifact, seconds=0))
    return decided(rules.lose(record, NOW, error=LOST))


def test_three_losses_in_a_row_at_the_same_step_fail_the_job() -> None:
    record = queued()
    for _ in range(2):
        record = lose_at(record, 0)
        assert record.job.state == JOB_STATE_QUEUED
    record = lose_at(record, 0)
    assert record.job.state == JOB_STATE_FAILED
    assert record.job.error.reason == state_pb2.JOB_ERROR_REASON_TOO_MANY_LOSSES
    assert record.job.error.fault == state_pb2.FAULT_UNKNOWN
    assert record.job.attempts[-1].error.reason == state_pb2.JOB_ERROR_REASON_WORKER_LOST


def test_losses_that_advanced_the_checkpoint_are_refunded() -> None:
    record = queued()
    for step in range(1, 30):
        record = lose_at(record, step)
    assert record.job.state == JOB_STATE_QUEUED
    assert record.losses == 0


def test_the_eleventh_loss_without_progress_fails_the_job_for_its_machines() -> None:
    record = queued()
    for step in range(1, 12):
        record = lose_at(record, step)
        record = lose_at(record, 0)
        if record.job.done:
            break
    assert (step, record.job.state) == (11, JOB_STATE_FAILED)
    assert record.job.error.fault == state_pb2.FAULT_INFRA


def test_being_drained_uses_no_budget() -> None:
    record = queued()
    for _ in range(20):
        record = running(decided(rules.assign(record, NOW, worker_id="w1", deadline_ms=NOW)))
        record = decided(rules.release(record, NOW, term=record.term, error=DRAINED))
    assert record.job.state == JOB_STATE_QUEUED
    assert (record.losses, record.losses_at_step, record.not_before_ms) == (0, 0, 0)
    assert len(record.job.attempts) == 20


def test_the_newest_checkpoints_are_kept_and_the_first_is_resumed_from() -> None:
    record = running()
    record.job.spec.checkpoint.keep = 2
    for step in (10, 20, 30):
        artifact = artifact_pb2.Artifact(digest=f"c{step}", step=step)
        record = decided(rules.checkpoint(record, NOW, term=record.term, artifact=artifact, seconds=0))
    assert [checkpoint.step for checkpoint in record.checkpoints] == [30, 20]
    record = lose_at(decided(rules.lose(record, NOW, error=LOST)), 0)
    assert record.job.attempts[-1].resumed_at_step == 30


def again(record: JobRecord) -> JobRecord:
    return running(decided(rules.assign(record, NOW, worker_id="w1", deadline_ms=NOW)))


def checkpointed(*steps: int) -> JobRecord:
    record = running()
    for step in steps:
        artifact = artifact_pb2.Artifact(digest=f"c{step}", step=step)
        record = decided(rules.checkpoint(record, NOW, term=record.term, artifact=artifact, seconds=0))
    return record


def test_a_success_leaves_the_newest_checkpoint_and_no_other_end_drops_any() -> None:
    record = checkpointed(10, 20)
    done = decided(rules.finish(record, NOW, term=1, state=JOB_STATE_SUCCEEDED))
    assert [checkpoint.step for checkpoint in done.checkpoints] == [20]
    done = decided(rules.finish(record, NOW, term=1, state=JOB_STATE_FAILED, error=BROKEN))
    assert [checkpoint.step for checkpoint in done.checkpoints] == [20, 10]


def test_a_rewound_attempt_begins_earlier_and_nobody_tries_the_damaged_checkpoint_again() -> None:
    record = again(decided(rules.lose(checkpointed(10, 20), NOW, error=LOST)))
    assert record.job.attempts[-1].resumed_at_step == 20
    verdict = rules.rewind(
        record, NOW, term=record.term, step=10, reason="step 20 is damaged", unusable={"c20"}
    )
    assert isinstance(verdict, Decision)
    (event,) = verdict.events
    assert event.attempt_rewound.resumed_at_step == 10
    assert event.attempt_rewound.message == "step 20 is damaged"
    assert verdict.record.job.attempts[-1].resumed_at_step == 10
    assert [checkpoint.step for checkpoint in verdict.record.checkpoints] == [10]


def test_a_job_that_extends_another_begins_where_that_ended_until_it_has_a_checkpoint() -> None:
    extended = artifact_pb2.Artifact(digest="last", step=100)
    record = decided(rules.create("default", "job", spec_pb2.JobSpec(), "digest", extended))
    record = running(decided(rules.assign(record, NOW, worker_id="w1", deadline_ms=NOW)))
    assert record.job.attempts[-1].resumed_at_step == 100
    artifact = artifact_pb2.Artifact(digest="own", step=130)
    record = decided(rules.checkpoint(record, NOW, term=record.term, artifact=artifact, seconds=0))
    record = again(decided(rules.lose(record, NOW, error=LOST)))
    assert record.job.attempts[-1].resumed_at_step == 130


def test_cancelling_a_running_job_asks_its_holder() -> None:
    assert cancelling().desired_state == DESIRED_STATE_CANCELLED


def test_a_failure_needs_an_error_and_a_success_has_none() -> None:
    with pytest.raises(ValueError, match="FAILED with an error"):
        rules.finish(running(), NOW, term=1, state=JOB_STATE_FAILED)
    with pytest.raises(ValueError, match="FAILED with an error"):
        rules.finish(running(), NOW, term=1, state=JOB_STATE_SUCCEEDED, error=BROKEN)
    with pytest.raises(ValueError, match="FAILED with an error"):
        rules.finish(running(), NOW, term=1, state=JOB_STATE_QUEUED)


def test_a_segment_follows_the_one_before() -> None:
    first = LogSegment(first_sequence=1, last_sequence=10, digest="a")
    record = decided(rules.shorten_log(running(), NOW, segment=first))
    assert rules.shorten_log(record, NOW, segment=first) is Answer.FENCED
    second = LogSegment(first_sequence=11, last_sequence=12, digest="b")
    assert len(decided(rules.shorten_log(record, NOW, segment=second)).segments) == 2


class Histories(RuleBasedStateMachine):
    """Any commands in any order, with fresh and stale terms, as time goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.record = queued()
        self.terms = [0]
        self.terminal: bytes | None = None
        self.terminal_events = 0
        self.states = [int(JOB_STATE_QUEUED)]

    def apply(self, verdict: Decision | Answer) -> None:
        if isinstance(verdict, Answer):
            return
        assert verdict.record.term >= self.record.term
        if verdict.record.worker_id and verdict.record.worker_id != self.record.worker_id:
            assert verdict.record.term > max(self.terms), "a term was used again"
            self.terms.append(verdict.record.term)
        for event in verdict.events:
            if event.HasField("state_changed"):
                assert event.state_changed.previous_state == self.states[-1]
                self.states.append(event.state_changed.state)
                self.terminal_events += event.state_changed.state in rules.TERMINAL
        self.record = verdict.record

    @rule(ms=st.integers(0, 60_000))
    def time_passes(self, ms: int) -> None:
        self.now += ms

    @rule(worker=st.sampled_from(["w1", "w2"]))
    def assign(self, worker: str) -> None:
        deadline = self.now + 2000
        self.apply(rules.assign(self.record, self.now, worker_id=worker, deadline_ms=deadline))

    @rule(back=st.integers(0, 3), worker=st.sampled_from(["w1", "w2"]))
    def claim(self, back: int, worker: str) -> None:
        term = self.record.term - back
        self.apply(rules.claim(self.record, self.now, term=term, worker_id=worker, device="cpu"))

    @rule(back=st.integers(0, 2), ahead=st.integers(1, 50))
    def checkpoint(self, back: int, ahead: int) -> None:
        step = rules.newest_checkpoint_step(self.record) + ahead
        artifact = artifact_pb2.Artifact(digest=f"c{step}", step=step)
        term = self.record.term - back
        self.apply(rules.checkpoint(self.record, self.now, term=term, artifact=artifact, seconds=0))

    @rule(back=st.integers(0, 2), fails=st.booleans())
    def finish(self, back: int, fails: bool) -> None:
        state, error = (JOB_STATE_FAILED, BROKEN) if fails else (JOB_STATE_SUCCEEDED, None)
        term = self.record.term - back
        self.apply(rules.finish(self.record, self.now, term=term, state=state, error=error))

    @rule(back=st.integers(0, 2), error=st.sampled_from([LOST, DRAINED]))
    def release(self, back: int, error: JobError) -> None:
        self.apply(rules.release(self.record, self.now, term=self.record.term - back, error=error))

    @rule()
    def lose(self) -> None:
        self.apply(rules.lose(self.record, self.now, error=LOST))

    @rule()
    def lapse(self) -> None:
        self.apply(rules.lapse(self.record, self.now))

    @rule()
    def wake(self) -> None:
        self.apply(rules.wake(self.record, self.now))

    @precondition(lambda self: self.record.job.state not in (JOB_STATE_SUCCEEDED, JOB_STATE_FAILED))
    @rule()
    def cancel(self) -> None:
        self.apply(rules.cancel(self.record, self.now))

    @invariant()
    def terminal_states_never_change(self) -> None:
        if self.terminal is not None:
            assert self.record.SerializeToString(deterministic=True) == self.terminal
        elif self.record.job.state in rules.TERMINAL:
            self.terminal = self.record.SerializeToString(deterministic=True)

    @invariant()
    def the_record_is_consistent(self) -> None:
        job = self.record.job
        assert job.done == (job.state in rules.TERMINAL)
        assert self.terminal_events == int(job.done)
        assert self.states[-1] == job.state
        assert job.HasField("error") == (job.state == JOB_STATE_FAILED)
        assert bool(self.record.assignment_deadline_ms) <= (job.state == JOB_STATE_QUEUED)
        assert [attempt.number for attempt in job.attempts] == list(range(1, len(job.attempts) + 1))
        open_attempts = [attempt for attempt in job.attempts if not attempt.HasField("end_time")]
        assert len(open_attempts) == int(job.state in (JOB_STATE_RUNNING, JOB_STATE_CANCELLING))
        assert bool(self.record.worker_id) >= (job.state in rules.HELD)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
