"""The exporter's lines: what a job's record becomes, and that every family is documented."""

import math
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gradsight.v1 import insight_pb2, job_pb2, state_pb2
from gradsight_service.exporter import fleet_families, page
from gradsight_service.exporter.exposition import Family, labelled, number, sample
from gradsight_service.exporter.fleet_families import fleet_lines
from gradsight_service.exporter.job_families import FAMILIES, job_lines
from gradsight_store.figures import WAIT_BUCKETS_S, FleetFigures, QueueWaits

ROOT = Path(__file__).resolve().parents[2]


def running_job() -> job_pb2.Job:
    job = job_pb2.Job(job_id="j1", tenant="default", state=state_pb2.JOB_STATE_RUNNING)
    job.spec.name = 'a "quoted"\\name'
    job.spec.queue = "default"
    job.spec.model.builtin.mlp.SetInParent()
    job.progress.step, job.progress.total_steps, job.progress.steps_taken = 50, 200, 70
    job.progress.last_step_time.FromMilliseconds(1_500)
    job.summary.train_loss = 0.1
    job.summary.gradient_norm = math.inf
    for index, path in enumerate(("hidden.0", "output")):
        job.summary.layers.add(index=index, path=path)
    job.summary.probe.layer_gradient_norm.extend([0.5, 2.0])
    job.summary.validation.error_ratio, job.summary.validation.macro_f1 = 0.25, 0.7
    job.summary.validation.categories.add(category="returns", examples=8, errors=2, error_ratio=0.25)
    return job


def judge(job: job_pb2.Job) -> None:
    """Findings, a verdict and a comparison that lists one fallen category."""
    critical, warning = state_pb2.SEVERITY_CRITICAL, state_pb2.SEVERITY_WARNING
    job.findings.add(kind="divergence", severity=critical, open=1, total=2)
    job.findings.add(kind="plateau", severity=warning, open=0, total=1)
    job.verdict.verdict = insight_pb2.VERDICT_STILL_IMPROVING
    job.summary.update_efficacy.verdict = insight_pb2.EFFICACY_VERDICT_OVERSHOOT
    job.summary.comparison.verdict = insight_pb2.COMPARISON_VERDICT_MIXED
    for name, change in (
        ("returns", insight_pb2.CHANGE_VERDICT_REGRESSED),
        ("sizing", insight_pb2.CHANGE_VERDICT_IMPROVED),
    ):
        job.summary.comparison.categories.add(category=name).change.verdict = change


def parsed(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Read lines as Prometheus's own Python parser does."""
    return {
        (found.name, tuple(sorted(found.labels.items()))): found.value
        for family in text_string_to_metric_families(text)
        for found in family.samples
    }


def test_a_jobs_figures_stand_under_its_id() -> None:
    values = parsed("".join(job_lines(running_job()).values()))
    own = ("job_id", "j1")
    assert values["gradsight_job_step", (own,)] == 50
    assert values["gradsight_job_steps_total", (own,)] == 70
    assert values["gradsight_job_progress_ratio", (own,)] == 0.25
    assert values["gradsight_job_last_step_timestamp_seconds", (own,)] == 1.5
    assert values["gradsight_job_loss", (own, ("split", "train"))] == 0.1
    assert values["gradsight_job_gradient_norm", (own,)] == math.inf
    assert values["gradsight_job_layer_gradient_norm", (("depth", "1"), own, ("layer", "output"))] == 2.0
    by_category = (("category", "returns"), own, ("split", "validation"))
    assert values["gradsight_job_category_error_ratio", by_category] == 0.25
    assert values["gradsight_job_category_examples", by_category] == 8
    assert values["gradsight_job_macro_f1", (own, ("split", "validation"))] == 0.7
    assert values["gradsight_job_state", (own, ("state", "running"))] == 1


def test_judgements_are_told_by_their_words_and_only_when_there_are_any() -> None:
    job = running_job()
    keys = {"findings", "verdict", "update_efficacy", "comparison", "regressed_category"}
    assert not keys & set(job_lines(job))
    judge(job)
    lines = job_lines(job)
    values = parsed("".join(lines[key] for key in keys))
    own = ("job_id", "j1")
    assert values == {
        ("gradsight_job_findings", (own, ("kind", "divergence"), ("severity", "critical"))): 1,
        ("gradsight_job_findings", (own, ("kind", "plateau"), ("severity", "warning"))): 0,
        ("gradsight_job_verdict", (own, ("verdict", "still_improving"))): 1,
        ("gradsight_job_update_efficacy", (own, ("verdict", "overshoot"))): 1,
        ("gradsight_job_comparison", (own, ("verdict", "mixed"))): 1,
        ("gradsight_job_regressed_category", (("category", "returns"), own)): 1,
    }


def test_numbers_and_language_models_have_their_own_figures_and_no_error_that_nobody_measured() -> None:
    job = running_job()
    job.summary.validation.Clear()
    job.summary.validation.loss, job.summary.validation.root_mean_square_error = 4.0, 2.0
    job.summary.validation.mean_absolute_error = 1.5
    job.summary.validation.categories.add(category="returns", examples=8, loss=5.0)
    job.summary.test.loss, job.summary.test.perplexity, job.summary.test.error_ratio = 1.0, 2.5, 0.6
    values = parsed("".join(job_lines(job).values()))
    own, validation, test = ("job_id", "j1"), ("split", "validation"), ("split", "test")
    assert values["gradsight_job_root_mean_square_error", (own, validation)] == 2.0
    assert values["gradsight_job_mean_absolute_error", (own, validation)] == 1.5
    assert values["gradsight_job_category_loss", (("category", "returns"), own, validation)] == 5.0
    assert values["gradsight_job_perplexity", (own, test)] == 2.5
    errors = [labels for name, labels in values if name == "gradsight_job_error_ratio"]
    assert errors == [(own, test)]
    assert not any(name == "gradsight_job_category_error_ratio" for name, _ in values)


def test_the_pages_of_every_kind_of_answers_pass_promtool() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    job = running_job()
    job.summary.validation.root_mean_square_error = job.summary.validation.mean_absolute_error = 2.0
    job.summary.validation.categories.add(category="sizing", examples=8, loss=5.0)
    job.summary.test.perplexity = 2.5
    judge(job)
    text = "".join(f"{FAMILIES[key].header()}{lines}" for key, lines in job_lines(job).items())
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_names_are_escaped() -> None:
    (line,) = job_lines(running_job())["info"].splitlines()
    ((_, labels),) = parsed(line + "\n")
    assert dict(labels)["name"] == 'a "quoted"\\name'
    assert dict(labels)["model"] == "mlp"


def test_a_fresh_job_has_no_figures_that_nobody_measured() -> None:
    job = job_pb2.Job(job_id="j2", state=state_pb2.JOB_STATE_QUEUED)
    assert set(job_lines(job)) == {"info", "state", "nonfinite_steps_total"}


def test_numbers_keep_every_digit_and_know_the_special_ones() -> None:
    assert [number(value) for value in (0.1, 1e300, math.inf, -math.inf, math.nan)] == [
        "0.1",
        "1e+300",
        "+Inf",
        "-Inf",
        "NaN",
    ]
    assert sample("a", labelled(b="c\nd"), 1.0) == 'a{b="c\\nd"} 1.0\n'


def test_the_histogram_of_waits_is_cumulative() -> None:
    waits = QueueWaits(buckets=[1] * (len(WAIT_BUCKETS_S) + 1), total_s=4.5)
    values = parsed("".join(fleet_lines(FleetFigures(now_ms=0, waits={"default": waits}))))
    name = "gradsight_queue_wait_seconds"
    assert values[f"{name}_bucket", (("le", "0.1"), ("queue", "default"))] == 1
    assert values[f"{name}_bucket", (("le", "+Inf"), ("queue", "default"))] == len(waits.buckets)
    assert values[f"{name}_count", (("queue", "default"),)] == len(waits.buckets)
    assert values[f"{name}_sum", (("queue", "default"),)] == 4.5


def test_a_value_of_a_newer_writer_is_shown_as_its_number() -> None:
    values = parsed("".join(fleet_lines(FleetFigures(now_ms=0, jobs={("default", 99): 3}))))
    assert values["gradsight_jobs", (("queue", "default"), ("state", "99"))] == 3
    job = job_pb2.Job(job_id="j1")
    job.verdict.MergeFromString(b"\x08\x63")
    assert parsed(job_lines(job)["verdict"]) == {
        ("gradsight_job_verdict", (("job_id", "j1"), ("verdict", "99"))): 1
    }


def test_every_family_is_documented() -> None:
    documented = (ROOT / "docs" / "metrics.md").read_text()
    modules = (fleet_families, page)
    families = [value for module in modules for value in vars(module).values() if isinstance(value, Family)]
    for family in [*FAMILIES.values(), *families]:
        assert f"| `{family.name}` |" in documented, family.name
        assert family.help in documented, family.name
