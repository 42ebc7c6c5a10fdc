"""The files that an attempt needs, brought to this machine: datasets, checkpoints, the baseline's result.

Two steps, because they fail and wait differently: `look_up` asks the store, `gather` moves bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gradsight.v1 import artifact_pb2, spec_pb2, state_pb2
from gradsight_store import artifact_records, jobs
from gradsight_store.artifacts import Artifacts
from gradsight_store.errors import ArtifactDamaged, ArtifactNotFound, JobNotFound
from gradsight_store.operations import JobRef
from gradsight_store.store import Store
from gradsight_store.v1 import record_pb2
from gradsight_worker.training.plan import DataFile

_SPLITS: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")
_QUICK_BYTES = 16 << 20


class InputUnavailable(Exception):
    """A file without which the attempt cannot start is missing or damaged."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.error = state_pb2.JobError(
            reason=state_pb2.JOB_ERROR_REASON_ARTIFACT_UNAVAILABLE,
            fault=state_pb2.FAULT_INFRA,
            message=message,
            field=field,
            retryable=False,
        )


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What an attempt needs, by digest."""

    tenant: str
    data: dict[str, tuple[artifact_pb2.Artifact, spec_pb2.DataFormat.ValueType]]
    """By split: the file and its `DataFormat`."""
    baseline: tuple[artifact_pb2.Artifact, ...]
    checkpoints: tuple[artifact_pb2.Artifact, ...]

    def is_quick(self, address: str) -> bool:
        """Whether `gather` takes milliseconds: the artifacts are a directory and the datasets are small."""
        files = [file for file, _ in self.data.values()]
        in_directory = "://" not in address or address.startswith("file://")
        return in_directory and sum(file.size_bytes for file in files) <= _QUICK_BYTES


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The same as files of this machine."""

    data: dict[str, DataFile]
    baseline: Path | None
    checkpoints: tuple[Path, ...]
    remarks: tuple[str, ...]
    """What was passed over, for the job's log."""


def look_up(store: Store, ref: JobRef, record: record_pb2.JobRecord) -> Wanted:
    """Ask the store which files an attempt needs.

    Raises:
        InputUnavailable: The store does not know one of them.
        StoreUnavailable: No answer.
    """
    spec = record.job.spec
    data: dict[str, tuple[artifact_pb2.Artifact, spec_pb2.DataFormat.ValueType]] = {}
    for split in _SPLITS:
        if spec.data.HasField(split):
            source: spec_pb2.DataSource = getattr(spec.data, split)
            data[split] = (_known(store, ref.tenant, source.artifact, f"data.{split}"), source.format)
    baseline: Sequence[artifact_pb2.Artifact] = ()
    if spec.evaluation.baseline_job_id:
        baseline = _result_of(store, JobRef(ref.tenant, spec.evaluation.baseline_job_id))
    return Wanted(
        tenant=ref.tenant, data=data, baseline=tuple(baseline), checkpoints=tuple(record.checkpoints)
    )


def gather(address: str, wanted: Wanted, directory: Path) -> dict[str, Any]:
    """Bring the files to this machine, or find them there; in words of JSON, for `inputs_from`.

    Datasets are verified against their digests; checkpoints and results carry digests of their own.

    Args:
        address: Of the artifacts, a directory or an fsspec URL.
        wanted: Which files.
        directory: Where those that are not on this machine yet are put.
    """
    directory.mkdir()
    artifacts = Artifacts(address)
    data: dict[str, dict[str, Any]] = {}
    for split, (file, data_format) in wanted.data.items():
        try:
            path = _bring(artifacts, wanted.tenant, file, directory, verified=True)
        except (ArtifactNotFound, ArtifactDamaged) as error:
            return {"field": f"data.{split}", "message": str(error)}
        data[split] = {"path": str(path), "format": data_format, "filename": file.filename}
    checkpoints, remarks = [], []
    for file in wanted.checkpoints:
        try:
            checkpoints.append(str(_bring(artifacts, wanted.tenant, file, directory, verified=False)))
        except (ArtifactNotFound, ArtifactDamaged) as error:
            remarks.append(f"the checkpoint of step {file.step} was passed over: {error}")
    try:
        baseline = _gather_baseline(artifacts, wanted, directory)
    except (ArtifactNotFound, ArtifactDamaged) as error:
        return {"field": "evaluation.baseline_job_id", "message": f"the baseline's result: {error}"}
    return {"data": data, "baseline": baseline, "checkpoints": checkpoints, "remarks": remarks}


def inputs_from(answer: dict[str, Any]) -> Inputs:
    """What `gather` found.

    Raises:
        InputUnavailable: It found a file missing or damaged.
    """
    if "field" in answer:
        raise InputUnavailable(answer["field"], answer["message"])
    return Inputs(
        data={
            split: DataFile(path=Path(file["path"]), format=file["format"], filename=file["filename"])
            for split, file in answer["data"].items()
        },
        baseline=Path(answer["baseline"]) if answer["baseline"] else None,
        checkpoints=tuple(map(Path, answer["checkpoints"])),
        remarks=tuple(answer["remarks"]),
    )


def _known(store: Store, tenant: str, digest: str, field: str) -> artifact_pb2.Artifact:
    try:
        return store.run(artifact_records.get_artifact(tenant, digest))
    except ArtifactNotFound as error:
        raise InputUnavailable(field, str(error)) from error


def _result_of(store: Store, ref: JobRef) -> list[artifact_pb2.Artifact]:
    field = "evaluation.baseline_job_id"
    try:
        job = store.run(jobs.get_job(ref))
    except JobNotFound as error:
        raise InputUnavailable(field, f"the baseline: {error}") from error
    if job.state != state_pb2.JOB_STATE_SUCCEEDED:
        raise InputUnavailable(
            field, f"the baseline job {ref.job_id} has no result; name a job that succeeded"
        )
    return [file for file in job.result if file.kind == artifact_pb2.ARTIFACT_KIND_RESULT]


def _gather_baseline(artifacts: Artifacts, wanted: Wanted, directory: Path) -> str:
    if not wanted.baseline:
        return ""
    baseline = directory / "baseline"
    baseline.mkdir()
    for file in wanted.baseline:
        path = _bring(artifacts, wanted.tenant, file, directory, verified=False)
        (baseline / file.filename).symlink_to(path)
    return str(baseline)


def _bring(
    artifacts: Artifacts, tenant: str, file: artifact_pb2.Artifact, directory: Path, *, verified: bool
) -> Path:
    path = artifacts.local_path(tenant, file.digest)
    if path is not None:
        if verified:
            artifacts.verify(tenant, file.digest)
        return path
    destination = directory / file.digest.removeprefix("sha256:")
    if not destination.exists():
        artifacts.fetch(tenant, file.digest, destination)
    return destination
