"""What a trainer rehearses while it waits leaves no trace in the run that follows."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from gradsight.v1 import spec_pb2
from gradsight_worker import rehearsal
from gradsight_worker.training.channel import ResultMessage, open_channel
from gradsight_worker.training.plan import DataFile, ExitStatus, TrainingPlan
from gradsight_worker.training.trainer import run_trainer


def test_a_rehearsed_run_has_the_weights_of_an_unrehearsed_one(tmp_path: Path) -> None:
    digests = [_weights_in_a_process(tmp_path / str(rehearsed), rehearsed) for rehearsed in (False, True)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("architecture", ["mlp", "text_classifier"])
def test_every_architecture_is_rehearsed_to_its_result(tmp_path: Path, architecture: str) -> None:
    specs = {str(spec.model.builtin.WhichOneof("architecture")): spec for spec in rehearsal.SPECS}
    status, _ = _run(specs[architecture], tmp_path)
    assert status == ExitStatus.SUCCEEDED


def test_a_rehearsal_leaves_no_file_and_stops_when_a_job_comes(tmp_path: Path) -> None:
    questions = iter([False, True])
    rehearsal.rehearse(tmp_path / "rehearsal", "cpu", 1, lambda: next(questions))
    assert list(tmp_path.iterdir()) == []
    assert next(questions, "asked twice") == "asked twice"


def _weights_in_a_process(directory: Path, rehearsed: bool) -> str:
    """Digest of the weights of a run in a fresh process: what was imported and computed here stays out of it."""
    directory.mkdir()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            if rehearsed:
                rehearsal.rehearse(directory / "rehearsal", "cpu", 1, lambda: False)
            _, weights = _run(_spec(), directory)
            (directory / "digest").write_text(hashlib.sha256(weights).hexdigest())
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(process, 0)[1] == 0
    return (directory / "digest").read_text()


def _run(spec: spec_pb2.JobSpec, directory: Path) -> tuple[int, bytes]:
    data = directory / "train.csv"
    rehearsal.write_rows(data)
    ours, theirs = open_channel()
    file = DataFile(path=data, format=spec_pb2.DATA_FORMAT_CSV, filename=data.name)
    plan = TrainingPlan(
        job_id="job", attempt=1, spec=spec, device="cpu", directory=directory, train=file, threads=1
    )
    status = run_trainer(plan, ours)
    messages = theirs.receive()
    result = next((message for message in messages if isinstance(message, ResultMessage)), None)
    assert result is not None, messages[-1]
    return status, next(file.path for file in result.files if "weights" in file.filename).read_bytes()


def _spec() -> spec_pb2.JobSpec:
    spec = spec_pb2.JobSpec()
    spec.CopyFrom(rehearsal.SPECS[0])
    spec.model.builtin.mlp.dropout = 0.5
    spec.budget.steps = 30
    spec.seed = 11
    return spec
