"""A real Prometheus with the shipped rules scrapes a real exporter and raises the alarm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.prometheus import RULES, running_prometheus

from gradsight.v1.event_pb2 import FindingClosed, FindingOpened, JobEvent, VerdictReached
from gradsight.v1.insight_pb2 import VERDICT_DIVERGED, Finding, RunVerdict
from gradsight.v1.state_pb2 import SEVERITY_CRITICAL
from gradsight_insight.catalogue import KINDS
from gradsight_service.exporter.process import Exporter, ExporterSettings
from gradsight_store import attempts
from gradsight_store.operations import new_operation_id
from gradsight_store.projection import JobProjection, apply_event
from gradsight_store.settings import StoreSettings

if TYPE_CHECKING:
    from tests.integration.conftest import Lab


@pytest.mark.slow
def test_a_critical_finding_raises_an_alarm_that_leads_to_its_page_and_ends_with_it(
    lab: Lab, settings: StoreSettings, tmp_path: Path
) -> None:
    kind = next(iter(KINDS.values()))
    finding = Finding(finding_id=f"{kind.name}-1", kind=kind.name, severity=SEVERITY_CRITICAL)
    ref, term = lab.start()
    projection = JobProjection()

    def append(*events: JobEvent) -> None:
        for event in events:
            apply_event(projection, event)
        lab.run(attempts.append_events(ref, term, events, projection, operation_id=new_operation_id()))

    exporter = Exporter(ExporterSettings(store=settings, port=0))
    configuration = {
        "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": "gradsight-exporter", "static_configs": [{"targets": [exporter.address]}]}
        ],
    }
    try:
        with running_prometheus(configuration, tmp_path) as prometheus:

            def firing(name: str) -> list[dict[str, Any]]:
                return [
                    alert
                    for alert in prometheus.alerts()
                    if alert["labels"]["alertname"] == name and alert["state"] == "firing"
                ]

            lab.until(lambda: prometheus.query("gradsight_store_up") == {(): 1})
            assert firing("GradsightCriticalFinding") == []
            verdict = VerdictReached(verdict=RunVerdict(verdict=VERDICT_DIVERGED))
            append(JobEvent(finding_opened=FindingOpened(finding=finding)), JobEvent(verdict_reached=verdict))
            (alert,) = lab.until(lambda: firing("GradsightCriticalFinding"))
            assert (alert["labels"]["job_id"], alert["labels"]["severity"]) == (ref.job_id, "critical")
            assert alert["annotations"]["runbook_url"] == kind.page_url
            assert alert["annotations"]["summary"] == f"Job {ref.job_id}: {kind.title}"
            (alert,) = lab.until(lambda: firing("GradsightJobDiverged"))
            assert alert["annotations"]["summary"] == f"Job {ref.job_id} diverged"
            append(JobEvent(finding_closed=FindingClosed(finding=finding)))
            lab.until(lambda: not firing("GradsightCriticalFinding"))
            assert firing("GradsightJobDiverged")
    finally:
        exporter.close()
