"""A real Prometheus with the configuration that is shipped sees what the event log says."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.e2e.conftest import ROOT, Datasets, Household, wait_for, wait_until_saved
from tests.prometheus import Prometheus, program, running_prometheus

from gradsight import JobState


@pytest.fixture(scope="module")
def prometheus(shared_household: Household, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """The server, with the shipped file; only ports and intervals are the test's own."""
    directory = tmp_path_factory.mktemp("prometheus")
    with running_prometheus(shipped_configuration(shared_household), directory) as server:
        yield server


def shipped_configuration(household: Household) -> dict[str, Any]:
    """`deploy/prometheus/prometheus.yml` with the ports of this household, scraped every half second."""
    shipped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    ports = {9117: household.exporter, 9118: household.service_metrics, 9119: household.worker_metrics}
    shipped["global"]["scrape_interval"] = "500ms"
    shipped["rule_files"] = [str(ROOT / "deploy/prometheus" / files) for files in shipped["rule_files"]]
    for job in shipped["scrape_configs"]:
        job.pop("scrape_interval", None)
        for static in job["static_configs"]:
            static["targets"] = [ports[int(target.rpartition(":")[2])] for target in static["targets"]]
    assert isinstance(shipped, dict)
    return shipped


def test_all_three_targets_are_up(prometheus: Prometheus) -> None:
    wait_for("three targets", lambda: prometheus.query("sum(up)") == {(): 3})


def test_queries_follow_a_job_while_it_runs(
    household: Household, prometheus: Prometheus, datasets: Datasets
) -> None:
    with household.client() as client:
        handle = client.submit(datasets.long_job("mlp", steps=1_000_000))
        wait_until_saved(handle, checkpoints=1)
        mine = f'{{job_id="{handle.job_id}"}}'
        wait_for("a running job", lambda: prometheus.query(f"gradsight_job_state{mine}") == {("running",): 1})
        first = wait_for("a step", lambda: prometheus.query(f"gradsight_job_step{mine}").get(()))
        wait_for("another", lambda: prometheus.query(f"gradsight_job_step{mine}")[()] > first)
        assert prometheus.query('gradsight_jobs{state="running"}') == {("default", "running"): 1}
        handle.cancel()
        assert handle.wait(timeout=30).state is JobState.CANCELLED
    wait_for("its end", lambda: prometheus.query(f"gradsight_job_state{mine}") == {("cancelled",): 1})
    assert prometheus.query('gradsight_jobs{state="running"} > 0') == {}


def test_queries_about_a_job_return_what_its_log_says(
    household: Household, prometheus: Prometheus, datasets: Datasets
) -> None:
    with household.client() as client:
        job = client.submit(datasets.job("text_classifier")).wait(timeout=60)
    mine = f'{{job_id="{job.job_id}"}}'
    wait_for("its end", lambda: prometheus.query(f"gradsight_job_state{mine}") == {("succeeded",): 1})
    summary = job.summary
    assert summary is not None
    assert summary.probe is not None
    assert summary.validation is not None
    assert summary.test is not None
    assert prometheus.query(f"gradsight_job_loss{mine}") == {
        ("train",): summary.train_loss,
        ("validation",): summary.validation.loss,
        ("test",): summary.test.loss,
    }
    assert prometheus.query(f"gradsight_job_gradient_norm{mine}") == {(): summary.gradient_norm}
    norms = zip(summary.layers, summary.probe.layer_gradient_norm, strict=True)
    assert prometheus.query(f"gradsight_job_layer_gradient_norm{mine}") == {
        (str(layer.index), layer.path): norm for layer, norm in norms
    }
    evaluations = {"validation": summary.validation, "test": summary.test}
    assert prometheus.query(f"gradsight_job_category_error_ratio{mine}") == {
        (category.category, split): category.error_ratio
        for split, evaluation in evaluations.items()
        for category in evaluation.categories
    }
    assert prometheus.query(f"gradsight_job_step{mine}") == {(): 200}


def test_queries_about_the_fleet_return_what_the_service_says(
    household: Household, prometheus: Prometheus, datasets: Datasets
) -> None:
    with household.client() as client:
        failed = client.submit(datasets.job("mlp", train=datasets.one_class, category=None))
        assert failed.wait(timeout=60).state is JobState.FAILED
        counts: dict[tuple[str, str], int] = {}
        for job in client.jobs():
            key = ("default", job.state.value)
            counts[key] = counts.get(key, 0) + 1
        calls = household.scrape(household.service_metrics)
    wait_for("the counts", lambda: _nonzero(prometheus.query("gradsight_jobs")) == counts)
    assert prometheus.query("gradsight_jobs_created_total") == {("default",): sum(counts.values())}
    finished = prometheus.query('gradsight_jobs_finished_total{state="failed"}')
    assert finished[("data", "default", "invalid_data", "failed")] >= 1
    wait_for("an idle worker", lambda: prometheus.query("gradsight_workers") == {("default", "idle"): 1})
    assert prometheus.query("gradsight_store_up") == {(): 1}
    assert 'grpc_method="CreateJob"' in calls


@pytest.mark.parametrize("page", ["exporter", "service_metrics", "worker_metrics"])
def test_promtool_finds_nothing_to_say_about_a_page(
    household: Household, datasets: Datasets, page: str
) -> None:
    with household.client() as client:
        client.submit(datasets.job("text_classifier")).wait(timeout=60)
    text = household.scrape(getattr(household, page))
    assert text
    checked = subprocess.run(
        [program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_the_shipped_configuration_is_valid(tmp_path: Path) -> None:
    shipped = str(ROOT / "deploy/prometheus/prometheus.yml")
    checked = subprocess.run(
        [program("promtool"), "check", "config", shipped], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_the_three_pages_have_no_family_in_common(household: Household) -> None:
    pages = [household.exporter, household.service_metrics, household.worker_metrics]
    families = [
        {line.split()[2] for line in household.scrape(page).splitlines() if line.startswith("# TYPE ")}
        for page in pages
    ]
    # Every process has figures about itself under the client library's own names.
    families = [{name for name in page if not name.startswith(("process_", "python_"))} for page in families]
    for first in range(3):
        for second in range(first + 1, 3):
            assert families[first] & families[second] == set()


def _nonzero(counts: dict[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    return {labels: count for labels, count in counts.items() if count}
