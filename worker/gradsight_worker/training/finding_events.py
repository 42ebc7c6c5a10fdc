"""What the detectors found, as events of the job's log."""

from gradsight.v1 import event_pb2, insight_pb2, state_pb2
from gradsight_insight.findings import Finding, FindingChange
from gradsight_insight.messages import evidence_messages


def finding_event(change: FindingChange) -> event_pb2.JobEvent:
    """A finding that was opened, updated or closed."""
    finding = finding_message(change.finding)
    if change.change == "opened":
        return event_pb2.JobEvent(finding_opened=event_pb2.FindingOpened(finding=finding))
    if change.change == "updated":
        return event_pb2.JobEvent(finding_updated=event_pb2.FindingUpdated(finding=finding))
    return event_pb2.JobEvent(finding_closed=event_pb2.FindingClosed(finding=finding))


def finding_of(event: event_pb2.JobEvent) -> insight_pb2.Finding:
    """The finding that an event tells of, to be added to."""
    finding: insight_pb2.Finding = getattr(event, event.WhichOneof("kind") or "").finding
    return finding


def finding_message(finding: Finding) -> insight_pb2.Finding:
    """A finding as the contract has it; suspect rows are added where they are known."""
    return insight_pb2.Finding(
        finding_id=finding.finding_id,
        kind=finding.kind,
        severity=state_pb2.Severity.Value(f"SEVERITY_{finding.severity.upper()}"),
        subject_kind=insight_pb2.FindingSubject.Value(f"FINDING_SUBJECT_{finding.subject_kind.upper()}"),
        subject=finding.subject,
        first_step=finding.first_step,
        last_step=finding.last_step,
        evidence=evidence_messages(finding.evidence),
        confidence=finding.confidence,
        explanation=finding.explanation,
        actions=finding.actions,
        open=finding.open,
        cause_finding_id=finding.cause_finding_id or "",
        page_url=finding.page_url,
    )
