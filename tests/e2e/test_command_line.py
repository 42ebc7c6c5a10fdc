"""The same job from a shell: what is printed, and which exit code says how it went."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests.e2e.conftest import CLI, Datasets, Household, wait_until_saved

from gradsight import load_result

MLP = ("--model", "mlp", "--target", "size", "--category", "team", "--steps", "100", "--batch-size", "16")


def test_submit_and_wait_exits_with_0_and_the_result_can_be_taken_home(
    household: Household, datasets: Datasets, tmp_path: Path
) -> None:
    done = household.cli("submit", "--train", str(datasets.numbers), *MLP, "--wait", "--format", "json")
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    assert job["state"] == "succeeded"
    taken = household.cli("download", job["job_id"], "--to", str(tmp_path))
    assert taken.returncode == 0, taken.stderr
    assert load_result(tmp_path).predict([{"width": -3, "height": -3}])[0].label == "small"


def test_submit_without_waiting_prints_the_id_alone(household: Household, datasets: Datasets) -> None:
    submitted = household.cli("submit", "--train", str(datasets.numbers), *MLP)
    assert submitted.returncode == 0
    job_id = submitted.stdout.strip()
    waited = household.cli("wait", job_id)
    assert waited.returncode == 0
    shown = household.cli("show", job_id)
    assert shown.returncode == 0
    for word in (job_id, "SUCCEEDED", "north", "south"):
        assert word in shown.stdout
    assert job_id in household.cli("jobs", "--state", "succeeded").stdout


def test_follow_prints_a_line_per_event_in_a_pipe(household: Household, datasets: Datasets) -> None:
    followed = household.cli("submit", "--train", str(datasets.numbers), *MLP, "--follow")
    assert followed.returncode == 0, followed.stderr
    for word in ("queued", "running", "gradient norm", "succeeded"):
        assert word in followed.stdout
    assert "\x1b[" not in followed.stdout


def test_watch_as_json_is_one_event_a_line(household: Household, datasets: Datasets) -> None:
    job_id = household.cli("submit", "--train", str(datasets.numbers), *MLP).stdout.strip()
    watched = household.cli("watch", job_id, "--format", "json")
    assert watched.returncode == 0, watched.stderr
    events = [json.loads(line) for line in watched.stdout.splitlines()]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["detail"]["state"] == "succeeded"


def test_a_job_whose_data_are_at_fault_exits_with_1_and_says_why(
    household: Household, datasets: Datasets
) -> None:
    done = household.cli(
        "submit", "--model", "mlp", "--train", str(datasets.one_class), "--target", "size", "--wait"
    )
    assert done.returncode == 1
    assert "at least 2" in done.stderr


def test_a_wrong_spec_exits_with_2_and_names_the_flag(household: Household, datasets: Datasets) -> None:
    done = household.cli("submit", "--model", "mlp", "--train", str(datasets.numbers), "--target", "siez")
    assert done.returncode == 2
    assert "--target" in done.stderr
    assert "size" in done.stderr


def test_a_job_that_was_cancelled_exits_with_3(household: Household, datasets: Datasets) -> None:
    with household.client() as client:
        handle = client.submit(datasets.long_job("mlp", steps=1_000_000))
        wait_until_saved(handle, checkpoints=1)
        assert household.cli("cancel", handle.job_id).returncode == 0
    waited = household.cli("wait", handle.job_id)
    assert waited.returncode == 3
    assert "cancelled" in waited.stderr


def test_waiting_for_too_long_exits_with_5_and_the_job_goes_on(
    household: Household, datasets: Datasets
) -> None:
    endless = [*MLP[:-4], "--steps", "1000000", "--batch-size", "16"]
    done = household.cli(
        "submit", "--train", str(datasets.numbers), *endless, "--wait", "--timeout", "1s", "--name", "endless"
    )
    assert done.returncode == 5
    assert "goes on" in done.stderr
    (line,) = household.cli("jobs", "--name", "endless", "--format", "json").stdout.splitlines()
    assert json.loads(line)["state"] in ("queued", "running")


def test_ctrl_c_detaches_with_130_and_says_how_to_come_back(household: Household, datasets: Datasets) -> None:
    with household.client() as client:
        handle = client.submit(datasets.long_job("mlp", steps=1_000_000))
        wait_until_saved(handle, checkpoints=1)
        command = [*CLI, "watch", handle.job_id]
        environ = {**os.environ, "GRADSIGHT_ADDRESS": household.service, "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
        ) as watching:
            assert watching.stdout is not None
            for _ in range(3):
                assert watching.stdout.readline()
            watching.send_signal(signal.SIGINT)
            _, said = watching.communicate(timeout=20)
        assert watching.returncode == 130
        assert f"gradsight watch {handle.job_id} --after" in said
        assert not handle.get().done


def test_what_was_required_of_a_result_is_the_exit_code(
    household: Household, datasets: Datasets, tmp_path: Path
) -> None:
    train = ("submit", "--train", str(datasets.numbers), *MLP)
    first = household.cli(*train, "--wait", "--format", "json")
    old = json.loads(first.stdout)["job_id"]
    required = ("--require", "no-regression", "--require", "error<=0.5", "--require", "verdict!=diverged")
    second = household.cli(*train, "--seed", "7", "--baseline", old, "--wait", "--format", "json", *required)
    assert second.returncode == 0, second.stderr + second.stdout
    job = json.loads(second.stdout)
    assert [result["outcome"] for result in job["requirements"]] == ["met"] * 3
    worse = household.cli("wait", job["job_id"], "--require", "error[north]>0.9")
    assert worse.returncode == 4
    assert "error[north]>0.9 is not met: error of north on test is" in worse.stderr
    compared = household.cli("compare", old, job["job_id"])
    assert compared.returncode == 0, compared.stderr
    for word in ("NO SIGNIFICANT CHANGE", "north", "validation error ratio", "evaluation.baseline", "seed"):
        assert word in compared.stdout
    assert household.cli("findings", job["job_id"], "--format", "json").returncode == 0
    written = household.cli("report", job["job_id"], "-o", str(tmp_path / "report.html"))
    assert written.returncode == 0, written.stderr
    assert job["job_id"] in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    "verb",
    ["show", "watch", "logs", "history", "wait", "cancel", "download", "findings", "report"],
)
def test_an_unknown_job_exits_with_2(household: Household, verb: str) -> None:
    done = household.cli(verb, "nosuchjob")
    assert done.returncode == 2
    assert "nosuchjob" in done.stderr
