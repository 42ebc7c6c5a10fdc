"""Small runs of no importance, in a trainer that waits for its job.

They load, allocate and start what a first step needs (kernels, thread pools, a CUDA context), so that the job's own
first step comes in milliseconds. A run seeds everything random in it: what was rehearsed leaves no trace in it.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from gradsight.v1 import spec_pb2
from gradsight_worker.training.channel import open_channel
from gradsight_worker.training.plan import DataFile, TrainingPlan
from gradsight_worker.training.trainer import run_trainer

_ROWS = 64
_STEPS = 3


def rehearse(directory: Path, device: str, threads: int | None, wanted: Callable[[], bool]) -> None:
    """Train each architecture for a moment.

    Args:
        directory: A directory to make, use and remove.
        device: The trainer's name of its device.
        threads: As in a plan.
        wanted: Asked before each run whether there is anything better to do.
    """
    for number, spec in enumerate(SPECS):
        if wanted():
            return
        place = directory.with_name(f"{directory.name}.{number}")
        place.mkdir(mode=0o700)
        try:
            _run(spec, place, device, threads)
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _run(spec: spec_pb2.JobSpec, directory: Path, device: str, threads: int | None) -> None:
    data = directory / "train.csv"
    write_rows(data)
    ours, theirs = open_channel()
    plan = TrainingPlan(
        job_id="rehearsal",
        attempt=1,
        spec=spec,
        device=device,
        directory=directory,
        train=DataFile(path=data, format=spec_pb2.DATA_FORMAT_CSV, filename=data.name),
        threads=threads,
    )
    run_trainer(plan, ours)  # what it says fits into the socket, and nobody reads it
    ours.close()
    theirs.close()


def write_rows(path: Path) -> None:
    """Write a file of rows that every rehearsal can train on."""
    lines = [f"{number},{number % 7},word{number} of many,{'ab'[number % 2]}" for number in range(_ROWS)]
    path.write_text("\n".join(["x,y,text,label", *lines]), encoding="utf-8")


def _numbers_spec() -> spec_pb2.JobSpec:
    spec = _common_spec()
    spec.model.builtin.mlp.hidden_sizes.append(8)
    spec.data.input_columns.extend(["x", "y"])
    return spec


def _text_spec() -> spec_pb2.JobSpec:
    spec = _common_spec()
    spec.model.builtin.text_classifier.SetInParent()
    spec.data.input_columns.append("text")
    return spec


def _common_spec() -> spec_pb2.JobSpec:
    """What the service would have filled in."""
    return spec_pb2.JobSpec(
        name="rehearsal",
        data=spec_pb2.DataSpec(
            target_column="label",
            batch_size=16,
            split=spec_pb2.SplitSpec(validation_fraction=0.2, test_fraction=0.2, seed=0),
        ),
        objective=spec_pb2.ObjectiveSpec(cross_entropy=spec_pb2.CrossEntropy(label_smoothing=0.0)),
        optimizer=spec_pb2.OptimizerSpec(
            learning_rate=1e-3,
            weight_decay=0.01,
            max_gradient_norm=1.0,
            adamw=spec_pb2.AdamW(beta1=0.9, beta2=0.999, epsilon=1e-8),
        ),
        schedule=spec_pb2.ScheduleSpec(
            warmup_fraction=0.05, cosine=spec_pb2.CosineSchedule(final_fraction=0.0)
        ),
        budget=spec_pb2.BudgetSpec(steps=_STEPS),
        evaluation=spec_pb2.EvaluationSpec(),
        checkpoint=spec_pb2.CheckpointSpec(interval_steps=_STEPS, keep=1),
        seed=0,
    )


SPECS = (_numbers_spec(), _text_spec())
"""One short run of each architecture."""
