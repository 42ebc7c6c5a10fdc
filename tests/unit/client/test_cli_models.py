"""Programs, recipes and jobs that begin with earlier ones, on the command line."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gradsight.v1 import artifact_pb2, worker_pb2

if TYPE_CHECKING:
    from tests.unit.client.conftest import LittleService

    Cli = Callable[..., subprocess.CompletedProcess[str]]

ROWS = ("--train", "rows.csv", "--target", "intent")


@pytest.fixture(autouse=True)
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("text,intent\nwhere is my parcel,delivery\n")
    return path


def test_the_two_files_of_a_program_are_uploaded_and_named(
    service: "LittleService", cli: "Cli", tmp_path: Path
) -> None:
    (tmp_path / "g.json").write_text("{}")
    (tmp_path / "w.safetensors").write_bytes(b"weights")
    files = ("--graph", "g.json", "--weights", "w.safetensors")
    assert cli("submit", "--model", "program", *files, *ROWS).returncode == 0
    program = service.jobs["job1"].spec.model.program
    for digest, content, kind in (
        (program.graph, b"{}", artifact_pb2.ARTIFACT_KIND_GRAPH),
        (program.weights, b"weights", artifact_pb2.ARTIFACT_KIND_WEIGHTS),
    ):
        artifact, stored = service.blobs[digest]
        assert (artifact.kind, stored) == (kind, content)
    alone = cli("submit", "--model", "program", *files[:2], *ROWS)
    assert (alone.returncode, "--graph and --weights go together" in alone.stderr) == (2, True)
    other = cli("submit", "--model", "mlp", *files, *ROWS)
    assert other.returncode == 2


def test_extend_makes_a_job_with_a_larger_budget_that_goes_on(service: "LittleService", cli: "Cli") -> None:
    cli("submit", "--model", "mlp", *ROWS, "--epochs", "2", "--seed", "5")
    done = cli("extend", "job1", "--epochs", "9")
    assert (done.returncode, done.stdout) == (0, "job2\n")
    first, second = service.jobs["job1"].spec, service.jobs["job2"].spec
    assert (second.start.extended_job_id, second.budget.epochs, second.seed) == ("job1", 9, 5)
    second.ClearField("start")
    second.budget.epochs = 2
    assert first == second
    for wrong in ((), ("--epochs", "3", "--steps", "4"), ("--epochs", "3", "--timeout", "5s")):
        assert cli("extend", "job1", *wrong).returncode == 2


def test_recipes_are_listed_with_their_options(service: "LittleService", cli: "Cli") -> None:
    assert "no recipes" in cli("recipes").stderr
    recipe = worker_pb2.Recipe(name="lora", description="Fine-tunes a model.")
    recipe.options.add(name="directory", description="Where the model is.", required=True)
    recipe.options.add(name="rank", description="Rank, 1 to 64.", default_value="8")
    service.recipes.append(recipe)
    page = cli("recipes").stdout
    assert page.splitlines() == [
        "lora  Fine-tunes a model.",
        "  directory  Where the model is. [required]",
        "  rank       Rank, 1 to 64. [default: 8]",
    ]
    assert json.loads(cli("recipes", "--format", "json").stdout)["options"][1]["default_value"] == "8"


def test_the_page_of_a_job_says_what_it_began_with(service: "LittleService", cli: "Cli") -> None:
    service.add_job("job1").spec.start.extended_job_id = "older"
    assert "goes on with older" in cli("show", "job1").stdout
