"""What training needs is imported by the supervisor, once, before it forks: never between a fork and the first step."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import Datasets, Household

HOOK = Path(__file__).parent / "programs" / "import_log.py"
HEAVY = {"gradsight", "gradsight_models", "gradsight_worker", "numpy", "pyarrow", "safetensors", "torch"}


@pytest.mark.parametrize(("architecture", "optimizer"), [("mlp", "adamw"), ("text_classifier", "sgd")])
def test_no_fork_of_a_worker_imports_what_training_needs(
    logged: tuple[Household, Path], datasets: Datasets, architecture: str, optimizer: str
) -> None:
    household, log = logged
    with household.client() as client:
        client.submit(datasets.job(architecture, optimizer=optimizer, steps=20)).result(timeout=60)
    lines = [line.split() for line in log.read_text().splitlines()]
    programs = {process for process, word in lines if word == "start"}
    assert any(word.startswith("torch") for process, word in lines if process in programs)
    in_forks = [word for process, word in lines if process not in programs]
    assert [word for word in in_forks if word.split(".")[0] in HEAVY] == []


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Household, Path]]:
    """A household whose processes log what they import, and the log."""
    directory = tmp_path_factory.mktemp("logged")
    (directory / "hook").mkdir()
    (directory / "hook" / "sitecustomize.py").write_text(HOOK.read_text())
    log = directory / "imports.log"
    environ = {"PYTHONPATH": str(directory / "hook"), "IMPORT_LOG": str(log)}
    household = Household(directory / "household", profile="standard", environ=environ)
    with household.running():
        yield household, log
