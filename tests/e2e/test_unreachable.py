"""Who is not there is named in one sentence, with what to do about it, and the exit code says 6."""

import signal
from collections.abc import Iterator

import pytest
from tests.e2e.conftest import Datasets, Household, free_ports, wait_for, wait_gone

from gradsight import JobState

VERBS = [
    ("jobs",),
    *((verb, "somejob") for verb in ("show", "watch", "wait", "cancel", "findings", "report")),
    ("compare", "somejob", "otherjob"),
]


@pytest.mark.parametrize("verb", VERBS, ids=[verb[0] for verb in VERBS])
def test_without_a_service_a_verb_says_where_it_looked_and_how_to_start_one(
    household: Household, verb: tuple[str, ...]
) -> None:
    (port,) = free_ports(1)
    done = household.cli(*verb, address=f"127.0.0.1:{port}")
    assert done.returncode == 6
    sentence, hint = done.stderr.splitlines()
    assert f"127.0.0.1:{port}" in sentence
    assert "gradsight up" in hint
    assert done.stdout == ""


def test_without_a_household_status_says_so_and_down_has_nothing_to_do(
    household: Household, tmp_path_factory: pytest.TempPathFactory
) -> None:
    empty = tmp_path_factory.mktemp("empty")
    status = household.cli("status", "--data", str(empty))
    assert status.returncode == 6
    assert status.stdout == f"nothing runs in {empty}: start it with `gradsight up`\n"
    assert household.cli("down", "--data", str(empty)).returncode == 0


def test_a_second_up_over_the_same_data_says_who_has_them(household: Household) -> None:
    second = household.cli("up", "--data", str(household.data))
    assert second.returncode == 1
    assert f"is in use by process {household.process.pid}" in second.stderr
    assert "gradsight down" in second.stderr


def test_without_a_store_a_verb_says_so_and_the_service_recovers_with_it(crippled: Household) -> None:
    store = crippled.store_server()
    store.kill()
    wait_gone([store])
    done = crippled.cli("jobs")
    assert done.returncode == 6
    assert done.stderr.startswith("gradsight: the service cannot reach its store")
    assert "its store does not answer" in done.stderr
    status = crippled.cli("status", "--data", str(crippled.data))
    assert status.returncode == 6
    assert "cannot reach its store" in status.stderr
    crippled.process.send_signal(signal.SIGCONT)
    wait_for("jobs again", lambda: crippled.cli("jobs").returncode == 0)


def test_without_a_worker_a_job_waits_and_every_verb_says_for_what(
    crippled: Household, datasets: Datasets
) -> None:
    supervisor = crippled.supervisor()
    everyone = [supervisor, *supervisor.children(recursive=True)]
    supervisor.kill()
    wait_gone(everyone)
    with crippled.client() as client:
        wait_for("the end of its lease", lambda: not list(client.workers()))
    flags = ("--model", "mlp", "--train", str(datasets.numbers), "--target", "size", "--steps", "20")
    submitted = crippled.cli("submit", *flags)
    assert submitted.returncode == 0
    job_id = submitted.stdout.strip()
    waited = crippled.cli("wait", job_id, "--timeout", "1s")
    assert waited.returncode == 5
    for said in (submitted.stderr, waited.stderr, crippled.cli("show", job_id).stdout):
        assert "no worker that could take it is alive: start one" in said
    status = crippled.cli("status", "--data", str(crippled.data))
    assert status.returncode == 6
    assert "no worker is alive" in status.stderr
    crippled.process.send_signal(signal.SIGCONT)
    with crippled.client() as client:
        assert client.job(job_id).wait(timeout=60).state is JobState.SUCCEEDED


@pytest.fixture
def crippled(own_household: Household) -> Iterator[Household]:
    """A household whose `up` is stopped for now, so that what dies stays dead until it goes on."""
    own_household.process.send_signal(signal.SIGSTOP)
    yield own_household
    own_household.process.send_signal(signal.SIGCONT)
