"""What a first step imports was imported by the supervisor, once, before it forked."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import Datasets, Household

from gradsight import StepsRecorded

HOOK = Path(__file__).parent / "programs" / "import_log.py"


@pytest.mark.parametrize(("architecture", "optimizer"), [("mlp", "adamw"), ("text_classifier", "sgd")])
def test_nothing_is_imported_between_the_fork_and_the_first_step(
    watched: tuple[Household, Path], datasets: Datasets, architecture: str, optimizer: str
) -> None:
    household, log = watched
    with household.client() as client:
        already = len(log.read_text().splitlines())
        handle = client.submit(datasets.job(architecture, optimizer=optimizer, steps=20))
        handle.result(timeout=60)
        (first, *_) = (event.detail for event in handle.events(kinds=["steps_recorded"]))
    assert isinstance(first, StepsRecorded)
    assert first.first_step_time is not None
    lines = [line.split() for line in log.read_text().splitlines()]
    programs = {process for process, _, word in lines if word == "start"}
    before_the_step = {
        word
        for process, time, word in lines[already:]
        if process not in programs and float(time) < first.first_step_time.timestamp()
    }
    assert before_the_step == set()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Household, Path]]:
    """A household whose processes log what they import, and the log."""
    directory = tmp_path_factory.mktemp("watched")
    (directory / "hook").mkdir()
    (directory / "hook" / "sitecustomize.py").write_text(HOOK.read_text())
    log = directory / "imports.log"
    environ = {"PYTHONPATH": str(directory / "hook"), "IMPORT_LOG": str(log)}
    household = Household(directory / "household", profile="standard", environ=environ)
    with household.running():
        yield household, log
