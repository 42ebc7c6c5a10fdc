"""What a spec refers to: its files with their columns, and its baseline. Looked up at Create."""

import asyncio
import difflib
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from gradsight._reasons import Reason
from gradsight.v1 import artifact_pb2, job_pb2, spec_pb2, state_pb2
from gradsight_service.calls import Context
from gradsight_service.defaults import MODELS, model_of
from gradsight_service.errors import Violation
from gradsight_service.headers import DATA_FORMATS, FORMATS_BY_ENDING, Header, read_header
from gradsight_service.limits import DIGEST, JOB_ID, shown
from gradsight_service.store_access import StoreAccess
from gradsight_service.validation import SPLITS
from gradsight_store.artifact_records import get_artifact
from gradsight_store.artifacts import Artifacts
from gradsight_store.errors import ArtifactNotFound, JobNotFound
from gradsight_store.jobs import get_job
from gradsight_store.operations import JobRef

_KNOWN_FOR_S = 10.0
_KEPT = 1024
_FORMATS = frozenset({spec_pb2.DATA_FORMAT_UNSPECIFIED, *FORMATS_BY_ENDING.values()})
_NAMES = ", ".join(DATA_FORMATS)

Key = TypeVar("Key")
Value = TypeVar("Value")


class References:
    """Looks up what specs refer to. A file never changes, so what was seen of it is kept."""

    def __init__(self, store: StoreAccess, artifacts: Artifacts) -> None:
        self._store = store
        self._artifacts = artifacts
        self._records: _Recent[tuple[str, str], artifact_pb2.Artifact] = _Recent(_KNOWN_FOR_S)
        self._headers: _Recent[tuple[str, str, int], Header] = _Recent(3600.0)

    async def violations(self, tenant: str, spec: spec_pb2.JobSpec, context: Context) -> list[Violation]:
        """Everything that is wrong with what a spec refers to; references that are malformed are passed over.

        Fills in the format of each file, which is known only now.
        """
        found: list[Violation] = []
        headers: dict[str, Header] = {}
        for split in SPLITS:
            source: spec_pb2.DataSource = getattr(spec.data, split)
            if DIGEST.pattern.fullmatch(source.artifact) and source.format in _FORMATS:
                looked_up = await self._header(tenant, f"data.{split}", source, context)
                if isinstance(looked_up, Violation):
                    found.append(looked_up)
                else:
                    headers[split] = looked_up
        found.extend(column_violations(spec, headers))
        if JOB_ID.pattern.fullmatch(spec.evaluation.baseline_job_id):
            found.extend(await self._baseline(tenant, spec.evaluation.baseline_job_id, context))
        return found

    async def _header(
        self, tenant: str, path: str, source: spec_pb2.DataSource, context: Context
    ) -> Header | Violation:
        try:
            record = await self._record(tenant, source.artifact, context)
        except ArtifactNotFound:
            return Violation(
                path=f"{path}.artifact",
                message=f"got {source.artifact}, which no file has, allowed an uploaded one: upload it first",
                reason=Reason.ARTIFACT_NOT_FOUND,
            )
        if record.kind != artifact_pb2.ARTIFACT_KIND_DATASET:
            kind = artifact_pb2.ArtifactKind.Name(record.kind).removeprefix("ARTIFACT_KIND_").lower()
            return Violation(path=f"{path}.artifact", message=f"got a file of kind {kind}, allowed dataset")
        if not source.format:
            ending = "." + record.filename.rpartition(".")[2].lower()
            if ending not in FORMATS_BY_ENDING:
                return Violation(
                    path=f"{path}.format",
                    message=f"got none, and the file name {shown(record.filename)} does not tell, allowed {_NAMES}",
                )
            source.format = FORMATS_BY_ENDING[ending]
        header = await self._columns(tenant, source)
        return Violation(path=f"{path}.artifact", message=header.problem) if header.problem else header

    async def _record(self, tenant: str, digest: str, context: Context) -> artifact_pb2.Artifact:
        record = self._records.get((tenant, digest))
        if record is None:
            record = await self._store.run(get_artifact(tenant, digest), context)
            self._records.put((tenant, digest), record)
        return record

    async def _columns(self, tenant: str, source: spec_pb2.DataSource) -> Header:
        key = (tenant, source.artifact, source.format)
        header = self._headers.get(key)
        if header is None:
            header = await asyncio.to_thread(self._read_header, tenant, source)
            self._headers.put(key, header)
        return header

    def _read_header(self, tenant: str, source: spec_pb2.DataSource) -> Header:
        with self._artifacts.open(tenant, source.artifact) as file:
            return read_header(file, source.format)

    async def _baseline(self, tenant: str, job_id: str, context: Context) -> list[Violation]:
        path = "evaluation.baseline_job_id"
        try:
            job = await self._store.run(get_job(JobRef(tenant, job_id)), context)
        except JobNotFound:
            message = f"got {shown(job_id)}, which no job has, allowed a job that has succeeded"
            return [Violation(path=path, message=message, reason=Reason.JOB_NOT_FOUND)]
        if job.state != state_pb2.JOB_STATE_SUCCEEDED:
            return [
                Violation(
                    path=path, message=f"got a job that is {_state(job)}, allowed one that has succeeded"
                )
            ]
        return []


def column_violations(spec: spec_pb2.JobSpec, headers: Mapping[str, Header]) -> Iterator[Violation]:
    """Columns that the spec names and a file lacks, by the path of the field that names them."""
    data = spec.data
    columns = {split: header.columns for split, header in headers.items() if header.columns is not None}
    if not columns:
        return
    own = MODELS.get(model_of(spec))
    named = [("data.target_column", data.target_column)]
    named += [("data.id_column", data.id_column), ("data.category_column", data.category_column)]
    if own and own.input_column and not data.input_columns:
        named += [("data.input_columns", own.input_column)]
    named += [(f"data.input_columns[{index}]", column) for index, column in enumerate(data.input_columns)]
    for path, column in named:
        lacking = [split for split, known in columns.items() if column and column not in known]
        if lacking:
            where = " and ".join(lacking)
            hint = _nearest(column, columns[lacking[0]])
            yield Violation(path=path, message=f"got {shown(column)}, no column of {where}, {hint}")
    if not (own and own.input_column) and not data.input_columns and "train" in columns:
        used = {data.target_column, data.id_column, data.category_column}
        if used.issuperset(columns["train"]):
            yield Violation(
                path="data.input_columns", message="got none, and train has no other column to learn from"
            )


def _nearest(column: str, known: tuple[str, ...]) -> str:
    if close := difflib.get_close_matches(column, known[:4096], n=1):
        return f"nearest is {shown(close[0])}"
    first = ", ".join(shown(name) for name in known[:5])
    return f"allowed {first}" + (f" and {len(known) - 5} more" if len(known) > 5 else "")


def _state(job: job_pb2.Job) -> str:
    return state_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_")


class _Recent(Generic[Key, Value]):
    """The most recently used values, each for a while."""

    def __init__(self, for_s: float) -> None:
        self._for_s = for_s
        self._values: OrderedDict[Key, tuple[float, Value]] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        entry = self._values.get(key)
        if entry is None or time.monotonic() > entry[0]:
            return None
        self._values.move_to_end(key)
        return entry[1]

    def put(self, key: Key, value: Value) -> None:
        self._values[key] = (time.monotonic() + self._for_s, value)
        self._values.move_to_end(key)
        if len(self._values) > _KEPT:
            self._values.popitem(last=False)
