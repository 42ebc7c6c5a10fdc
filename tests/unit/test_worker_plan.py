"""The trainer's plan on its way through a pipe."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from gradsight.v1 import spec_pb2
from gradsight_worker.trainer_process import plan_from_json, plan_to_json
from gradsight_worker.training.plan import DataFile, TrainingPlan

FULL = TrainingPlan(
    job_id="job",
    attempt=3,
    spec=spec_pb2.JobSpec(name="näme", seed=2**62, labels={"a": "b"}),
    device="cuda:0",
    directory=Path("/spool/ä"),
    train=DataFile(path=Path("/a"), format=spec_pb2.DATA_FORMAT_CSV, filename="ü.csv"),
    validation=DataFile(path=Path("/b"), format=spec_pb2.DATA_FORMAT_UNSPECIFIED, filename="b.jsonl"),
    test=DataFile(path=Path("/c"), format=spec_pb2.DATA_FORMAT_JSONL, filename="c"),
    baseline=Path("/baseline"),
    graph=Path("/graph"),
    weights=Path("/weights"),
    extended=Path("/extended"),
    start_weights=Path("/start"),
    replayed=Path("/log.jsonl"),
    checkpoints=(Path("/2"), Path("/1")),
    data_memory_bytes=5 << 30,
    threads=2,
)


def test_a_plan_arrives_as_it_was_sent() -> None:
    assert plan_from_json(plan_to_json(FULL)) == FULL
    optional = (
        "validation",
        "test",
        "baseline",
        "graph",
        "weights",
        "extended",
        "start_weights",
        "replayed",
        "threads",
    )
    absent: dict[str, Any] = dict.fromkeys(optional)
    bare = replace(FULL, checkpoints=(), **absent)
    assert plan_from_json(plan_to_json(bare)) == bare


def test_every_field_of_a_plan_is_sent() -> None:
    defaults = {field.name: field.default for field in fields(TrainingPlan)}
    assert all(getattr(FULL, name) != default for name, default in defaults.items())
