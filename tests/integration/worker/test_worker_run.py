"""One job from the queue to its result, and what surrounds its trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradsight.v1 import artifact_pb2, state_pb2
from gradsight_store.artifact_records import list_artifacts

if TYPE_CHECKING:
    from tests.integration.worker.conftest import Workshop

    from gradsight_store.operations import JobRef

CHECKPOINT = artifact_pb2.ARTIFACT_KIND_CHECKPOINT


def test_a_job_runs_to_its_result_and_the_worker_takes_the_next(workshop: Workshop) -> None:
    worker = workshop.start_worker()
    first = workshop.wait_done(workshop.submit(steps=50))
    second = workshop.wait_done(workshop.submit(steps=50))
    assert first.state == second.state == state_pb2.JOB_STATE_SUCCEEDED, worker.log()
    assert workshop.result(first) == workshop.result(second) != b""
    assert (first.progress.step, first.progress.steps_taken) == (50, 50)
    (attempt,) = first.attempts
    assert (attempt.number, attempt.device, attempt.resumed_at_step) == (1, "cpu", 0)


def test_the_log_tells_the_whole_story_in_order(workshop: Workshop) -> None:
    workshop.start_worker()
    ref = workshop.submit(steps=30, checkpoint_every=10)
    workshop.wait_done(ref)
    events = workshop.events(ref)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    steps = [event.steps_recorded.first_step for event in events if event.HasField("steps_recorded")]
    assert steps == list(range(1, 31))
    saved = [event.checkpoint_saved.step for event in events if event.HasField("checkpoint_saved")]
    assert saved == [10, 20, 30]
    assert workshop.states(ref) == ["QUEUED", "RUNNING", "SUCCEEDED"]
    kinds = [event.WhichOneof("kind") for event in events]
    assert kinds[-2:] == ["artifact_ready", "state_changed"]


def test_a_success_leaves_its_last_checkpoint_and_no_other(workshop: Workshop) -> None:
    workshop.start_worker()
    ref = workshop.submit(steps=100, checkpoint_every=10)
    workshop.wait_done(ref)
    workshop.wait_idle()  # tidying may go on after the job's end
    stored = [file for file in _files(workshop, ref) if file.kind == CHECKPOINT]
    assert [file.step for file in stored] == [100]
    saved = [
        event.checkpoint_saved.artifact
        for event in workshop.events(ref)
        if event.HasField("checkpoint_saved")
    ]
    there = [file.step for file in saved if workshop.artifacts.exists("default", file.digest)]
    assert there == [100]


def test_a_checkpoint_that_another_job_made_as_well_stays(workshop: Workshop) -> None:
    workshop.start_worker()
    short = workshop.submit(steps=20, checkpoint_every=10)
    workshop.wait_done(short)
    workshop.wait_done(workshop.submit(steps=100, checkpoint_every=10))
    kept = [file for file in _files(workshop, short) if file.kind == CHECKPOINT]
    assert [workshop.artifacts.exists("default", file.digest) for file in kept] == [True]


def test_artifacts_may_be_behind_any_fsspec_address(workshop: Workshop) -> None:
    workshop.address = f"local://{workshop.address}"
    worker = workshop.start_worker()
    ref = workshop.submit(steps=100, checkpoint_every=10)
    workshop.wait_step(ref, 50)
    worker.trainer().kill()
    job = workshop.wait_done(ref)
    assert job.state == state_pb2.JOB_STATE_SUCCEEDED, worker.log()
    assert job.attempts[1].resumed_at_step >= 30
    workshop.wait_idle()
    saved = [file for file in _files(workshop, ref) if file.kind == CHECKPOINT]
    assert [file.step for file in saved] == [100], "a success leaves its last state"


def test_a_trainer_sees_neither_the_store_nor_credentials(workshop: Workshop) -> None:
    workshop.start_worker()
    ref = workshop.submit(steps=1)
    workshop.wait_done(ref)
    (line,) = [line for line in workshop.lines(ref) if line.startswith("trainer")]
    assert "sockets=1 " in line  # the channel to its attempt
    assert "SECRET" not in line
    assert "GRADSIGHT" not in line
    assert "'PATH'" in line


def test_nothing_of_a_job_is_left_on_the_workers_disk(workshop: Workshop) -> None:
    worker = workshop.start_worker()
    workshop.wait_done(workshop.submit(steps=5))
    workshop.wait_done(workshop.submit(steps=5))
    worker.process.terminate()
    assert worker.process.wait(10) == 0, worker.log()
    assert list(workshop.spool.iterdir()) == []


def test_leftovers_of_a_killed_worker_go_with_the_next_start(workshop: Workshop) -> None:
    killed = workshop.start_worker()
    workshop.wait_step(workshop.submit(steps=10_000), 5)
    killed.process.kill()
    killed.process.wait()
    (leftover,) = workshop.spool.iterdir()
    workshop.dispatching = False
    workshop.start_worker()
    assert leftover not in list(workshop.spool.iterdir())
    assert len(list(workshop.spool.iterdir())) == 1


def test_a_missing_data_set_fails_the_job_by_name(workshop: Workshop) -> None:
    workshop.start_worker()
    workshop.dispatching = False
    ref = workshop.submit(steps=5)
    workshop.artifacts.delete("default", workshop.job(ref).spec.data.train.artifact)
    workshop.dispatching = True
    job = workshop.wait_done(ref)
    assert job.error.reason == state_pb2.JOB_ERROR_REASON_ARTIFACT_UNAVAILABLE
    assert job.error.field == "data.train"


def test_a_damaged_data_set_fails_the_job_and_trains_nothing(workshop: Workshop) -> None:
    workshop.start_worker()
    workshop.dispatching = False
    ref = workshop.submit(steps=5)
    path = workshop.artifacts.local_path("default", workshop.job(ref).spec.data.train.artifact)
    assert path is not None
    path.chmod(0o600)
    path.write_bytes(b"text,label\nhallo,greeting\n")
    workshop.dispatching = True
    job = workshop.wait_done(ref)
    assert job.error.reason == state_pb2.JOB_ERROR_REASON_ARTIFACT_UNAVAILABLE
    assert workshop.lines(ref) == []


def _files(workshop: Workshop, ref: JobRef) -> list[artifact_pb2.Artifact]:
    return workshop.store.run(list_artifacts("default", job_id=ref.job_id)).artifacts
