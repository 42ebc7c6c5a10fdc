"""The real command, in a process of its own: what it prints, and the code it exits with."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from gradsight.v1 import (
    artifact_service_pb2,
    event_pb2,
    job_pb2,
    spec_pb2,
    state_pb2,
    training_service_pb2,
    worker_pb2,
)

if TYPE_CHECKING:
    from tests.unit.client.conftest import LittleService

    Cli = Callable[..., subprocess.CompletedProcess[str]]

LATER = {"PauseJob", "ResumeJob"}
SUBMIT = (
    "submit",
    "--model",
    "text_classifier",
    "--train",
    "rows.csv",
    "--text",
    "text",
    "--target",
    "intent",
)


@pytest.fixture(autouse=True)
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("text,intent\nwhere is my parcel,delivery\n")
    return path


def _run_job(service: "LittleService", job_id: str = "job1", state: str = "SUCCEEDED") -> None:
    """A short life, written at once."""
    if job_id not in service.jobs:
        service.add_job(job_id, name="intents")
    job = service.jobs[job_id]
    job.start_time.GetCurrentTime()
    job.attempts.add(number=1, worker_id="w1", device="cpu")
    service.change(job_id, state_pb2.JOB_STATE_RUNNING)
    service.append(job_id, attempt_started=event_pb2.AttemptStarted(worker_id="w1", device="cpu"))
    layers = [event_pb2.Layer(index=index, path=f"hidden.{index}", kind="Linear") for index in range(2)]
    model = event_pb2.ModelBuilt(architecture="mlp", layers=layers, total_steps=4, steps_per_epoch=2)
    service.append(job_id, model_built=model)
    probe = event_pb2.Probe(step=4, layer_gradient_norm=[0.5, 0.25], layer_update_ratio=[0.01, 0.02])
    steps = event_pb2.StepsRecorded(
        first_step=1,
        loss=[2.0, float("nan"), 1.0, 0.5],
        gradient_norm=[4, 3, 2, 1],
        learning_rate=[0.1] * 4,
        nonfinite_steps=[2],
        probes=[probe],
        samples_total=256,
        training_seconds=0.5,
    )
    service.append(job_id, steps_recorded=steps)
    evaluation = event_pb2.EvaluationCompleted(
        split=state_pb2.SPLIT_VALIDATION, step=4, epoch=2, examples=10, error_ratio=0.2, kept=True
    )
    service.append(job_id, evaluation_completed=evaluation)
    summary = job.summary
    summary.train_loss, summary.gradient_norm = 0.5, 1.0
    summary.layers.extend(layers)
    summary.probe.CopyFrom(probe)
    job.progress.step = job.progress.total_steps = 4
    for name, field, errors in (("test", summary.test, 2), ("baseline", summary.baseline_test, 5)):
        field.split, field.examples, field.error_ratio = state_pb2.SPLIT_TEST, 10, errors / 10
        field.baseline_job_id = "old" if name == "baseline" else ""
        field.categories.add(category="returns", examples=10, errors=errors, error_ratio=errors / 10)
    error = None
    if state == "FAILED":
        error = state_pb2.JobError(
            reason=state_pb2.JOB_ERROR_REASON_INVALID_SPEC,
            fault=state_pb2.FAULT_DATA,
            message="row 7 has no target",
            field="data.target_column",
        )
    else:
        job.result.append(service.add_blob(b"weights", "weights.safetensors", job_id=job_id, kind=3))
    service.change(job_id, state_pb2.JobState.Value(f"JOB_STATE_{state}"), error=error)


def test_submit_prints_the_id_and_how_to_follow(service: "LittleService", cli: "Cli") -> None:
    done = cli(*SUBMIT)
    assert (done.returncode, done.stdout) == (0, "job1\n")
    assert "gradsight watch job1" in done.stderr
    assert service.jobs["job1"].spec.data.input_columns == ["text"]


def test_every_flag_of_submit_reaches_the_spec(service: "LittleService", cli: "Cli", tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text("{}\n")
    flags = (
        "--model mlp --train rows.csv --validation other.jsonl --test rows.csv --target y --input a --input b"
    )
    flags += (
        " --category c --impact returns=3 --impact sizing=2 --id row --baseline old --epochs 3 --batch-size 8"
    )
    flags += (
        " --learning-rate 1e-2 --seed 7 --name weekly --label team=support --queue fast --request-id once"
    )
    flags += " --objective huber --optimizer muon --schedule one_cycle --precision bfloat16 --patience 4"
    flags += " --from-job older --policy repair"
    assert cli("submit", *flags.split()).returncode == 0
    spec = service.jobs["job1"].spec
    assert spec.model.builtin.HasField("mlp")
    assert list(spec.data.input_columns) == ["a", "b"]
    assert (spec.data.target_column, spec.data.category_column, spec.data.id_column) == ("y", "c", "row")
    assert (spec.data.batch_size, spec.budget.epochs, spec.seed) == (8, 3, 7)
    choices = (spec.objective.WhichOneof("kind"), spec.optimizer.WhichOneof("algorithm"))
    assert (*choices, spec.schedule.WhichOneof("kind")) == ("huber", "muon", "one_cycle")
    assert (spec.compute.precision, spec.evaluation.patience) == (spec_pb2.PRECISION_BFLOAT16, 4)
    assert spec.start.weights_job_id == "older"
    assert (spec.name, spec.queue, dict(spec.labels)) == ("weekly", "fast", {"team": "support"})
    assert dict(spec.evaluation.category_impacts) == {"returns": 3, "sizing": 2}
    assert spec.evaluation.baseline_job_id == "old"
    assert spec.monitoring.policy == spec_pb2.MONITORING_POLICY_REPAIR
    assert spec.optimizer.learning_rate == 0.01
    assert list(service.requests) == ["once"]


def test_every_flag_can_come_from_the_environment(service: "LittleService", cli: "Cli") -> None:
    environment = {
        "GRADSIGHT_MODEL": "mlp",
        "GRADSIGHT_TRAIN": "rows.csv",
        "GRADSIGHT_TARGET": "intent",
        "GRADSIGHT_INPUT": "a b",
        "GRADSIGHT_BATCH_SIZE": "16",
        "GRADSIGHT_LABEL": "team=support week=48",
        "GRADSIGHT_FORMAT": "json",
    }
    done = cli("submit", **environment)
    assert json.loads(done.stdout)["spec"]["labels"] == {"team": "support", "week": "48"}
    spec = service.jobs["job1"].spec
    assert (list(spec.data.input_columns), spec.data.batch_size) == (["a", "b"], 16)


def test_every_option_of_every_verb_has_its_variable() -> None:
    import click

    from gradsight.cli._root import _OWN, root

    context = click.Context(root)
    for verb in _OWN:
        command = root.get_command(context, verb)
        assert command is not None
        for option in command.params:
            if isinstance(option, click.Option) and verb != "demo":
                flag = next(name for name in option.opts if name.startswith("--"))
                expected = "GRADSIGHT_" + flag.removeprefix("--").replace("-", "_").upper()
                assert option.envvar == expected, f"{verb} {flag}"


def test_a_spec_file_is_joined_by_flags(service: "LittleService", cli: "Cli", tmp_path: Path) -> None:
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "rows.csv").write_text("text,intent\nother,rows\n")
    (tmp_path / "specs" / "job.yaml").write_text(
        "model: text_classifier\ndata: {train: rows.csv, text: text, target: intent}\nbudget: {steps: 9}\n"
    )
    assert cli("submit", "-f", "specs/job.yaml", "--epochs", "2", "--test", "rows.csv").returncode == 0
    spec = service.jobs["job1"].spec
    assert spec.budget.epochs == 2
    assert service.blobs[spec.data.train.artifact][1] == b"text,intent\nother,rows\n"
    assert service.blobs[spec.data.test.artifact][1] != service.blobs[spec.data.train.artifact][1]


def test_validate_prints_a_spec_that_submit_takes(
    service: "LittleService", cli: "Cli", tmp_path: Path
) -> None:
    done = cli("validate", *SUBMIT[1:], "--label", "week=42")
    assert done.returncode == 0
    assert service.jobs == {}
    (tmp_path / "again.yaml").write_text(done.stdout)
    assert cli("submit", "-f", "again.yaml").returncode == 0
    assert dict(service.jobs["job1"].spec.labels) == {"week": "42"}
    assert json.loads(cli("validate", *SUBMIT[1:], "--format", "json").stdout)["data"]["batch_size"] == 64


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("submit", "--model", "mlp"), ["data.target_column (--target)", "got nothing"]),
        (("submit", "--model", "mpl"), ["model (--model)", "did you mean mlp?"]),
        (
            ("submit", "--model", "mlp", "--train", "no.csv", "--target", "y"),
            ["data.train (--train)", "No such file"],
        ),
        (("submit", "-f", "no.yaml"), ["no.yaml cannot be read", "No such file"]),
        ((*SUBMIT, "--require", "no-regression"), ["--require needs --follow or --wait"]),
        (
            (*SUBMIT, "--wait", "--require", "improvd"),
            ["--require", "got 'improvd', allowed:", "mean improved?"],
        ),
        (
            (*SUBMIT, "--wait", "--require", "improved=returns"),
            ["--require improved=returns needs a baseline: name an earlier job by --baseline"],
        ),
        ((*SUBMIT, "--timeout", "30"), ["'30' is no duration; write 45s, 30m, 1h30m"]),
        ((*SUBMIT, "--timeout", "30m"), ["--timeout needs --follow or --wait"]),
        ((*SUBMIT, "--impact", "returns"), ["got 'returns', allowed: name=3"]),
        ((*SUBMIT, "--label", "=x"), ["got '=x', allowed: name=value"]),
        (("show", "nope"), ["no job nope"]),
        (("watch", "nope"), ["no job nope"]),
        (("sumbit",), ["did you mean submit?"]),
        (("jobs", "--state", "runing"), ["runing"]),
    ],
)
def test_mistakes_exit_with_2_and_say_what_to_do(
    cli: "Cli", arguments: tuple[str, ...], words: list[str]
) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("jobs",),
        ("show", "x"),
        ("watch", "x"),
        ("logs", "x"),
        ("wait", "x"),
        ("cancel", "x"),
        SUBMIT,
        ("download", "x"),
    ],
)
def test_nobody_at_the_address_exits_with_6_and_says_how_to_start_one(
    cli: "Cli", arguments: tuple[str, ...]
) -> None:
    done = cli(*arguments, GRADSIGHT_ADDRESS="127.0.0.1:1")
    assert done.returncode == 6
    assert "no gradsight service answers at 127.0.0.1:1 (connection refused)" in done.stderr
    assert "`gradsight up`" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_a_store_that_is_down_exits_with_6(service: "LittleService", cli: "Cli") -> None:
    for _ in range(9):
        message = "the service cannot reach its store; try again in a moment"
        service.refuse("ListJobs", grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", message)
    done = cli("jobs")
    assert done.returncode == 6
    assert "cannot reach its store" in done.stderr


@pytest.mark.parametrize(("state", "code"), [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELLED", 3)])
@pytest.mark.parametrize("verb", ["wait", "watch"])
def test_the_exit_code_is_the_outcome(
    service: "LittleService", cli: "Cli", state: str, code: int, verb: str
) -> None:
    _run_job(service, state=state)
    done = cli(verb, "job1")
    assert done.returncode == code
    assert f"job job1 {state.lower()}" in done.stdout + done.stderr
    assert cli(verb, "job1", "--format", "json").returncode == code


def test_a_failed_job_says_why_and_whose_fault(service: "LittleService", cli: "Cli") -> None:
    _run_job(service, state="FAILED")
    expected = "invalid_spec (fault: data, field data.target_column): row 7 has no target"
    assert expected in cli("wait", "job1").stderr
    assert expected in cli("show", "job1").stdout
    assert expected in cli("logs", "job1").stdout


def test_waiting_for_several_jobs_fails_when_one_does(service: "LittleService", cli: "Cli") -> None:
    _run_job(service, "a")
    _run_job(service, "b", state="FAILED")
    assert cli("wait", "a", "b").returncode == 1
    assert cli("wait", "a").returncode == 0


@pytest.mark.parametrize("verb", ["wait", "watch"])
def test_a_timeout_exits_with_5_and_leaves_the_job(service: "LittleService", cli: "Cli", verb: str) -> None:
    service.add_job()
    done = cli(verb, "job1", "--timeout", "300ms")
    assert done.returncode == 5
    assert "it goes on" in done.stderr
    assert service.jobs["job1"].state == state_pb2.JOB_STATE_QUEUED


def test_submit_and_follow_prints_what_happens_and_exits_with_the_outcome(
    service: "LittleService", cli: "Cli"
) -> None:
    def train() -> None:
        _until(lambda: "WatchJob" in service.calls)
        _run_job(service, state="FAILED")

    trainer = threading.Thread(target=train)
    trainer.start()
    done = cli(*SUBMIT, "--follow")
    trainer.join()
    assert done.returncode == 1
    kinds = [
        "queued",
        "running",
        "attempt 1 on w1 (cpu)",
        "model mlp",
        "step 4  loss 0.5",
        "validation at step 4",
    ]
    assert [any(kind in line for line in done.stdout.splitlines()) for kind in kinds] == [True] * 6
    assert "1 non-finite" in done.stdout


def test_submit_and_follow_in_json_ends_with_what_became_of_the_requirements(
    service: "LittleService", cli: "Cli"
) -> None:
    def train() -> None:
        _until(lambda: "WatchJob" in service.calls)
        _run_job(service)

    trainer = threading.Thread(target=train)
    trainer.start()
    required = ("--require", "error<=0.25", "--require", "error[returns]<=10%")
    done = cli(*SUBMIT, "--follow", "--format", "json", *required)
    trainer.join()
    assert done.returncode == 4
    last = json.loads(done.stdout.splitlines()[-1])
    outcomes = [result["outcome"] for result in last["requirements"]]
    assert (last["job_id"], outcomes) == ("job1", ["met", "not_met"])


@pytest.mark.parametrize(
    "arguments", [("watch", "job1"), ("wait", "job1"), ("watch", "job1", "--format", "json")]
)
def test_ctrl_c_detaches_and_says_how_to_come_back(
    service: "LittleService", tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    service.add_job()
    process = subprocess.Popen(
        [sys.executable, "-m", "gradsight.cli", *arguments, "--address", service.address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    _until(lambda: "WatchJob" in service.calls)
    if "watch" in arguments:
        assert process.stdout is not None
        assert "queued" in process.stdout.readline()
    time.sleep(0.3)  # the call is out, the line is written; the process needs a moment to be back in its wait
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "detached; job job1 goes on" in errors
    assert (
        f"gradsight watch job1{' --after 1' if 'watch' in arguments else ''} --address {service.address}"
        in errors
    )
    assert f"gradsight cancel job1 --address {service.address}" in errors
    assert "Traceback" not in errors
    assert service.jobs["job1"].state == state_pb2.JOB_STATE_QUEUED


def test_a_reader_that_goes_away_is_no_error(service: "LittleService", tmp_path: Path) -> None:
    service.add_job()
    service.log_lines("job1", 5000)
    command = f"{sys.executable} -m gradsight.cli logs job1 --address {service.address} | head -n 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_json_is_one_document_or_one_line_per_item(service: "LittleService", cli: "Cli") -> None:
    _run_job(service)
    shown = json.loads(cli("show", "job1", "--format", "json").stdout)
    assert (shown["state"], shown["summary"]["test"]["error_ratio"]) == ("succeeded", 0.2)
    listed = [json.loads(line) for line in cli("jobs", "--format", "json").stdout.splitlines()]
    assert [job["job_id"] for job in listed] == ["job1"]
    events = [json.loads(line) for line in cli("watch", "job1", "--format", "json").stdout.splitlines()]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    [steps] = [event["detail"] for event in events if event["kind"] == "steps_recorded"]
    assert steps["loss"] == [2.0, None, 1.0, 0.5]
    curves = [json.loads(line) for line in cli("history", "job1", "--format", "json").stdout.splitlines()]
    assert curves[0]["metric"] == "loss"
    assert json.loads(cli("version", "--format", "json").stdout)["service"] == "9.9.9"


def test_the_page_of_a_job_shows_what_was_learned(service: "LittleService", cli: "Cli") -> None:
    _run_job(service)
    page = cli("show", "job1").stdout
    for part in ("intents", "SUCCEEDED", "4 of 4 steps", "hidden.1", "weights.safetensors", "w1"):
        assert part in page
    [returns] = [line for line in page.splitlines() if line.startswith("returns")]
    assert [cell for cell in ("10", "2", "20.0 %", "50.0 %", "−30.0") if cell not in returns] == []


@pytest.mark.parametrize(
    ("before", "after", "parts"),
    [
        (
            {"root_mean_square_error": 4.0, "mean_absolute_error": 3.0},
            {"root_mean_square_error": 3.0, "mean_absolute_error": 2.5},
            ("RMSE 3, MAE 2.5, loss 9 over 10 rows", "baseline RMSE 4 −25.0 %", "test loss", "−7"),
        ),
        (
            {"perplexity": 8.0, "error_ratio": 0.5},
            {"perplexity": 10.0, "error_ratio": 0.6},
            ("perplexity 10, error 60.0 %, loss 9", "baseline perplexity 8 +25.0 %"),
        ),
    ],
)
def test_the_page_and_the_list_show_the_figures_that_fit_the_answers(
    service: "LittleService",
    cli: "Cli",
    before: dict[str, Any],
    after: dict[str, Any],
    parts: tuple[str, ...],
) -> None:
    _run_job(service)
    summary = service.jobs["job1"].summary
    for field, loss, figures in ((summary.baseline_test, 16.0, before), (summary.test, 9.0, after)):
        field.Clear()
        field.MergeFrom(event_pb2.EvaluationCompleted(loss=loss, examples=10, **figures))
        field.split = state_pb2.SPLIT_TEST
        field.categories.add(category="returns", examples=10, loss=loss)
    page = " ".join(cli("show", "job1").stdout.split())
    for part in parts:
        assert part in page
    assert parts[0].split(",")[0] in cli("jobs").stdout


def test_show_without_a_job_shows_the_service(service: "LittleService", cli: "Cli") -> None:
    assert "no workers" in cli("show").stdout
    service.workers.append(
        worker_pb2.Worker(worker_id="host-1", device="cuda:0", state=worker_pb2.WORKER_STATE_IDLE)
    )
    service.add_job(name="intents")
    page = cli("show").stdout
    for part in ("9.9.9", "host-1", "cuda:0", "idle", "intents"):
        assert part in page


def test_jobs_are_listed_in_columns_with_the_reason_why_they_wait(
    service: "LittleService", cli: "Cli"
) -> None:
    job = service.add_job(name="weekly")
    job.waiting.reason = job_pb2.WAITING_REASON_NO_WORKER
    lines = cli("jobs").stdout.splitlines()
    assert lines[0].split() == [
        "JOB",
        "NAME",
        "STATE",
        "PROGRESS",
        "LOSS",
        "ERROR",
        "VERDICT",
        "CREATED",
        "TOOK",
    ]
    assert "queued (no worker)" in lines[1]
    assert cli("jobs", "--name", "other").stderr == "no jobs\n"
    for number in range(5):
        service.add_job(f"more{number}")
    assert len(cli("jobs", "--limit", "3").stdout.splitlines()) == 4


def test_logs_leave_steps_out_unless_asked(service: "LittleService", cli: "Cli") -> None:
    _run_job(service)
    assert "loss 0.5" not in cli("logs", "job1").stdout.replace("loss 0,", "")
    assert "step 4  loss 0.5" in cli("logs", "job1", "--steps").stdout
    only = cli("logs", "job1", "--kind", "state_changed", "--follow").stdout.splitlines()
    assert [line.split()[1] for line in only] == ["queued", "running", "succeeded"]


def test_history_in_a_pipe_is_a_row_per_point(service: "LittleService", cli: "Cli") -> None:
    _run_job(service)
    rows = cli("history", "job1", "--metric", "layer_gradient_norm").stdout.splitlines()
    assert rows == ["layer_gradient_norm\thidden.0\t4\t0.5", "layer_gradient_norm\thidden.1\t4\t0.25"]


def test_download_fetches_the_result_or_says_that_there_is_none_yet(
    service: "LittleService", cli: "Cli", tmp_path: Path
) -> None:
    service.add_job()
    refused = cli("download", "job1")
    assert refused.returncode == 1
    assert "gradsight wait job1" in refused.stderr
    _run_job(service)
    assert cli("download", "job1").returncode == 0
    assert (tmp_path / "job1" / "weights.safetensors").read_bytes() == b"weights"
    digest = service.jobs["job1"].result[0].digest
    assert cli("download", digest, "--to", "out").returncode == 0
    assert (tmp_path / "out" / "weights.safetensors").exists()
    assert cli("download", "job1", "--kind", "result", "--to", "kinds").returncode == 0
    assert (tmp_path / "kinds" / "weights.safetensors").exists()


@pytest.mark.parametrize(("state", "code"), [("FAILED", 1), ("CANCELLED", 3)])
def test_download_of_a_job_without_a_result_exits_with_its_outcome(
    service: "LittleService", cli: "Cli", state: str, code: int
) -> None:
    _run_job(service, state=state)
    assert cli("download", "job1").returncode == code


def test_cancel_says_the_new_state_and_refuses_what_has_ended(service: "LittleService", cli: "Cli") -> None:
    service.add_job("a")
    assert cli("cancel", "a").stdout == "job a is cancelled\n"
    _run_job(service, "b")
    done = cli("cancel", "b")
    assert (done.returncode, done.stderr) == (1, "gradsight: the job has ended\n")


def test_version_speaks_of_the_client_even_without_a_service(cli: "Cli") -> None:
    done = cli("version", GRADSIGHT_ADDRESS="127.0.0.1:1")
    assert done.returncode == 0
    assert "service  unknown: no gradsight service answers at 127.0.0.1:1" in done.stdout
    assert cli("--version").stdout.startswith("gradsight ")


def test_a_verb_of_a_package_that_is_missing_names_its_extra(cli: "Cli", tmp_path: Path) -> None:
    blocked = "import sys\nsys.modules.update(gradsight_service=None, gradsight_worker=None)\n"
    for verb, extra in (("serve", "service"), ("worker", "worker"), ("up", "all")):
        code = f"{blocked}sys.argv = ['gradsight', {verb!r}]\nfrom gradsight.cli import main\nmain()"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 2
        assert f"pip install 'gradsight[{extra}]'" in done.stderr
        assert "Traceback" not in done.stderr


def test_without_the_command_line_extra_it_says_so(tmp_path: Path) -> None:
    code = "import sys\nsys.modules['click'] = None\nfrom gradsight.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "gradsight: the command line needs click: pip install 'gradsight[cli]'\n"


def test_the_command_line_uses_every_method_of_the_contract(
    service: "LittleService", cli: "Cli", tmp_path: Path
) -> None:
    cli(*SUBMIT)
    _run_job(service)
    digest = service.jobs["job1"].result[0].digest
    service.comparisons["job1", "job1"] = training_service_pb2.CompareJobsResponse()
    for arguments in (
        ["findings", "job1"],
        ["compare", "job1", "job1"],
        ["report", "job1"],
        ["show"],
        ["show", "job1"],
        ["logs", "job1"],
        ["watch", "job1"],
        ["download", digest],
        ["download", "job1", "--kind", "result"],
        ["cancel", "job1"],
        ["recipes"],
    ):
        cli(*arguments)
    feed = subprocess.Popen(
        [sys.executable, "-m", "gradsight.cli", "jobs", "--follow", "--address", service.address],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    _until(lambda: "WatchJobs" in service.calls)
    service.add_job("later", name="intents")
    assert feed.stdout is not None
    assert feed.stdout.readline()
    feed.send_signal(signal.SIGINT)
    feed.communicate(timeout=20)
    assert feed.returncode == 130
    services = (
        training_service_pb2.DESCRIPTOR.services_by_name["TrainingService"],
        artifact_service_pb2.DESCRIPTOR.services_by_name["ArtifactService"],
    )
    assert set(service.calls) == {method.name for each in services for method in each.methods} - LATER


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
