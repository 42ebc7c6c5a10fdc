"""Whoever is killed: nobody outlives its parent, the job goes on from its checkpoint, ends once, and ends the same."""

import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.e2e.conftest import Datasets, Household, states, wait_for, wait_gone, wait_until_saved, weights

from gradsight import AttemptStarted, Client, Job, JobHandle, JobState, Patience

FREE_PORT = "127.0.0.1:0"
VICTIMS: dict[str, Callable[[Household], list[psutil.Process]]] = {
    "trainer": lambda household: [household.trainer()],
    "attempt": lambda household: [household.attempt()],
    "supervisor": lambda household: [household.supervisor()],
    "trainer, attempt and supervisor": lambda household: [
        household.supervisor(),
        household.attempt(),
        household.trainer(),
    ],
    "service": lambda household: [household.child("serve")],
}


@pytest.fixture(scope="module")
def breakable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Household]:
    """One household for these tests: each leaves it running again, because `up` sees to that."""
    household = Household(tmp_path_factory.mktemp("breakable"))
    with household.running():
        yield household


@pytest.fixture(scope="module")
def unbroken(breakable: Household, datasets: Datasets) -> dict[str, str]:
    """The final weights of each architecture's run that nobody disturbs."""
    with breakable.client() as client:
        handles = {name: client.submit(datasets.long_job(name)) for name in ("mlp", "text_classifier")}
        return {name: weights(handle.wait(timeout=90)) for name, handle in handles.items()}


@pytest.mark.parametrize(
    ("victims", "architecture"),
    [
        ("trainer", "mlp"),
        ("trainer", "text_classifier"),
        ("attempt", "mlp"),
        ("supervisor", "text_classifier"),
        ("trainer, attempt and supervisor", "mlp"),
        ("service", "text_classifier"),
    ],
)
def test_a_job_survives_the_death_of_its(
    breakable: Household, datasets: Datasets, unbroken: dict[str, str], victims: str, architecture: str
) -> None:
    with breakable.client() as client:
        breakable.wait_workers(client)
        handle = client.submit(datasets.long_job(architecture))
        wait_until_saved(handle)
        killed = VICTIMS[victims](breakable)
        orphans = [child for process in killed for child in process.children(recursive=True)]
        for process in killed:
            process.kill()
        wait_gone([*killed, *orphans], timeout_s=5)
        job = handle.wait(timeout=90)
        _ended_once_and_the_same(handle, job, unbroken[architecture])
        resumed = [event.detail for event in handle.events() if isinstance(event.detail, AttemptStarted)]
    if victims != "service":
        # More than two where a loaded machine let a lease of two seconds run out.
        assert len(resumed) >= 2
        assert resumed[1].resumed_at_step > 0
        assert job.attempts[0].error is not None
        assert job.attempts[0].error.retryable


def test_on_ports_of_its_own_choice_everyone_comes_back_where_up_said(tmp_path: Path) -> None:
    household = Household(tmp_path / "household")
    household.service = household.exporter = household.service_metrics = household.worker_metrics = FREE_PORT
    with household.running():
        said = household.addresses()
        killed = [household.child(verb) for verb in ("serve", "exporter", "worker")]
        for process in killed:
            process.kill()
        wait_gone(killed)
        with Client(said["service"], patience=Patience(call_attempts=60)) as client:
            household.wait_workers(client)
        for name in ("exporter", "service_metrics"):
            wait_for(f"an answer at {name}", lambda name=name: _answers(said[name]))  # type: ignore[misc]
        wait_for("the worker's metrics", lambda: _answers(said["worker_metrics"][0]))


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/livez", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def test_nothing_outlives_up_and_the_next_up_finishes_the_job(
    own_household: Household, datasets: Datasets, unbroken: dict[str, str]
) -> None:
    household = own_household
    with household.client() as client:
        handle = client.submit(datasets.long_job("mlp"))
        wait_until_saved(handle)
        everyone = household.processes()
        assert len(everyone) >= 6, "up, store, service, exporter, worker, attempt, trainer"
        household.kill()
        wait_gone(everyone, timeout_s=10)
        assert household.processes() == []
        household.up()
        job = handle.wait(timeout=90)
        _ended_once_and_the_same(handle, job, unbroken["mlp"])
        assert job.attempts[1].resumed_at_step > 0


def test_a_killed_store_comes_back_with_the_job_and_the_job_ends_the_same(
    own_household: Household, datasets: Datasets, unbroken: dict[str, str]
) -> None:
    household = own_household
    with household.client() as client:
        handle = client.submit(datasets.long_job("mlp"))
        wait_until_saved(handle)
        store = household.store_server()
        store.kill()
        wait_for("another store", lambda: household.store_server().pid != store.pid)
        job = handle.wait(timeout=90)
        _ended_once_and_the_same(handle, job, unbroken["mlp"])


def _ended_once_and_the_same(handle: JobHandle, job: Job, unbroken: str) -> None:
    assert job.state is JobState.SUCCEEDED, job.error
    assert weights(job) == unbroken
    ended = [state for state in states(handle) if state not in (JobState.QUEUED, JobState.RUNNING)]
    assert ended == [JobState.SUCCEEDED]
