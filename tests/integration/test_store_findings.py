"""Findings on a real store: written with the events that tell of them, fenced, read in pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gradsight.v1.artifact_pb2 import Artifact
from gradsight.v1.event_pb2 import AttemptStarted, FindingClosed, FindingOpened, JobEvent
from gradsight.v1.insight_pb2 import Finding
from gradsight.v1.state_pb2 import (
    JOB_ERROR_REASON_WORKER_DRAINED,
    SEVERITY_CRITICAL,
    SEVERITY_INFO,
    SEVERITY_WARNING,
    JobError,
)
from gradsight_store import attempts
from gradsight_store.errors import JobNotFound
from gradsight_store.findings import list_findings
from gradsight_store.operations import Answer, JobRef, new_operation_id
from gradsight_store.projection import JobProjection, apply_event

if TYPE_CHECKING:
    from tests.integration.conftest import Lab

DRAINED = JobError(reason=JOB_ERROR_REASON_WORKER_DRAINED)


def opened(number: int, severity: int = SEVERITY_WARNING, *, last_step: int = 10) -> JobEvent:
    finding = Finding(
        finding_id=f"plateau-{number}",
        kind="plateau",
        severity=severity,  # type: ignore[arg-type]
        first_step=number,
        last_step=last_step,
    )
    return JobEvent(finding_opened=FindingOpened(finding=finding))


def append(
    lab: Lab, ref: JobRef, term: int, projection: JobProjection, *events: JobEvent
) -> attempts.Appended:
    for event in events:
        apply_event(projection, event)
    return lab.run(attempts.append_events(ref, term, events, projection, operation_id=new_operation_id()))


def listed(lab: Lab, ref: JobRef, **options: bool) -> list[str]:
    found: list[str] = []
    token = ""
    while True:
        page = lab.run(list_findings(ref, page_size=2, page_token=token, **options))
        assert len(page.findings) <= 2
        found += [finding.finding_id for finding in page.findings]
        token = page.next_page_token
        if not token:
            return found


def test_findings_are_listed_most_severe_first_in_pages(lab: Lab) -> None:
    ref, term = lab.start()
    assert listed(lab, ref) == []
    projection = JobProjection()
    append(lab, ref, term, projection, opened(1), opened(2, SEVERITY_INFO), opened(3))
    append(lab, ref, term, projection, opened(4, SEVERITY_CRITICAL), opened(5))
    over = Finding()
    over.CopyFrom(opened(1).finding_opened.finding)
    append(lab, ref, term, projection, JobEvent(finding_closed=FindingClosed(finding=over)))
    assert listed(lab, ref) == ["plateau-4", "plateau-3", "plateau-5", "plateau-1", "plateau-2"]
    assert listed(lab, ref, open_only=True) == ["plateau-4", "plateau-3", "plateau-5", "plateau-2"]
    counted = {count.severity: (count.open, count.total) for count in lab.job(ref).findings}
    assert counted == {SEVERITY_CRITICAL: (1, 1), SEVERITY_WARNING: (2, 3), SEVERITY_INFO: (1, 1)}


def test_what_a_lost_attempt_found_after_the_checkpoint_is_found_again_or_gone(lab: Lab) -> None:
    ref, term = lab.start()
    first = JobProjection()
    append(lab, ref, term, first, opened(1, last_step=4), opened(2, last_step=12), opened(3, last_step=16))
    lab.run(attempts.record_checkpoint(ref, term, Artifact(digest="a", step=8), 0.1, operation_id="c"))
    lab.run(attempts.release(ref, term, error=DRAINED, operation_id="r"))
    lab.worker("w2")
    new_term = lab.assign(ref, "w2")
    claim = lab.run(attempts.claim(ref, new_term, worker_id="w2", device="cpu", operation_id="k"))
    again = lab.run(attempts.claim(ref, new_term, worker_id="w2", device="cpu", operation_id="k"))
    assert len(claim.findings) == len(again.findings) == 3
    second = JobProjection(claim.record.job, claim.findings)
    apply_event(second, JobEvent(attempt_started=AttemptStarted(resumed_at_step=claim.resumed_at_step)))
    stale = append(lab, ref, term, first, opened(9))
    assert stale.answer is Answer.FENCED
    append(lab, ref, new_term, second, opened(2, last_step=12))
    assert listed(lab, ref) == ["plateau-1", "plateau-2"]
    assert [(count.open, count.total) for count in lab.job(ref).findings] == [(2, 2)]


def test_an_append_that_is_sent_again_leaves_nothing_to_send(lab: Lab) -> None:
    ref, term = lab.start()
    projection, event = JobProjection(), opened(1)
    apply_event(projection, event)
    for answer in (Answer.APPLIED, Answer.ALREADY_APPLIED):
        appended = lab.run(attempts.append_events(ref, term, [event], projection, operation_id="op"))
        assert appended.answer is answer
        assert projection.findings.unsent() == {}
    assert listed(lab, ref) == ["plateau-1"]


def test_findings_of_no_job_and_after_no_page_are_refused(lab: Lab) -> None:
    with pytest.raises(JobNotFound):
        lab.run(list_findings(JobRef("default", "nobody"), page_size=2))
    ref = lab.create()
    for token in ("?", "YQ", "MyAyIDEgYQ"):
        with pytest.raises(ValueError, match=r"page_token: got .*, allowed"):
            lab.run(list_findings(ref, page_size=2, page_token=token))
