"""What a real run's trainer finds reaches clients and Prometheus; finished jobs are compared on their test rows."""

import re

from tests.e2e.conftest import Datasets, Household, wait_for

from gradsight import ComparisonVerdict, JobState, Severity

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
