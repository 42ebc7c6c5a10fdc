"""The findings of a job, folded from its events: counted once, bounded, taken back with the steps they are about."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradsight.v1.event_pb2 import (
    AttemptRewound,
    AttemptStarted,
    FindingClosed,
    FindingOpened,
    FindingUpdated,
    JobEvent,
    StepsRecorded,
)
from gradsight.v1.insight_pb2 import Finding
from gradsight.v1.job_pb2 import FindingCount
from gradsight.v1.state_pb2 import SEVERITY_CRITICAL, SEVERITY_INFO, SEVERITY_WARNING
from gradsight_store.attempts import append_events
from gradsight_store.errors import StoreUnavailable
from gradsight_store.findings import MOST_KEPT
from gradsight_store.operations import JobRef, Pipeline
from gradsight_store.projection import JobProjection, apply_event
from gradsight_store.settings import StoreSettings
from gradsight_store.v1.record_pb2 import KeptFinding


def finding(finding_id: str, severity: int = SEVERITY_WARNING, *, last_step: int = 10) -> Finding:
    """A finding of the kind that its id begins with."""
    kind = finding_id.rpartition("-")[0]
    return Finding(
        finding_id=finding_id,
        kind=kind,
        severity=severity,  # type: ignore[arg-type]
        first_step=1,
        last_step=last_step,
        open=True,
    )


def opened(*arguments: object, **more: object) -> JobEvent:
    return JobEvent(finding_opened=FindingOpened(finding=finding(*arguments, **more)))  # type: ignore[arg-type]


def updated(*arguments: object, **more: object) -> JobEvent:
    return JobEvent(finding_updated=FindingUpdated(finding=finding(*arguments, **more)))  # type: ignore[arg-type]


def closed(*arguments: object, **more: object) -> JobEvent:
    return JobEvent(finding_closed=FindingClosed(finding=finding(*arguments, **more)))  # type: ignore[arg-type]


def fold(*events: JobEvent, start: JobProjection | None = None) -> JobProjection:
    """The events on top of what an earlier attempt left."""
    projection = JobProjection() if start is None else JobProjection(start.job, kept(start))
    for event in events:
        apply_event(projection, event)
    return projection


def kept(projection: JobProjection) -> list[KeptFinding]:
    """What the store holds after everything was sent."""
    return [KeptFinding.FromString(data) for data in projection.findings.unsent().values() if data]


def counts(projection: JobProjection) -> list[tuple[str, int, int, int]]:
    return [(count.kind, count.severity, count.open, count.total) for count in projection.job.findings]


def test_findings_are_counted_by_kind_and_severity_most_severe_first() -> None:
    projection = fold(
        opened("overfitting-1"),
        opened("dead_units-1", SEVERITY_INFO),
        opened("dead_units-2", SEVERITY_INFO),
        closed("dead_units-1", SEVERITY_INFO),
        opened("divergence-1", SEVERITY_CRITICAL),
    )
    assert counts(projection) == [
        ("divergence", SEVERITY_CRITICAL, 1, 1),
        ("overfitting", SEVERITY_WARNING, 1, 1),
        ("dead_units", SEVERITY_INFO, 1, 2),
    ]
    assert {entry.finding.finding_id: entry.finding.open for entry in kept(projection)} == {
        "dead_units-1": False,
        "dead_units-2": True,
        "divergence-1": True,
        "overfitting-1": True,
    }


def test_a_finding_that_becomes_worse_moves_and_stays_one() -> None:
    projection = fold(opened("plateau-1"), updated("plateau-1", SEVERITY_CRITICAL, last_step=30))
    assert counts(projection) == [("plateau", SEVERITY_CRITICAL, 1, 1)]
    (entry,) = kept(projection)
    assert (entry.opened_step, entry.finding.last_step) == (10, 30)


def test_what_was_found_late_belongs_to_the_step_at_which_it_was_found() -> None:
    steps = StepsRecorded(first_step=1, loss=[1.0] * 50)
    before = fold(JobEvent(steps_recorded=steps), opened("plateau-1", last_step=10))
    for step, left in ((49, 0), (50, 1)):
        resumed = JobEvent(attempt_started=AttemptStarted(resumed_at_step=step))
        assert len(fold(resumed, start=before).job.findings) == left


def test_a_resumed_attempt_that_finds_the_same_again_counts_it_once() -> None:
    before = fold(opened("plateau-1", last_step=20), opened("plateau-2", last_step=60))
    resumed = JobEvent(attempt_started=AttemptStarted(resumed_at_step=40))
    after = fold(resumed, start=before)
    assert counts(after) == [("plateau", SEVERITY_WARNING, 1, 1)]
    assert after.findings.unsent() == {"plateau-2": b""}
    after = fold(resumed, opened("plateau-2", last_step=60), start=before)
    assert counts(after) == counts(before)
    rewound = JobEvent(attempt_rewound=AttemptRewound(resumed_at_step=0))
    assert counts(fold(resumed, rewound, start=before)) == []


def test_what_was_sent_is_not_sent_again_but_what_changed_meanwhile_is() -> None:
    projection = fold(opened("plateau-1"), opened("plateau-2"))
    sent = projection.findings.unsent()
    assert set(sent) == {"plateau-1", "plateau-2"}
    apply_event(projection, closed("plateau-2"))
    projection.findings.note_sent(sent)
    assert set(projection.findings.unsent()) == {"plateau-2"}
    projection.findings.note_sent(projection.findings.unsent())
    assert projection.findings.unsent() == {}


def test_what_an_outage_swallowed_is_sent_again() -> None:
    projection, event = fold(opened("plateau-1")), opened("plateau-1")
    append = append_events(JobRef("default", "a"), 1, [event], projection, operation_id="op")
    next(append)
    assert isinstance(append.send(StoreSettings(url="redis://localhost")), Pipeline)
    with pytest.raises(StoreUnavailable):
        append.throw(StoreUnavailable("redis://localhost", "away"))
    assert set(projection.findings.unsent()) == {"plateau-1"}


def test_the_least_important_are_forgotten_and_still_count() -> None:
    many = [opened(f"loss_spike-{number}", last_step=number) for number in range(MOST_KEPT - 1)]
    projection = fold(
        opened("divergence-1", SEVERITY_CRITICAL, last_step=0),
        *many,
        closed("loss_spike-7", last_step=7),
        opened("loss_spike-x", last_step=900),
        opened("loss_spike-y", last_step=901),
    )
    names = {entry.finding.finding_id for entry in kept(projection)}
    assert len(names) == MOST_KEPT
    assert not {"loss_spike-7", "loss_spike-0"} & names
    assert {"divergence-1", "loss_spike-1", "loss_spike-y"} <= names
    assert counts(projection)[1] == ("loss_spike", SEVERITY_WARNING, MOST_KEPT, MOST_KEPT + 1)
    resumed = fold(start=projection)
    apply_event(resumed, updated("loss_spike-0", last_step=950))
    assert counts(resumed)[1] == ("loss_spike", SEVERITY_WARNING, MOST_KEPT, MOST_KEPT + 1)


_IDS = st.sampled_from([f"{kind}-{number}" for kind in ("plateau", "dead_units") for number in range(4)])
_EVENTS = st.builds(
    lambda make, *arguments: make(*arguments),
    st.sampled_from([opened, updated, closed]),
    _IDS,
    st.sampled_from([SEVERITY_INFO, SEVERITY_WARNING, SEVERITY_CRITICAL]),
)


@given(st.lists(_EVENTS), st.integers(0, 40))
def test_counts_are_those_of_the_findings_however_the_job_is_cut_into_attempts(
    events: list[JobEvent], cut: int
) -> None:
    whole = fold(*events)
    halves = fold(*events[cut:], start=fold(*events[:cut]))
    assert counts(halves) == counts(whole)
    found = [entry.finding for entry in kept(whole)]
    assert sum(count.total for count in whole.job.findings) == len(found)
    assert sum(count.open for count in whole.job.findings) == sum(entry.open for entry in found)
    assert all(isinstance(count, FindingCount) for count in whole.job.findings)
