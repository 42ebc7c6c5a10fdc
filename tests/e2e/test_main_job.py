"""The main job: submitted, queued, trained, watched, judged and taken home."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet
import pytest
from tests.e2e.conftest import Datasets, Household, states

from gradsight import (
    ArtifactKind,
    AttemptStarted,
    DataPrepared,
    EvaluationCompleted,
    JobState,
    ModelBuilt,
    Split,
    StepsRecorded,
    load_result,
)

COLUMNS = ["row_id", "split", "category", "target", "predicted", "loss", "correct", "baseline_correct"]
RESULT = {"weights.safetensors", "model.json", "preprocessing.json", "outputs.json", "manifest.json"}
QUESTIONS = {
    "mlp": ({"width": 3.0, "height": 3.0}, "large"),
    "text_classifier": ("hello when can parcel arrive", "delivery"),
}


@pytest.mark.parametrize("architecture", ["mlp", "text_classifier"])
def test_a_job_is_trained_and_its_result_answers(
    household: Household, datasets: Datasets, tmp_path: Path, architecture: str
) -> None:
    with household.client() as client:
        handle = client.submit(datasets.job(architecture))
        details = [event.detail for event in handle.watch(timeout=60)]
        job = handle.get()
        assert job.state is JobState.SUCCEEDED, job.error
        assert states(handle) == [JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED]
        files = handle.download(tmp_path)
    for kind in (AttemptStarted, DataPrepared, ModelBuilt):
        assert sum(isinstance(detail, kind) for detail in details) == 1
    batches = [detail for detail in details if isinstance(detail, StepsRecorded)]
    assert [
        step for batch in batches for step in range(batch.first_step, batch.first_step + len(batch.loss))
    ] == [*range(1, 201)]
    assert {file.name for file in files} >= RESULT
    question, answer = QUESTIONS[architecture]
    (prediction,) = load_result(tmp_path).predict([question])
    assert prediction.label == answer


def test_what_a_watch_brings_and_what_get_job_says_are_the_same_figures(
    household: Household, datasets: Datasets
) -> None:
    with household.client() as client:
        handle = client.submit(datasets.job("mlp"))
        details = [event.detail for event in handle.watch(timeout=60)]
        job = handle.get()
    assert job.summary is not None
    assert job.progress is not None
    assert (job.progress.step, job.progress.total_steps, job.progress.steps_taken) == (200, 200, 200)
    steps = [detail for detail in details if isinstance(detail, StepsRecorded)]
    assert job.summary.train_loss == steps[-1].loss[-1]
    assert job.summary.gradient_norm == steps[-1].gradient_norm[-1]
    probes = [probe for detail in steps for probe in detail.probes]
    assert job.summary.probe == probes[-1]
    assert len(probes) >= 8
    assert all(len(probe.layer_gradient_norm) == len(job.summary.layers) for probe in probes)
    evaluations = [detail for detail in details if isinstance(detail, EvaluationCompleted)]
    assert job.summary.test == next(e for e in evaluations if e.split is Split.TEST)
    on_validation = [e for e in evaluations if e.split is Split.VALIDATION]
    assert job.summary.validation == on_validation[-1]
    assert job.summary.kept == [e for e in on_validation if e.kept][-1]
    errors = [e.error_ratio for e in on_validation if e.error_ratio is not None]
    assert len(errors) == len(on_validation)
    assert job.summary.kept.error_ratio == min(errors)


def test_every_held_out_row_is_in_the_examples_and_adds_up_to_the_figures(
    household: Household, datasets: Datasets, tmp_path: Path
) -> None:
    with household.client() as client:
        handle = client.submit(datasets.job("text_classifier"))
        job = handle.wait(timeout=60)
        (path,) = handle.download(tmp_path, kinds=[ArtifactKind.EXAMPLES])
        (prepared,) = (e.detail for e in handle.events() if isinstance(e.detail, DataPrepared))
    table = pyarrow.parquet.read_table(path)
    assert table.column_names == COLUMNS
    rows = table.to_pylist()
    assert job.summary is not None
    assert Counter(row["split"] for row in rows) == {
        side.split.value: side.rows for side in prepared.splits if side.split is not Split.TRAIN
    }
    assert job.summary.kept is not None
    assert job.summary.test is not None
    for split, evaluation in (("validation", job.summary.kept), ("test", job.summary.test)):
        mine = [row for row in rows if row["split"] == split]
        assert evaluation.examples == len(mine)
        wrong = sum(not row["correct"] for row in mine)
        assert evaluation.error_ratio == pytest.approx(wrong / len(mine))
        assert evaluation.loss == pytest.approx(sum(row["loss"] for row in mine) / len(mine), rel=1e-3)
        for category in evaluation.categories:
            theirs = [row for row in mine if row["category"] == category.category]
            assert category.examples == len(theirs)
            assert category.errors == sum(not row["correct"] for row in theirs)
        assert sum(category.examples for category in evaluation.categories) == len(mine)
        counts = [category.examples for category in evaluation.categories]
        assert all(first >= second for first, second in pairwise(counts))
    assert all(row["correct"] == (row["target"] == row["predicted"]) for row in rows)
    assert all(row["baseline_correct"] is None for row in rows)


def test_the_baseline_answers_the_same_test_rows(
    household: Household, datasets: Datasets, tmp_path: Path
) -> None:
    with household.client() as client:
        before = client.submit(datasets.job("mlp", steps=2, seed=3))
        before.result(timeout=60)
        after = client.submit(datasets.job("mlp", steps=300, baseline=before))
        result = after.result(timeout=60)
        (path,) = after.download(tmp_path, kinds=[ArtifactKind.EXAMPLES])
        its_own_test = before.get().summary
    assert result.test is not None
    assert result.baseline_test is not None
    assert its_own_test is not None
    assert its_own_test.test is not None
    assert result.baseline_test.baseline_job_id == before.job_id
    assert result.baseline_test.examples == result.test.examples
    # Both jobs split the same file by the rows' own hashes, so the rows are those that the baseline was judged on.
    assert result.baseline_test.error_ratio == its_own_test.test.error_ratio
    assert result.test.error_ratio is not None
    assert result.baseline_test.error_ratio is not None
    assert result.test.error_ratio < result.baseline_test.error_ratio
    rows = [row for row in pyarrow.parquet.read_table(path).to_pylist() if row["split"] == "test"]
    wrong_before = sum(not row["baseline_correct"] for row in rows)
    assert wrong_before / len(rows) == pytest.approx(result.baseline_test.error_ratio)


def test_given_files_are_the_splits(household: Household, datasets: Datasets) -> None:
    with household.client() as client:
        spec = datasets.job("mlp", validation=datasets.more_numbers, test=datasets.more_numbers)
        handle = client.submit(spec)
        handle.result(timeout=60)
        (prepared,) = (e.detail for e in handle.events() if isinstance(e.detail, DataPrepared))
    assert {side.split: side.rows for side in prepared.splits} == {
        Split.TRAIN: 600,
        Split.VALIDATION: 100,
        Split.TEST: 100,
    }


def test_json_lines_train_as_csv_does(household: Household, datasets: Datasets) -> None:
    with household.client() as client:
        results = [
            client.submit(datasets.job("text_classifier", train=path)).result(timeout=60)
            for path in (datasets.texts, datasets.texts_as_jsonl)
        ]
    digests = [
        {file.filename: file.digest for file in result.files if file.filename == "weights.safetensors"}
        for result in results
    ]
    assert digests[0] == digests[1]


def test_curves_are_those_of_the_event_log(household: Household, datasets: Datasets) -> None:
    with household.client() as client:
        handle = client.submit(datasets.job("mlp"))
        handle.result(timeout=60)
        loss, norm = handle.history(["loss", "gradient_norm"])
        by_layer = handle.history(["layer_gradient_norm"])
        steps = [e.detail for e in handle.events() if isinstance(e.detail, StepsRecorded)]
        job = handle.get()
    assert loss.steps == tuple(range(1, 201))
    assert loss.values == tuple(value for batch in steps for value in batch.loss)
    assert norm.values == tuple(value for batch in steps for value in batch.gradient_norm)
    assert job.summary is not None
    assert [series.layer for series in by_layer] == [layer.path for layer in job.summary.layers]
    probes = [probe for batch in steps for probe in batch.probes]
    for index, series in enumerate(by_layer):
        assert series.steps == tuple(probe.step for probe in probes)
        assert series.values == tuple(probe.layer_gradient_norm[index] for probe in probes)
