"""Twenty SIGKILLs at random steps change nothing: the last weights are those of the run that nobody disturbed."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as parquet
import pytest
from tests.integration.worker.conftest import Workshop

from gradsight.v1 import job_pb2, spec_pb2, state_pb2
from gradsight_service.defaults import with_defaults

if TYPE_CHECKING:
    from gradsight_store.operations import JobRef

KILLS = 20
APART = 20
"""Steps: one kill falls into each stretch, after its first state was saved, so that every attempt gets on."""
SAVED_EVERY = 10
STEPS = (KILLS + 1) * APART
PLACES = ("before", "after", "saving", "attempt")
PROGRAM = Path(__file__).parent / "programs" / "dying_worker.py"
WORDS = ("boot", "sandal", "lace", "sole", "heel", "size", "small", "wide", "return", "refund")


@pytest.fixture
def workshop(store_url: str, tmp_path: Path) -> Iterator[Workshop]:
    with Workshop(store_url, tmp_path, program=PROGRAM).running() as running:
        yield running


def mlp(workshop: Workshop) -> spec_pb2.JobSpec:
    """Batch norm, dropout, momentum, averaged weights and accumulation: all that has a state of its own."""
    chance = random.Random(5)
    lines = ["x,y,label"]
    for number in range(300):
        side = number % 2
        lines.append(f"{chance.gauss(side, 0.4):.5f},{chance.gauss(-side, 0.4):.5f},{'ab'[side]}")
    spec = spec_pb2.JobSpec(name="mlp")
    spec.model.builtin.mlp.hidden_sizes.extend([16, 16])
    spec.model.builtin.mlp.normalization = spec_pb2.NORMALIZATION_BATCH
    spec.model.builtin.mlp.dropout = 0.2
    spec.optimizer.sgd.momentum = 0.9
    spec.optimizer.average_decay = 0.99
    spec.optimizer.accumulation_steps = 2
    spec.schedule.plateau.patience = 2
    spec.data.train.artifact = workshop.upload("\n".join(lines).encode())
    spec.data.target_column = "label"
    return spec


def text_classifier(workshop: Workshop) -> spec_pb2.JobSpec:
    """Sparse n-grams, AdamW, cosine."""
    chance = random.Random(6)
    rows = [(" ".join(chance.choices(WORDS, k=6)), "ab"[number % 2]) for number in range(300)]
    spec = spec_pb2.JobSpec(name="text_classifier")
    spec.model.builtin.text_classifier.embedding_size = 16
    lines = ["text,label", *(f"{text},{label}" for text, label in rows)]
    spec.data.train.artifact = workshop.upload("\n".join(lines).encode())
    spec.data.target_column = "label"
    return spec


def cnn(workshop: Workshop) -> spec_pb2.JobSpec:
    """Images as tensors: convolutions and their batch norm, dropout, one cycle."""
    chance = np.random.default_rng(7)
    rows = np.zeros(200, dtype=[("image", "u1", (1, 12, 12)), ("label", "i8")])
    rows["label"] = np.arange(200) % 2
    rows["image"] = chance.integers(0, 128, (200, 1, 12, 12)) + 100 * rows["label"].reshape(-1, 1, 1, 1)
    file = io.BytesIO()
    np.save(file, rows)
    spec = spec_pb2.JobSpec(name="cnn")
    spec.model.builtin.cnn.channels.extend([4, 8])
    spec.model.builtin.cnn.dropout = 0.1
    spec.schedule.one_cycle.SetInParent()
    spec.data.train.artifact = workshop.upload(file.getvalue())
    spec.data.train.format = spec_pb2.DATA_FORMAT_NPY
    spec.data.target_column = "label"
    return spec


def gpt(workshop: Workshop) -> spec_pb2.JobSpec:
    """A language model: windows of texts, dropout in every block, Muon."""
    chance = random.Random(8)
    lines = ["text", *(" ".join(chance.choices(WORDS, k=30)) for _ in range(100))]
    spec = spec_pb2.JobSpec(name="gpt")
    model = spec.model.builtin.gpt
    model.layers, model.width, model.heads, model.context_length, model.dropout = 2, 16, 2, 16, 0.1
    spec.optimizer.muon.SetInParent()
    spec.data.train.artifact = workshop.upload("\n".join(lines).encode())
    return spec


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("make", [mlp, text_classifier, cnn, gpt])
def test_twenty_kills_at_random_steps_change_nothing(
    workshop: Workshop, make: Callable[[Workshop], spec_pb2.JobSpec]
) -> None:
    worker = workshop.start_worker(threads=1)
    spec = make(workshop)
    spec.budget.steps = STEPS
    spec.data.batch_size = 16
    spec.checkpoint.interval_steps = SAVED_EVERY
    spec.monitoring.probe_interval_steps = 7
    unbroken = workshop.wait_done(workshop.create(with_defaults(spec)), timeout_s=120)
    assert unbroken.state == state_pb2.JOB_STATE_SUCCEEDED, f"{unbroken.error}\n{worker.log()}"
    kills = random_kills(seed=make.__name__)
    spec.labels.update({f"kill_{number}": f"{step}-{place}" for number, (step, place) in enumerate(kills, 1)})
    ref = workshop.create(with_defaults(spec))
    job = workshop.wait_done(ref, timeout_s=240)
    assert job.state == state_pb2.JOB_STATE_SUCCEEDED, f"{job.error}\n{worker.log()}"
    assert len(job.attempts) == KILLS + 1
    for attempt, (step, _) in zip(job.attempts[1:], kills, strict=True):
        assert step - 2 * APART <= attempt.resumed_at_step <= step + SAVED_EVERY
    assert content(workshop, job, "weights.safetensors") == content(workshop, unbroken, "weights.safetensors")
    assert job.summary.test == unbroken.summary.test
    assert_log_is_whole(workshop, ref)
    assert curves(workshop, job) == curves(workshop, unbroken)


def random_kills(*, seed: str) -> list[tuple[int, str]]:
    """Step and place of each kill, one in every stretch."""
    chance = random.Random(seed)
    return [
        (number * APART + chance.randint(SAVED_EVERY + 1, APART), chance.choice(PLACES))
        for number in range(KILLS)
    ]


def assert_log_is_whole(workshop: Workshop, ref: JobRef) -> None:
    """Sequences without gaps, attempts one after the other, each ended by what was told of it."""
    events = workshop.events(ref)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [event.attempt for event in events] == sorted(event.attempt for event in events)
    started = [event.attempt for event in events if event.HasField("attempt_started")]
    assert started == list(range(1, KILLS + 2))
    states = workshop.states(ref)
    assert states == ["QUEUED", "RUNNING"] * (KILLS + 1) + ["SUCCEEDED"]


def curves(workshop: Workshop, job: job_pb2.Job) -> list[tuple[object, ...]]:
    """Every point of a run's curves; each step has its loss once."""
    table = parquet.read_table(io.BytesIO(content(workshop, job, "history.parquet")))
    rows = [tuple(row.values()) for row in table.to_pylist()]
    steps = [row for row in rows if row[0] == "loss" and row[1] == "train"]
    assert [row[4] for row in steps] == list(range(1, STEPS + 1))
    return sorted(rows, key=repr)


def content(workshop: Workshop, job: job_pb2.Job, filename: str) -> bytes:
    (digest,) = [file.digest for file in job.result if file.filename == filename]
    with workshop.artifacts.open("default", digest) as file:
        return file.read()
