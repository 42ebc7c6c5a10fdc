"""Where an attempt begins: with programs and results brought, after damaged checkpoints, where another job ended."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pyarrow.parquet as parquet
import pytest

from gradsight.v1 import artifact_pb2, event_pb2, spec_pb2, state_pb2
from gradsight_store.artifact_records import list_artifacts
from gradsight_store.commits import read_stored

if TYPE_CHECKING:
    from tests.integration.worker.conftest import Workshop

    from gradsight_store.operations import JobRef


def chain(steps: int, seed: int = 7) -> bytes:
    """What an unbroken run of the tiny trainer ends with."""
    link = hashlib.sha256(b"%d" % seed).digest()
    for _ in range(steps):
        link = hashlib.sha256(link).digest()
    return link


def tiny(workshop: Workshop, *, steps: int = 50) -> spec_pb2.JobSpec:
    spec = spec_pb2.JobSpec(name="tiny", queue="default", seed=7)
    spec.data.train.artifact = workshop.upload(b"text,label\nhello,greeting\n")
    spec.budget.steps = steps
    spec.checkpoint.interval_steps = 10
    return spec


def rewound(workshop: Workshop, ref: JobRef) -> list[event_pb2.AttemptRewound]:
    return [event.attempt_rewound for event in workshop.events(ref) if event.HasField("attempt_rewound")]


def checkpoint_files(workshop: Workshop, ref: JobRef) -> list[int]:
    """Steps of the checkpoints that the artifacts still have, newest first."""
    kind = artifact_pb2.ARTIFACT_KIND_CHECKPOINT
    page = workshop.store.run(list_artifacts("default", job_id=ref.job_id, kind=kind))
    return sorted((artifact.step for artifact in page.artifacts), reverse=True)


@pytest.mark.parametrize(("damaged", "begins"), [(1, 20), (2, 0)])
def test_an_attempt_that_passes_checkpoints_over_says_where_it_begins_and_nobody_tries_them_again(
    workshop: Workshop, damaged: int, begins: int
) -> None:
    worker = workshop.start_worker()
    ref = workshop.submit(steps=60, pace_ms=10, damaged=damaged)
    workshop.wait_until(ref, "two checkpoints", lambda job: job.progress.step >= 35)
    worker.trainer().kill()
    job = workshop.wait_done(ref)
    assert job.state == state_pb2.JOB_STATE_SUCCEEDED, worker.log()
    assert workshop.result(job) == chain(60)
    (event,) = rewound(workshop, ref)
    assert (event.resumed_at_step, event.message) == (begins, "as asked")
    assert job.attempts[1].resumed_at_step == begins
    assert [event.step for event in _saved(workshop, ref, attempt=2)] == list(range(begins + 10, 61, 10))
    assert job.progress.step == 60


def test_a_checkpoint_that_the_storage_lost_is_passed_over(workshop: Workshop) -> None:
    worker = workshop.start_worker()
    ref = workshop.submit(steps=60, pace_ms=10)
    workshop.wait_until(ref, "two checkpoints", lambda job: job.progress.step >= 25)
    workshop.dispatching = False
    worker.trainer().kill()
    workshop.wait_until(ref, "the loss", lambda job: job.state == state_pb2.JOB_STATE_QUEUED)
    newest, older = workshop.store.run(read_stored(ref)).record.checkpoints
    workshop.artifacts.delete("default", newest.digest)
    workshop.dispatching = True
    job = workshop.wait_done(ref)
    assert workshop.result(job) == chain(60), worker.log()
    (event,) = rewound(workshop, ref)
    assert event.resumed_at_step == job.attempts[1].resumed_at_step == older.step
    assert event.message.startswith(f"the checkpoint of step {newest.step} cannot be used: ")
    started = [
        e.attempt_started.resumed_at_step for e in workshop.events(ref) if e.HasField("attempt_started")
    ]
    assert started == [0, newest.step], "what the store knew when the attempt began"


def test_a_success_leaves_its_last_state_and_another_job_goes_on_from_it(workshop: Workshop) -> None:
    worker = workshop.start_worker()
    first = workshop.submit(steps=35)
    assert workshop.wait_done(first).state == state_pb2.JOB_STATE_SUCCEEDED
    # The others are let go of a moment after the success.
    workshop.wait_until(first, "its last state alone", lambda _: checkpoint_files(workshop, first) == [35])
    spec = tiny(workshop, steps=60)
    spec.labels["pace_ms"] = "20"
    spec.start.extended_job_id = first.job_id
    ref = workshop.create(spec)
    workshop.wait_step(ref, 51)
    worker.trainer().kill()
    job = workshop.wait_done(ref)
    assert workshop.result(job) == chain(60), worker.log()
    assert [attempt.resumed_at_step for attempt in job.attempts] == [35, 50]
    assert checkpoint_files(workshop, first) == [35], "the other job's state is not this one's to delete"


def test_a_job_that_extends_one_without_a_state_fails_by_field(workshop: Workshop) -> None:
    workshop.start_worker()
    spec = tiny(workshop)
    spec.start.extended_job_id = "nothing"
    job = workshop.wait_done(workshop.create(spec))
    assert job.error.field == "start.extended_job_id"
    assert job.error.reason == state_pb2.JOB_ERROR_REASON_ARTIFACT_UNAVAILABLE


def test_a_program_and_the_weights_to_begin_with_are_brought(workshop: Workshop) -> None:
    workshop.start_worker(data_memory_bytes=5 << 20)
    first = workshop.submit(steps=5)
    workshop.wait_done(first)
    spec = tiny(workshop, steps=5)
    spec.model.program.graph = workshop.upload(b"{graph}")
    spec.model.program.weights = workshop.upload(b"tensors")
    spec.start.weights_job_id = first.job_id
    ref = workshop.create(spec)
    assert workshop.wait_done(ref).state == state_pb2.JOB_STATE_SUCCEEDED
    (line,) = [line for line in workshop.lines(ref) if line.startswith("brought")]
    assert line == "brought graph={graph} weights=tensors start=['weights.safetensors'] data_memory=5242880"


@pytest.mark.parametrize("part", ["graph", "weights"])
def test_a_damaged_part_of_a_program_is_named(workshop: Workshop, part: str) -> None:
    workshop.start_worker()
    spec = tiny(workshop)
    digests = {name: workshop.upload(name.encode()) for name in ("graph", "weights")}
    spec.model.program.graph, spec.model.program.weights = digests["graph"], digests["weights"]
    path = workshop.artifacts.local_path("default", digests[part])
    assert path is not None
    path.chmod(0o600)
    path.write_bytes(b"other")
    job = workshop.wait_done(workshop.create(spec))
    assert (job.error.field, job.error.retryable) == (f"model.program.{part}", False)


def test_the_history_has_every_step_once_however_often_it_was_taken(workshop: Workshop) -> None:
    worker = workshop.start_worker()
    ref = workshop.submit(steps=60, pace_ms=10)
    workshop.wait_step(ref, 26)
    worker.trainer().kill()
    job = workshop.wait_done(ref)
    assert job.progress.steps_taken > 60, "some steps were taken twice"
    (file,) = [file for file in job.result if file.kind == artifact_pb2.ARTIFACT_KIND_HISTORY]
    assert file.filename == "history.parquet"
    path = workshop.artifacts.local_path("default", file.digest)
    rows = parquet.read_table(path).to_pylist()
    losses = [row for row in rows if row["metric"] == "loss"]
    assert [row["step"] for row in losses] == list(range(1, 61))
    assert [row["value"] for row in losses] == pytest.approx([1 / step for step in range(1, 61)])
    assert {row["metric"] for row in rows} == {"loss", "gradient_norm", "learning_rate", "clip_factor"}


def _saved(workshop: Workshop, ref: JobRef, *, attempt: int) -> list[event_pb2.CheckpointSaved]:
    return [
        event.checkpoint_saved
        for event in workshop.events(ref)
        if event.HasField("checkpoint_saved") and event.attempt == attempt
    ]
