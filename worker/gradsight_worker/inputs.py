"""The files that an attempt needs, brought to this machine: datasets, programs, checkpoints, results of other jobs.

Two steps, because they fail and wait differently: `look_up` asks the store, `gather` moves bytes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gradsight.v1 import artifact_pb2, spec_pb2, state_pb2
from gradsight_store import artifact_records, jobs
from gradsight_store.artifacts import Artifacts
from gradsight_store.errors import ArtifactDamaged, ArtifactNotFound, JobNotFound
from gradsight_store.operations import JobRef
from gradsight_store.store import Store
from gradsight_store.v1 import record_pb2
from gradsight_worker.training.plan import DataFile

_SPLITS: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")
_PROGRAM_PARTS = ("graph", "weights")
_QUICK_BYTES = 16 << 20

BASELINE = "evaluation.baseline_job_id"
START = "start.weights_job_id"
EXTENDED = "start.extended_job_id"


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
    program: dict[str, artifact_pb2.Artifact]
    """`graph` and `weights` of a program; empty for other models."""
    results: dict[str, tuple[artifact_pb2.Artifact, ...]]
    """Files of the results of other jobs, by the spec's field that names the job."""
    extended: artifact_pb2.Artifact | None
    """Last training state of the job that this one goes on with."""
    checkpoints: tuple[artifact_pb2.Artifact, ...]

    def is_quick(self, address: str) -> bool:
        """Whether `gather` takes milliseconds: the artifacts are a directory and what is verified is small."""
        files = [*(file for file, _ in self.data.values()), *self.program.values()]
        in_directory = "://" not in address or address.startswith("file://")
        return in_directory and sum(file.size_bytes for file in files) <= _QUICK_BYTES


class Checkpoint(NamedTuple):
    """A checkpoint that is on this machine."""

    path: Path
    digest: str
    step: int


class Unusable(NamedTuple):
    """A checkpoint that the storage has lost or damaged."""

    digest: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The same as files of this machine."""

    data: dict[str, DataFile]
    program: dict[str, Path]
    results: dict[str, Path]
    """Directories with the files of a result."""
    extended: Path | None
    checkpoints: tuple[Checkpoint, ...]
    unusable: tuple[Unusable, ...]


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
    program = {
        part: _known(store, ref.tenant, getattr(spec.model.program, part), f"model.program.{part}")
        for part in _PROGRAM_PARTS
        if spec.model.HasField("program")
    }
    named = {BASELINE: spec.evaluation.baseline_job_id, START: spec.start.weights_job_id}
    results = {
        field: _result_of(store, JobRef(ref.tenant, job_id), field)
        for field, job_id in named.items()
        if job_id
    }
    if spec.start.extended_job_id and not record.HasField("extended"):
        job_id = spec.start.extended_job_id
        raise InputUnavailable(
            EXTENDED, f"job {job_id} left no state to go on from; name a job that succeeded"
        )
    return Wanted(
        tenant=ref.tenant,
        data=data,
        program=program,
        results=results,
        extended=record.extended if record.HasField("extended") else None,
        checkpoints=tuple(record.checkpoints),
    )


def gather(address: str, wanted: Wanted, directory: Path) -> dict[str, Any]:
    """Bring the files to this machine, or find them there; in words of JSON, for `inputs_from`.

    Datasets and programs are verified against their digests; checkpoints and results carry digests of their own.

    Args:
        address: Of the artifacts, a directory or an fsspec URL.
        wanted: Which files.
        directory: Where those that are not on this machine yet are put.
    """
    directory.mkdir()
    bring = _Bringer(Artifacts(address), wanted.tenant, directory)
    try:
        data = {
            split: {
                "path": str(bring(file, f"data.{split}", verified=True)),
                "format": data_format,
                "filename": file.filename,
            }
            for split, (file, data_format) in wanted.data.items()
        }
        program = {
            part: str(bring(file, f"model.program.{part}", verified=True))
            for part, file in wanted.program.items()
        }
        results = {field: str(bring.together(files, field)) for field, files in wanted.results.items()}
        extended = str(bring(wanted.extended, EXTENDED)) if wanted.extended is not None else None
    except InputUnavailable as missing:
        return {"field": missing.error.field, "message": missing.error.message}
    checkpoints, unusable = _gather_checkpoints(wanted, bring)
    return {
        "data": data,
        "program": program,
        "results": results,
        "extended": extended,
        "checkpoints": checkpoints,
        "unusable": unusable,
    }


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
        program={part: Path(path) for part, path in answer["program"].items()},
        results={field: Path(path) for field, path in answer["results"].items()},
        extended=Path(answer["extended"]) if answer["extended"] else None,
        checkpoints=tuple(Checkpoint(Path(path), *rest) for path, *rest in answer["checkpoints"]),
        unusable=tuple(Unusable(*lost) for lost in answer["unusable"]),
    )


def _known(store: Store, tenant: str, digest: str, field: str) -> artifact_pb2.Artifact:
    try:
        return store.run(artifact_records.get_artifact(tenant, digest))
    except ArtifactNotFound as error:
        raise InputUnavailable(field, str(error)) from error


def _result_of(store: Store, ref: JobRef, field: str) -> tuple[artifact_pb2.Artifact, ...]:
    try:
        job = store.run(jobs.get_job(ref))
    except JobNotFound as error:
        raise InputUnavailable(field, str(error)) from error
    if job.state != state_pb2.JOB_STATE_SUCCEEDED:
        raise InputUnavailable(field, f"job {ref.job_id} has no result; name a job that succeeded")
    return tuple(file for file in job.result if file.kind == artifact_pb2.ARTIFACT_KIND_RESULT)


def _gather_checkpoints(
    wanted: Wanted, bring: "_Bringer"
) -> tuple[list[tuple[str, str, int]], list[tuple[str, str]]]:
    found, unusable = [], []
    for file in wanted.checkpoints:
        try:
            found.append((str(bring(file, "")), file.digest, file.step))
        except InputUnavailable as missing:
            unusable.append((file.digest, f"the checkpoint of step {file.step} cannot be used: {missing}"))
    return found, unusable


class _Bringer:
    """Finds files on this machine, or puts them into a directory."""

    def __init__(self, artifacts: Artifacts, tenant: str, directory: Path) -> None:
        self._artifacts, self._tenant, self._directory = artifacts, tenant, directory

    def __call__(self, file: artifact_pb2.Artifact, field: str, *, verified: bool = False) -> Path:
        """Path of a file's content. Raises InputUnavailable: it is missing, or damaged where that is looked for."""
        destination = self._directory / file.digest.removeprefix("sha256:")
        try:
            path = self._artifacts.local_path(self._tenant, file.digest)
            if path is not None and verified:
                self._artifacts.verify(self._tenant, file.digest)
            elif path is None and not destination.exists():
                self._artifacts.fetch(self._tenant, file.digest, destination)
        except (ArtifactNotFound, ArtifactDamaged) as error:
            raise InputUnavailable(field, str(error)) from error
        return path or destination

    def together(self, files: Iterable[artifact_pb2.Artifact], field: str) -> Path:
        """A directory that has the files under their own names. Raises InputUnavailable."""
        directory = self._directory / field
        directory.mkdir()
        for file in files:
            (directory / file.filename).symlink_to(self(file, field))
        return directory
