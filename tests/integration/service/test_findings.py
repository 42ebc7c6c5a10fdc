"""Findings through the front door: counted in the job, listed most severe first, gone with the steps they are about."""

from typing import Any

from gradsight.v1 import event_pb2, insight_pb2, state_pb2
from gradsight.v1 import training_service_pb2 as pb

Service = Any


def opened(finding_id: str, severity: state_pb2.Severity.ValueType, *, step: int = 4) -> event_pb2.JobEvent:
    finding = insight_pb2.Finding(
        finding_id=finding_id,
        kind=finding_id.rpartition("-")[0],
        severity=severity,
        first_step=step,
        last_step=step,
        explanation="why",
        evidence=[insight_pb2.Evidence(name="gain_ratio", observed=0.1, threshold=0.25)],
    )
    return event_pb2.JobEvent(finding_opened=event_pb2.FindingOpened(finding=finding))


def closed(finding_id: str, severity: state_pb2.Severity.ValueType) -> event_pb2.JobEvent:
    finding = opened(finding_id, severity).finding_opened.finding
    return event_pb2.JobEvent(finding_closed=event_pb2.FindingClosed(finding=finding))


def listed(service: Service, job_id: str, **request: Any) -> list[str]:
    """Ids of all findings, page by page."""
    found: list[str] = []
    token = ""
    while True:
        asked = pb.ListFindingsRequest(job_id=job_id, page_token=token, **request)
        page = service.training.ListFindings(asked)
        found += [finding.finding_id for finding in page.findings]
        token = page.next_page_token
        if not token:
            return found


def test_findings_are_counted_and_listed_as_they_come_and_go(service: Service, worker: Any) -> None:
    job_id = service.create('queue: "findings"').job_id
    assert listed(service, job_id) == []
    attempt = worker("findings").wait_for_job()
    attempt.append(
        opened("plateau-1", state_pb2.SEVERITY_INFO),
        opened("overfitting-1", state_pb2.SEVERITY_WARNING),
        opened("divergence-1", state_pb2.SEVERITY_CRITICAL),
    )
    attempt.append(closed("overfitting-1", state_pb2.SEVERITY_WARNING))
    everything = ["divergence-1", "overfitting-1", "plateau-1"]
    assert listed(service, job_id) == listed(service, job_id, page_size=1) == everything
    assert listed(service, job_id, open_only=True, page_size=1) == ["divergence-1", "plateau-1"]
    first = service.training.ListFindings(pb.ListFindingsRequest(job_id=job_id)).findings[0]
    assert (first.open, first.explanation, first.evidence[0].threshold) == (True, "why", 0.25)
    counts = service.training.GetJob(pb.GetJobRequest(job_id=job_id)).job.findings
    assert [(count.kind, count.open, count.total) for count in counts] == [
        ("divergence", 1, 1),
        ("overfitting", 0, 1),
        ("plateau", 1, 1),
    ]


def test_an_attempt_that_resumes_finds_again_what_lies_behind_its_checkpoint(
    service: Service, worker: Any
) -> None:
    job_id = service.create('queue: "findings-again"').job_id
    trainer = worker("findings-again")
    attempt = trainer.wait_for_job()
    attempt.append(
        opened("plateau-1", state_pb2.SEVERITY_INFO, step=10),
        opened("plateau-2", state_pb2.SEVERITY_INFO, step=50),
    )
    attempt.hand_back(resume_at_step=20)
    again = trainer.wait_for_job()
    again.append(event_pb2.JobEvent(log_line=event_pb2.LogLine(message="on it goes")))
    assert listed(service, job_id) == ["plateau-1"]
    again.append(opened("plateau-2", state_pb2.SEVERITY_INFO, step=50))
    assert listed(service, job_id) == ["plateau-1", "plateau-2"]
    again.finish(state_pb2.JOB_STATE_SUCCEEDED)
    assert listed(service, job_id) == ["plateau-1", "plateau-2"]
