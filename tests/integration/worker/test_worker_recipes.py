"""A recipe from its installation to the loaded result: the walk-through of docs/recipes.md, with a tiny BERT."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.integration.pretrained import make_bert, require_transformers

import gradsight
from gradsight.v1 import artifact_pb2, job_pb2, spec_pb2, state_pb2
from gradsight_service.defaults import with_defaults
from gradsight_store.workers import list_recipes

if TYPE_CHECKING:
    from tests.integration.worker.conftest import Workshop

EXAMPLES = Path(__file__).parents[3] / "examples"
RECIPE = "huggingface_text"
ROWS_APART = 4


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's package, built and installed into a directory of its own."""
    require_transformers()
    source = tmp_path_factory.mktemp("source") / "recipes"
    shutil.copytree(EXAMPLES / "recipes", source)
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--no-build-isolation", "--target", str(target), str(source)], check=True)
    return target


@pytest.fixture
def equipped(workshop: Workshop, installed: Path) -> Workshop:
    """A workshop whose workers have the recipe and a pretrained model."""
    models = workshop.directory / "models"
    with (EXAMPLES / "support_intents" / "this_week.train.csv").open(newline="") as file:
        make_bert(models / "tiny", [row["text"] for row in csv.DictReader(file)])
    path = os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])
    workshop.environ |= {"PYTHONPATH": path, "GRADSIGHT_RECIPE_MODELS": str(models)}
    return workshop


def fine_tuning(workshop: Workshop, **options: str) -> spec_pb2.JobSpec:
    lines = (EXAMPLES / "support_intents" / "this_week.train.csv").read_bytes().splitlines(keepends=True)
    spec = spec_pb2.JobSpec(name="intents")
    spec.model.recipe.name = RECIPE
    spec.model.recipe.options.update({"model": "tiny", **options})
    spec.data.train.artifact = workshop.upload(b"".join([lines[0], *lines[1::ROWS_APART]]))
    spec.data.target_column = "category"
    spec.data.batch_size = 32
    spec.optimizer.learning_rate = 1e-2
    spec.budget.steps = 120
    spec.checkpoint.interval_steps = 20
    return with_defaults(spec)


# A random model has little that LoRA could adapt: all its layers, then.
LORA = {"lora_rank": "8", "lora_targets": "query,key,value,dense"}


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("options", [{}, LORA], ids=["whole", "lora"])
def test_a_pretrained_model_is_fine_tuned_killed_resumed_and_taken_home(
    equipped: Workshop, tmp_path: Path, options: dict[str, str]
) -> None:
    worker = equipped.start_real_worker()
    (offered,) = equipped.store.run(list_recipes())
    assert offered.name == RECIPE
    assert [(option.name, option.required) for option in offered.options][:2] == [
        ("model", True),
        ("max_length", False),
    ]
    unbroken = equipped.wait_done(equipped.create(fine_tuning(equipped, **options)), timeout_s=120)
    ref = equipped.create(fine_tuning(equipped, **options))
    equipped.wait_until(ref, "a checkpoint", lambda job: job.progress.step >= 25, timeout_s=90)
    worker.trainer().kill()
    job = equipped.wait_done(ref, timeout_s=120)
    assert job.state == state_pb2.JOB_STATE_SUCCEEDED, worker.log()
    assert len(job.attempts) == 2
    assert digest(job, "weights.safetensors") == digest(unbroken, "weights.safetensors")
    prepared = next(event.data_prepared for event in equipped.events(ref) if event.HasField("data_prepared"))
    assert job.summary.test.loss < prepared.prior_loss, "less than answering without a model costs"
    result = _download(equipped, job, tmp_path / "result")
    shutil.rmtree(equipped.directory / "models")
    sys.path.insert(0, equipped.environ["PYTHONPATH"].partition(os.pathsep)[0])
    try:
        (answer,) = gradsight.load_result(result).predict([{"text": "the shoes are too small"}])
    finally:
        del sys.path[0]
    assert answer.label in job.summary.classes
    assert 0 < answer.confidence <= 1


def test_a_recipe_waits_for_a_worker_that_has_it(workshop: Workshop) -> None:
    workshop.start_worker()
    spec = spec_pb2.JobSpec(name="intents", queue="default")
    spec.model.recipe.name = RECIPE
    ref = workshop.create(spec)
    waiting = workshop.wait_until(ref, "a reason", lambda job: job.HasField("waiting")).waiting
    assert waiting.reason == job_pb2.WAITING_REASON_NO_WORKER
    assert RECIPE in waiting.message


def test_options_that_lead_nowhere_fail_by_field_before_the_first_step(equipped: Workshop) -> None:
    equipped.start_real_worker()
    spec = fine_tuning(equipped, model="../tiny")
    job = equipped.wait_done(equipped.create(spec), timeout_s=60)
    assert job.state == state_pb2.JOB_STATE_FAILED
    assert job.error.field == "model.recipe.options"
    assert job.error.message.endswith("option model: got '../tiny', allowed: tiny")
    assert job.progress.step == 0


def test_a_recipe_that_is_gone_when_the_run_begins_fails_by_name(equipped: Workshop, installed: Path) -> None:
    copy = equipped.directory / "installed"
    shutil.copytree(installed, copy)
    equipped.environ["PYTHONPATH"] = equipped.environ["PYTHONPATH"].replace(str(installed), str(copy))
    equipped.start_real_worker()
    shutil.rmtree(copy)
    job = equipped.wait_done(equipped.create(fine_tuning(equipped)), timeout_s=60)
    assert (job.error.field, job.error.fault) == ("model.recipe.name", state_pb2.FAULT_USER)
    assert f"got '{RECIPE}', installed here: none" in job.error.message


def digest(job: job_pb2.Job, filename: str) -> str:
    (found,) = [file.digest for file in job.result if file.filename == filename]
    return found


def _download(workshop: Workshop, job: job_pb2.Job, directory: Path) -> Path:
    directory.mkdir()
    for file in job.result:
        if file.kind == artifact_pb2.ARTIFACT_KIND_RESULT:
            workshop.artifacts.fetch("default", file.digest, directory / file.filename)
    return directory
