"""What the command line says of findings, verdicts, comparisons and reports."""

import io
import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

import gradsight
from gradsight import _convert
from gradsight.cli._comparison_page import print_comparison
from gradsight.cli._finding_page import print_finding
from gradsight.cli._insight import first_sentence, in_order_of_cause
from gradsight.cli._live import draw
from gradsight.cli._page import print_job
from gradsight.cli._run import Run
from gradsight.v1 import event_pb2, insight_pb2, spec_pb2, state_pb2
from gradsight.v1 import training_service_pb2 as wire

if TYPE_CHECKING:
    from tests.unit.client.conftest import LittleService

    Cli = Callable[..., subprocess.CompletedProcess[str]]

EXPLANATION = (
    "The gradient of hidden.0 is 1e-9 of the last layer's. Each layer multiplies it by less than 1, "
    "so that the first layers hardly learn, and the model stays near its first guess."
)


def _finding(kind: str, severity: str = "WARNING", **more: Any) -> insight_pb2.Finding:
    defaults: dict[str, Any] = {
        "finding_id": f"{kind}-1",
        "kind": kind,
        "severity": state_pb2.Severity.Value(f"SEVERITY_{severity}"),
        "subject_kind": insight_pb2.FINDING_SUBJECT_LAYER,
        "subject": "hidden.0",
        "first_step": 1200,
        "last_step": 1340,
        "confidence": 0.93,
        "explanation": EXPLANATION,
        "actions": ["Use ReLU in place of tanh.", "Put a normalization after each layer."],
        "open": True,
        "page_url": f"https://example.org/{kind}",
    }
    finding = insight_pb2.Finding(**{**defaults, **more})
    finding.evidence.add(
        name="gradient_ratio", observed=1e-9, threshold=1e-3, unit="", first_step=1100, last_step=1340
    )
    return finding


def _findings() -> list[insight_pb2.Finding]:
    cause = _finding("bad_initialization", "CRITICAL")
    suspects = _finding(
        "suspect_rows",
        "INFO",
        subject_kind=insight_pb2.FINDING_SUBJECT_CATEGORY,
        subject="returns",
        open=False,
    )
    suspects.suspect_rows.add(
        row_id="417",
        split=state_pb2.SPLIT_TRAIN,
        category="returns",
        target="refund",
        predicted="sizing",
        loss=7.5,
        rank=1,
    )
    return [cause, suspects, _finding("vanishing_gradient", cause_finding_id=cause.finding_id)]


def _comparison() -> wire.CompareJobsResponse:
    answer = wire.CompareJobsResponse()
    compared = answer.comparison
    compared.baseline_job_id, compared.job_id = "old", "new"
    compared.verdict = insight_pb2.COMPARISON_VERDICT_MIXED
    compared.baseline_weighted_error_ratio, compared.weighted_error_ratio = 0.16, 0.08
    compared.message = "Too few rows to show a fall of 10 points in: rare."
    rows = {
        "all": (1200, 174, 109, "IMPROVED", 0.012),
        "returns": (300, 60, 20, "IMPROVED", 0.02),
        "sizing": (290, 12, 31, "REGRESSED", 0.02),
        "rare": (9, 1, 2, "INSUFFICIENT_EVIDENCE", None),
    }
    for name, (examples, before, after, verdict, fall) in rows.items():
        change = insight_pb2.PairedChange(
            examples=examples,
            baseline_errors=before,
            errors=after,
            p_value=0.004,
            level=0.05,
            smallest_detectable_fall=fall,
            verdict=insight_pb2.ChangeVerdict.Value(f"CHANGE_VERDICT_{verdict}"),
        )
        for field, errors in ((change.baseline_error_ratio, before), (change.error_ratio, after)):
            ratio = errors / examples
            field.ratio, field.lower, field.upper = ratio, max(0, ratio - 0.02), ratio + 0.02
        if name == "all":
            compared.overall.CopyFrom(change)
        else:
            compared.categories.add(category=name, impact=3 if name == "returns" else 1, change=change)
    answer.differences.add(field="optimizer.learning_rate", baseline_value="0.001", value="0.003")
    answer.differences.add(field="seed", value="7")
    return answer


def insightful_jobs(service: "LittleService") -> None:
    """Two jobs that succeeded, with everything that there is to say of the new one."""
    for job_id, steps in (("old", 60), ("new", 100)):
        job = service.add_job(job_id, name="intents")
        job.spec.monitoring.policy = spec_pb2.MONITORING_POLICY_REPAIR
        job.start_time.GetCurrentTime()
        service.change(job_id, state_pb2.JOB_STATE_RUNNING)
        layers = [event_pb2.Layer(index=index, path=f"hidden.{index}", kind="Linear") for index in range(3)]
        model = event_pb2.ModelBuilt(architecture="mlp", layers=layers, total_steps=steps, steps_per_epoch=20)
        service.append(job_id, model_built=model)
        for first in range(1, steps, 20):
            loss = [2.0 * math.exp(-(first + index) / 40) + 0.1 for index in range(20)]
            taken = event_pb2.StepsRecorded(
                first_step=first,
                loss=loss,
                gradient_norm=[2.0] * 20,
                learning_rate=[0.1] * 20,
                training_seconds=first,
            )
            taken.probes.add(
                step=first + 10, layer_gradient_norm=[0.001, 0.1, 1.0], gain_ratio=0.9 + first / 1000
            )
            service.append(job_id, steps_recorded=taken)
            evaluation = event_pb2.EvaluationCompleted(
                split=state_pb2.SPLIT_VALIDATION,
                step=first + 19,
                epoch=first / 20,
                examples=10,
                error_ratio=1 / first,
                kept=True,
            )
            evaluation.update_efficacy.verdict = insight_pb2.EFFICACY_VERDICT_EFFECTIVE
            evaluation.update_efficacy.gain_ratio = 0.97
            evaluation.update_efficacy.held_out_z = -2.14
            service.append(job_id, evaluation_completed=evaluation)
        job.progress.step = job.progress.total_steps = steps
        summary = job.summary
        summary.train_loss, summary.gradient_norm, summary.gain_ratio = 0.4, 2.0, 0.97
        summary.layers.extend(layers)
        summary.update_efficacy.CopyFrom(evaluation.update_efficacy)
        summary.test.split, summary.test.examples, summary.test.error_ratio = state_pb2.SPLIT_TEST, 1200, 0.09
    _judge(service)
    for job_id in ("old", "new"):
        service.change(job_id, state_pb2.JOB_STATE_SUCCEEDED)


def _judge(service: "LittleService") -> None:
    """Findings, repairs, verdict and comparison of the new job, as events and in its record."""
    job = service.jobs["new"]
    service.findings["new"] = _findings()
    for finding in service.findings["new"]:
        service.append("new", finding_opened=event_pb2.FindingOpened(finding=finding))
        job.findings.add(kind=finding.kind, severity=finding.severity, open=int(finding.open), total=1)
        if not finding.open:
            service.append("new", finding_closed=event_pb2.FindingClosed(finding=finding))
    applied = event_pb2.MitigationApplied(
        mitigation_id="mitigation-1",
        finding_id="bad_initialization-1",
        action=insight_pb2.MITIGATION_ACTION_SCALE_LEARNING_RATE,
        description="learning rate × 0.5",
        step=40,
        trial=True,
    )
    service.append("new", mitigation_applied=applied)
    reverted = event_pb2.MitigationReverted(
        mitigation_id="mitigation-1", step=60, message="held-out loss got no better"
    )
    service.append("new", mitigation_reverted=reverted)
    verdict = job.verdict
    verdict.verdict, verdict.confirmed, verdict.step = insight_pb2.VERDICT_PLATEAUED, True, 100
    verdict.kept_checkpoint_usable = True
    verdict.reasons.extend(["Held-out loss has not fallen since step 60.", "Training loss falls on."])
    service.append("new", verdict_reached=event_pb2.VerdictReached(verdict=verdict))
    service.comparisons["old", "new"] = _comparison()
    job.summary.comparison.CopyFrom(_comparison().comparison)
    completed = event_pb2.ComparisonCompleted(comparison=job.summary.comparison)
    service.append("new", comparison_completed=completed)


def _text(console_of: Callable[[Console], object], width: int = 100) -> str:
    file = io.StringIO()
    console_of(Console(file=file, width=width, height=60, highlight=False))
    return file.getvalue()


def test_findings_are_a_table_with_consequences_below_their_causes(
    service: "LittleService", cli: "Cli"
) -> None:
    insightful_jobs(service)
    done = cli("findings", "new")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["FINDING", "SEVERITY", "STATE", "STEPS", "WHERE", "WHAT"]
    assert lines[1].startswith("bad_initialization-1  ")
    assert lines[2].startswith("  vanishing_gradient-1  warning   open    1,200–1,340  layer hidden.0  ")
    assert lines[2].endswith("The gradient of hidden.0 is 1e-9 of the last layer's.")
    assert "closed" in lines[3]
    assert "gradsight findings new bad_initialization-1" in done.stderr
    assert len(cli("findings", "new", "--open").stdout.splitlines()) == 3
    kinds = [
        json.loads(line)["kind"] for line in cli("findings", "new", "--format", "json").stdout.splitlines()
    ]
    assert kinds == ["bad_initialization", "suspect_rows", "vanishing_gradient"]
    assert cli("findings", "old").stderr == "no findings\n"


def test_a_finding_in_full_has_its_evidence_and_what_to_do(service: "LittleService", cli: "Cli") -> None:
    insightful_jobs(service)
    done = cli("findings", "new", "vanishing_gradient-1")
    words = ["vanishing gradient", "WARNING", "layer hidden.0", "confidence 93%", "1.00e-09", "0.001"]
    words += ["consequence of bad_initialization-1", "stays near its first guess", "1. Use ReLU", "2. Put a"]
    for part in [*words, "https://example.org/vanishing_gradient"]:
        assert part in done.stdout
    suspects = cli("findings", "new", "suspect_rows").stdout
    assert "417  train  returns   refund  sizing       7.5" in suspects
    assert json.loads(cli("findings", "new", "suspect_rows", "--format", "json").stdout)["open"] is False
    wrong = cli("findings", "new", "overfitting-1")
    assert wrong.returncode == 2
    assert "got 'overfitting-1', allowed: those of job new: bad_initialization-1" in wrong.stderr


@pytest.mark.parametrize("width", [80, 120])
def test_a_long_finding_fits_the_window(width: int) -> None:
    finding = _convert.record(gradsight.Finding, _findings()[0])
    text = _text(lambda console: print_finding(finding, console), width)
    assert max(map(len, text.splitlines())) <= width
    assert "stays near its first guess" in " ".join(text.split())


def test_causes_that_name_each_other_are_both_told() -> None:
    first, second = (
        _finding("plateau", cause_finding_id="spike-1"),
        _finding("spike", cause_finding_id="plateau-1"),
    )
    found = [_convert.record(gradsight.Finding, each) for each in (first, second)]
    assert sorted(each.kind for each, _ in in_order_of_cause(found)) == ["plateau", "spike"]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One. Two.", "One."),
        ("The ratio is 0.5 here. More.", "The ratio is 0.5 here."),
        ("hidden.0 is still", "hidden.0 is still"),
        ("a\n b. C", "a b."),
        ("", ""),
    ],
)
def test_the_first_sentence_of_an_explanation(text: str, first: str) -> None:
    assert first_sentence(text) == first


def test_a_comparison_shows_categories_curves_and_differences(service: "LittleService", cli: "Cli") -> None:
    insightful_jobs(service)
    text = cli("compare", "old", "new").stdout
    assert text.index("\nsizing") < text.index("\nreturns") < text.index("\nrare")
    for part in ("MIXED", "Too few rows", "20.0 % (18–22)", "+6.6", "regressed", "insufficient evidence"):
        assert part in text
    for part in ("validation error ratio", "60 steps", "100 steps", "optimizer.learning_rate", "0.003"):
        assert part in text
    old, new = (
        line.split()[1] for line in text.splitlines() if "steps" in line and "→ 0." in line and "2." in line
    )
    assert (len(old), len(new)) == (24, 40)
    assert old[:20] == new[:20]
    assert new[-1] == "▁"
    assert "▁" not in old
    document = json.loads(cli("compare", "old", "new", "--format", "json").stdout)
    assert document["comparison"]["verdict"] == "mixed"
    assert document["differences"][1] == {"field": "seed", "baseline_value": None, "value": "7"}
    assert cli("compare", "old", "nope").returncode == 2


@pytest.mark.parametrize("width", [80, 120])
def test_a_comparison_fits_the_window(service: "LittleService", width: int) -> None:
    insightful_jobs(service)
    with gradsight.Client(service.address) as client:
        handles = [client.job(job_id) for job_id in ("old", "new")]
        jobs, curves = [each.get() for each in handles], [each.history(["loss"]) for each in handles]
        compared = client.compare(*jobs)
    text = _text(lambda console: print_comparison(compared, jobs, curves, console), width)
    assert max(map(len, text.splitlines())) <= width
    for name in ("all rows", "returns", "sizing", "insufficient evidence", "regressed"):
        assert name in text


def test_a_report_is_written_where_it_is_asked_for(
    service: "LittleService", cli: "Cli", tmp_path: Path
) -> None:
    service.add_job("job1")
    assert cli("report", "job1").stdout == "job1.html\n"
    assert (tmp_path / "job1.html").read_text() == "<h1>job1</h1>\n"
    assert cli("report", "job1", "-o", "sub/").stdout == "sub/job1.html\n"
    assert cli("report", "job1", "-o", "notes.md").returncode == 0
    assert (tmp_path / "notes.md").read_text() == "# job1\n"
    assert cli("report", "job1", "--markdown", "-o", "-").stdout == "# job1\n"
    document = json.loads(cli("report", "job1", "--format", "json").stdout)
    assert document == {"path": "job1.html", "media_type": "text/html; charset=utf-8", "size_bytes": 14}
    assert (
        json.loads(cli("report", "job1", "-o", "-", "--format", "json").stdout)["content"]
        == "<h1>job1</h1>\n"
    )
    wrong = cli("report", "job1", "-o", "no/such/place.html")
    assert (wrong.returncode, "no/such/place.html cannot be written" in wrong.stderr) == (2, True)


@pytest.mark.parametrize(
    ("required", "code", "said"),
    [
        ([], 0, ""),
        (["error<=0.1", "usable"], 0, ""),
        (["no-regression"], 4, "no-regression is not met: mixed, all rows 14.5 % → 9.1 % of 1,200 rows"),
        (["error<=0.1", "improved=rare"], 4, "improved=rare cannot be judged: rare has too few rows"),
    ],
)
def test_waiting_exits_with_4_when_a_requirement_is_not_met(
    service: "LittleService", cli: "Cli", required: list[str], code: int, said: str
) -> None:
    insightful_jobs(service)
    done = cli("wait", "new", *(part for each in required for part in ("--require", each)))
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "run        plateaued, the kept weights are worth using: Held-out loss" in done.stdout
    assert "new model  mixed against old: sizing regressed, returns improved" in done.stdout
    assert ("error<=0.1 is met: error on test is 9.0 % over 1,200 rows" in done.stdout) is (
        "error<=0.1" in required
    )


def test_requirements_are_part_of_the_json(service: "LittleService", cli: "Cli") -> None:
    insightful_jobs(service)
    done = cli("wait", "new", "--require", "no-regression", "--format", "json")
    assert done.returncode == 4
    [result] = json.loads(done.stdout)["requirements"]
    assert (result["requirement"], result["outcome"]) == ("no-regression", "not_met")
    assert "requirements" not in json.loads(cli("wait", "new", "--format", "json").stdout)


def test_a_failed_job_exits_with_1_whatever_was_required(service: "LittleService", cli: "Cli") -> None:
    service.add_job()
    service.change("job1", state_pb2.JOB_STATE_FAILED)
    assert cli("wait", "job1", "--require", "usable").returncode == 1


def test_the_log_tells_findings_repairs_verdicts_and_comparisons(
    service: "LittleService", cli: "Cli"
) -> None:
    insightful_jobs(service)
    text = cli("logs", "new").stdout
    for part in (
        "finding opened: critical bad initialization in layer hidden.0 since step 1,200: The gradient",
        "To do: Use ReLU in place of tanh.",
        "(consequence of bad_initialization-1)",
        "finding closed: info suspect rows in category returns",
        "repair mitigation-1 after step 40, on trial: learning rate × 0.5",
        "repair mitigation-1 taken back after step 60: held-out loss got no better",
        "verdict after step 100: plateaued, the kept weights are worth using: Held-out loss has not",
        "comparison: mixed against old: sizing regressed, returns improved",
        "updates effective · gain ratio 0.97 · held-out loss −2.1 standard errors",
    ):
        assert part in text, part


@pytest.mark.parametrize("width", [80, 120])
def test_the_page_of_a_job_has_verdict_findings_and_repairs(service: "LittleService", width: int) -> None:
    insightful_jobs(service)
    with gradsight.Client(service.address) as client:
        handle = client.job("new")
        job = handle.get()
        text = _text(lambda console: print_job(job, handle, console), width)
    for part in (
        "plateaued",
        "Training loss falls on.",
        "mixed against old",
        "bad_initialization-1",
        "1 finding was closed",
    ):
        assert part in text
    for part in ("effective · gain ratio 0.97", "mitigation-1  taken back  40–60", "  vanishing_gradient-1"):
        assert part in text
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [80, 110])
def test_the_live_picture_has_verdict_findings_and_what_updates_achieve(
    service: "LittleService", width: int
) -> None:
    insightful_jobs(service)
    with gradsight.Client(service.address) as client:
        handle = client.job("new")
        run = Run(handle.get(), ())
        for event in handle.events():
            run.take(event)
    text = _text(lambda console: console.print(draw(run, width, 40)), width)
    for part in ("updates", "effective", "verdict", "plateaued", "critical", "bad initialization in layer"):
        assert part in text
    assert "1 more: gradsight findings new --open" in text  # the consequence
    assert len(draw_lines := text.splitlines()) <= 40
    assert max(map(len, draw_lines)) <= width
    assert "learning rate 0.1" in text


def test_the_list_of_jobs_has_their_verdicts(service: "LittleService", cli: "Cli") -> None:
    insightful_jobs(service)
    lines = cli("jobs").stdout.splitlines()
    place = lines[0].index("VERDICT")
    assert lines[1][place:].startswith("plateaued ")
    assert lines[2][place:].startswith("– ")
