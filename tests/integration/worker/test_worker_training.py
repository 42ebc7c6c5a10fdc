"""The real trainer in the real process tree: a small network, disturbed and undisturbed."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pyarrow.parquet as parquet
import pytest

from gradsight.v1 import artifact_pb2, job_pb2, spec_pb2, state_pb2
from gradsight_service.defaults import with_defaults
from gradsight_store.commits import read_stored

if TYPE_CHECKING:
    from tests.integration.worker.conftest import RunningWorker, Workshop

    from gradsight_store.operations import JobRef

WEIGHTS = "weights.safetensors"


def test_a_small_network_is_trained_measured_and_delivered(workshop: Workshop) -> None:
    temporary = workshop.directory / "temporary"
    temporary.mkdir()
    workshop.environ["TMPDIR"] = str(temporary)
    worker = workshop.start_real_worker(**{"data-memory": "64M"})
    ref = workshop.create(network(workshop, steps=200))
    job = workshop.wait_done(ref, timeout_s=60)
    assert job.state == state_pb2.JOB_STATE_SUCCEEDED, worker.log()
    assert {file.filename for file in job.result} >= {
        WEIGHTS,
        "model.json",
        "manifest.json",
        "examples.parquet",
    }
    assert job.summary.test.error_ratio < 0.2
    assert job.progress.step == job.progress.total_steps == 200
    for file in job.result:
        workshop.artifacts.verify("default", file.digest)
    assert list(temporary.iterdir()) == []


def test_the_curves_that_come_with_a_result_are_those_of_the_log(workshop: Workshop) -> None:
    workshop.start_real_worker()
    ref = workshop.create(network(workshop, steps=200))
    job = workshop.wait_done(ref, timeout_s=60)
    path = workshop.artifacts.local_path("default", _digest(job, "history.parquet"))
    curves: dict[tuple[str, str, str], dict[int, float]] = {}
    for row in parquet.read_table(path).to_pylist():
        curves.setdefault((row["metric"], row["split"], row["layer"]), {})[row["step"]] = row["value"]
    events = workshop.events(ref)
    losses = {
        recorded.first_step + place: loss
        for event in events
        if (recorded := event.steps_recorded).loss
        for place, loss in enumerate(recorded.loss)
    }
    assert curves["loss", "train", ""] == losses
    assert list(losses) == list(range(1, 201))
    evaluations = [event.evaluation_completed for event in events if event.HasField("evaluation_completed")]
    for split, number in (("validation", state_pb2.SPLIT_VALIDATION), ("test", state_pb2.SPLIT_TEST)):
        expected = {each.step: each.error_ratio for each in evaluations if each.split == number}
        assert curves["error_ratio", split, ""] == expected
    probes = [probe for event in events for probe in event.steps_recorded.probes]
    for layer in job.summary.layers:
        expected = {probe.step: probe.layer_update_ratio[layer.index] for probe in probes}
        assert curves["layer_update_ratio", "train", layer.path] == expected


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_kills_cost_time_and_change_nothing(workshop: Workshop, seed: int) -> None:
    chance = random.Random(seed)
    worker = workshop.start_real_worker()
    unbroken = workshop.wait_done(workshop.create(network(workshop, steps=1500)), timeout_s=60)
    ref = workshop.create(network(workshop, steps=1500))
    for attempt in (1, 2, 3):
        _wait_for_checkpoint(workshop, ref, attempt, worker)
        chance.choice([worker.trainer, worker.attempt])().kill()
    job = workshop.wait_done(ref, timeout_s=60)
    assert job.state == state_pb2.JOB_STATE_SUCCEEDED, worker.log()
    assert len(job.attempts) == 4
    assert all(attempt.resumed_at_step > 0 for attempt in job.attempts[1:])
    assert _digest(job, WEIGHTS) == _digest(unbroken, WEIGHTS)
    assert job.summary.test.loss == unbroken.summary.test.loss


def test_a_drained_run_goes_on_elsewhere_as_if_nothing_had_been(workshop: Workshop) -> None:
    first = workshop.start_real_worker()
    unbroken = workshop.wait_done(workshop.create(network(workshop, steps=1500)), timeout_s=60)
    ref = workshop.create(network(workshop, steps=1500))
    workshop.wait_step(ref, 100)
    first.process.terminate()
    assert first.process.wait(10) == 0, first.log()
    workshop.start_real_worker()
    job = workshop.wait_done(ref, timeout_s=60)
    assert job.attempts[0].error.reason == state_pb2.JOB_ERROR_REASON_WORKER_DRAINED
    assert job.attempts[1].resumed_at_step >= 100
    assert job.progress.steps_taken == 1500
    assert _digest(job, WEIGHTS) == _digest(unbroken, WEIGHTS)


def test_a_damaged_state_is_passed_over_said_and_let_go(workshop: Workshop) -> None:
    worker = workshop.start_real_worker()
    unbroken = workshop.wait_done(workshop.create(network(workshop, steps=1500)), timeout_s=60)
    ref = workshop.create(network(workshop, steps=1500))
    workshop.wait_until(ref, "two states", lambda _: len(_checkpoints(workshop, ref)) == 2)
    workshop.dispatching = False
    worker.trainer().kill()
    workshop.wait_until(ref, "the loss", lambda job: job.state == state_pb2.JOB_STATE_QUEUED)
    newest, older = _checkpoints(workshop, ref)
    path = workshop.artifacts.local_path("default", newest.digest)
    assert path is not None
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
    workshop.dispatching = True
    job = workshop.wait_done(ref, timeout_s=60)
    assert job.state == state_pb2.JOB_STATE_SUCCEEDED, worker.log()
    (rewound,) = [e.attempt_rewound for e in workshop.events(ref) if e.HasField("attempt_rewound")]
    assert rewound.resumed_at_step == job.attempts[1].resumed_at_step == older.step
    assert "damaged" in rewound.message
    assert not workshop.artifacts.exists("default", newest.digest)
    assert _digest(job, WEIGHTS) == _digest(unbroken, WEIGHTS)


def test_a_job_that_was_extended_ends_as_if_it_had_been_that_long(workshop: Workshop) -> None:
    worker = workshop.start_real_worker()
    whole, first = (network(workshop, steps=steps) for steps in (300, 200))
    for spec in (whole, first):
        spec.schedule.Clear()
        spec.schedule.constant.SetInParent()
        spec.schedule.warmup_fraction = 0.0
    unbroken = workshop.wait_done(workshop.create(whole), timeout_s=60)
    started = workshop.wait_done(workshop.create(first), timeout_s=60)
    whole.start.extended_job_id = started.job_id
    ref = workshop.create(whole)
    job = workshop.wait_done(ref, timeout_s=60)
    assert job.state == state_pb2.JOB_STATE_SUCCEEDED, f"{job.error} {worker.log()}"
    assert (job.attempts[0].resumed_at_step, job.progress.steps_taken) == (200, 100)
    assert _digest(job, WEIGHTS) == _digest(unbroken, WEIGHTS)
    assert job.summary.test == unbroken.summary.test


def test_another_rate_is_not_a_longer_run(workshop: Workshop) -> None:
    workshop.start_real_worker()
    started = workshop.wait_done(workshop.create(network(workshop, steps=20)), timeout_s=60)
    spec = network(workshop, steps=40)
    spec.optimizer.learning_rate = 0.5
    spec.start.extended_job_id = started.job_id
    job = workshop.wait_done(workshop.create(spec), timeout_s=60)
    assert job.error.field == "start.extended_job_id"
    assert "optimizer.learning_rate" in job.error.message


def test_a_job_begins_with_the_weights_of_another(workshop: Workshop) -> None:
    worker = workshop.start_real_worker()
    started = workshop.wait_done(workshop.create(network(workshop, steps=200)), timeout_s=60)
    spec = network(workshop, steps=1)
    spec.optimizer.learning_rate = 1e-9
    spec.start.weights_job_id = started.job_id
    job = workshop.wait_done(workshop.create(spec), timeout_s=60)
    assert job.state == state_pb2.JOB_STATE_SUCCEEDED, f"{job.error} {worker.log()}"
    assert (job.attempts[0].resumed_at_step, job.progress.step) == (0, 1)
    assert job.summary.test.loss == pytest.approx(started.summary.test.loss, rel=1e-4)


def test_rows_that_cannot_be_used_are_the_datas_fault(workshop: Workshop) -> None:
    workshop.start_real_worker()
    spec = network(workshop, steps=10)
    spec.data.target_column = "nonesuch"
    job = workshop.wait_done(workshop.create(spec))
    assert job.state == state_pb2.JOB_STATE_FAILED
    assert job.error.fault in (state_pb2.FAULT_DATA, state_pb2.FAULT_USER)
    assert job.error.field
    assert len(job.attempts) == 1


def test_a_job_that_is_too_large_fails_by_name_and_the_worker_lives_on(workshop: Workshop) -> None:
    worker = workshop.start_real_worker(**{"memory-limit": "5G"})
    spec = network(workshop, steps=10)
    del spec.model.builtin.mlp.hidden_sizes[:]
    spec.model.builtin.mlp.hidden_sizes.extend([16384, 16384])
    job = workshop.wait_done(workshop.create(spec), timeout_s=60)
    assert job.error.reason == state_pb2.JOB_ERROR_REASON_OUT_OF_MEMORY, worker.log()
    following = workshop.wait_done(workshop.create(network(workshop, steps=10)), timeout_s=60)
    assert following.state == state_pb2.JOB_STATE_SUCCEEDED, worker.log()


def test_a_baseline_is_judged_on_the_same_rows(workshop: Workshop) -> None:
    worker = workshop.start_real_worker()
    baseline = workshop.wait_done(workshop.create(network(workshop, steps=100)), timeout_s=60)
    spec = network(workshop, steps=200)
    spec.evaluation.baseline_job_id = baseline.job_id
    job = workshop.wait_done(workshop.create(spec), timeout_s=60)
    assert job.state == state_pb2.JOB_STATE_SUCCEEDED, worker.log()
    assert job.summary.baseline_test.examples == job.summary.test.examples > 0


def test_the_first_step_comes_soon_after_the_message(workshop: Workshop) -> None:
    """A generous bound for busy machines; the benchmark has the figures."""
    worker = workshop.start_real_worker()
    for _ in range(3):
        job = workshop.wait_done(workshop.create(network(workshop, steps=5)), timeout_s=60)
    assert job.state == state_pb2.JOB_STATE_SUCCEEDED, worker.log()
    waited = job.start_time.ToMicroseconds() - job.create_time.ToMicroseconds()
    assert waited < 0.5e6


def network(workshop: Workshop, *, steps: int) -> spec_pb2.JobSpec:
    """A small network over two clouds of points."""
    chance = random.Random(5)
    lines = ["x,y,label"]
    for number in range(600):
        side = number % 2
        lines.append(f"{chance.gauss(side, 0.4):.5f},{chance.gauss(-side, 0.4):.5f},{'ab'[side]}")
    spec = spec_pb2.JobSpec(name="network")
    spec.model.builtin.mlp.hidden_sizes.extend([16, 16])
    spec.data.train.artifact = workshop.upload("\n".join(lines).encode())
    spec.data.target_column = "label"
    spec.budget.steps = steps
    spec.checkpoint.interval_steps = 50
    return with_defaults(spec)


def _wait_for_checkpoint(workshop: Workshop, ref: JobRef, attempt: int, worker: RunningWorker) -> None:
    deadline = time.monotonic() + 30
    while attempt not in {
        event.attempt for event in workshop.events(ref) if event.HasField("checkpoint_saved")
    }:
        assert time.monotonic() < deadline, worker.log()
        time.sleep(0.005)


def _checkpoints(workshop: Workshop, ref: JobRef) -> list[artifact_pb2.Artifact]:
    """Those that an attempt could resume from, newest first."""
    return list(workshop.store.run(read_stored(ref)).record.checkpoints)


def _digest(job: job_pb2.Job, filename: str) -> str:
    (digest,) = [file.digest for file in job.result if file.filename == filename]
    return digest
