"""What a real run's trainer finds reaches clients and Prometheus; finished jobs are compared on their test rows."""

import re

import grpc
from tests.e2e.conftest import Datasets, Household, wait_for, wait_gone, wait_until_saved

from gradsight import ComparisonVerdict, JobState, Severity
from gradsight.v1 import insight_pb2, job_pb2, training_service_pb2_grpc
from gradsight.v1 import training_service_pb2 as pb
from gradsight_store.projection import JobProjection, apply_event
from gradsight_store.v1 import record_pb2

_OPEN = re.compile(r'gradsight_job_findings\{job_id="(.*)",kind="(.*)",severity="(.*)"\} (.*)')


def test_a_run_that_diverges_says_so_to_everyone(household: Household, datasets: Datasets) -> None:
    with household.client() as client:
        job = client.submit(datasets.job("mlp", learning_rate=300.0)).wait(timeout=60)
        found = client.job(job.job_id).findings()
    assert job.state is JobState.FAILED
    assert found[0].severity is Severity.CRITICAL
    assert all(finding.explanation and finding.evidence and finding.page_url for finding in found)
    counted = {(count.kind, count.severity): count for count in job.findings}
    assert sum(count.total for count in counted.values()) == len(found)
    for key, count in counted.items():
        same = [finding for finding in found if (finding.kind, finding.severity) == key]
        assert (len(same), sum(finding.open for finding in same)) == (count.total, count.open)

    def shown() -> dict[tuple[str, str], float]:
        lines = _OPEN.findall(household.scrape(household.exporter))
        return {(kind, how): float(value) for job_id, kind, how, value in lines if job_id == job.job_id}

    wait_for("the findings on the page", shown)
    assert shown() == {(kind, how.value): count.open for (kind, how), count in counted.items()}


def test_findings_of_a_run_that_was_killed_are_those_that_its_log_tells_of(
    household: Household, datasets: Datasets
) -> None:
    with household.client() as client:
        # Steps far too long: findings come and go all the time, on both sides of the death.
        handle = client.submit(datasets.long_job("mlp", learning_rate=1.0))
        wait_until_saved(handle, checkpoints=8)
        trainer = household.trainer()
        trainer.kill()
        wait_gone([trainer])
        job = handle.wait(timeout=90)
    assert len(job.attempts) == 2
    listed, told, counts = kept_and_told(household, job.job_id)
    assert listed == told
    assert len(listed) > 1
    assert sum(count.total for count in counts) == len(listed)
    assert sum(count.open for count in counts) == sum(finding.open for finding in listed.values())


def kept_and_told(
    household: Household, job_id: str
) -> tuple[dict[str, insight_pb2.Finding], dict[str, insight_pb2.Finding], list[job_pb2.FindingCount]]:
    """The findings as they are listed, as the whole log adds up to them, and the job's counts."""
    with grpc.insecure_channel(household.service) as channel:
        service = training_service_pb2_grpc.TrainingServiceStub(channel)
        page = service.ListFindings(pb.ListFindingsRequest(job_id=job_id, page_size=1000))
        job = service.GetJob(pb.GetJobRequest(job_id=job_id)).job
        projection, after, end = JobProjection(), 0, False
        while not end:
            events = service.ListJobEvents(
                pb.ListJobEventsRequest(job_id=job_id, after_sequence=after, page_size=1000)
            )
            for event in events.events:
                apply_event(projection, event)
            after, end = events.next_sequence, events.end
    kept = map(record_pb2.KeptFinding.FromString, filter(None, projection.findings.unsent().values()))
    told = {entry.finding.finding_id: entry.finding for entry in kept}
    return {finding.finding_id: finding for finding in page.findings}, told, list(job.findings)


def test_two_jobs_are_compared_whether_or_not_one_named_the_other(
    household: Household, datasets: Datasets
) -> None:
    with household.client() as client:
        old = client.submit(datasets.job("mlp", steps=20)).wait(timeout=60)
        new = client.submit(datasets.job("mlp", seed=6, baseline=old)).wait(timeout=60)
        apart = client.submit(datasets.job("mlp", seed=6)).wait(timeout=60)
        said, again = client.compare(old, new), client.compare(old, apart)
    assert new.summary is not None
    assert said.comparison == new.summary.comparison
    assert said.comparison.verdict is not ComparisonVerdict.NOT_COMPARABLE
    # The same rows and the same weights: what the trainer said and what the files say is the same.
    assert again.comparison.overall == said.comparison.overall
    assert again.comparison.categories == said.comparison.categories
    changed = [difference.field for difference in again.differences]
    assert changed == ["budget.steps", "seed"]
