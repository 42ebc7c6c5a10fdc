"""What a spec refers to: its files and what they hold, its recipe, earlier jobs. Looked up at Create."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, BinaryIO, Generic, TypeVar

from gradsight._data_formats import DATA_FORMATS, FORMATS_BY_ENDING
from gradsight._program_weights import misfits
from gradsight._reasons import Reason
from gradsight.v1 import artifact_pb2, job_pb2, spec_pb2, state_pb2
from gradsight_service.calls import Context
from gradsight_service.defaults import MODELS, TOKENS_COLUMN, input_column, model_of, objective_of
from gradsight_service.errors import Violation
from gradsight_service.headers import Header, read_header
from gradsight_service.limits import DIGEST, JOB_ID, nearest, shown
from gradsight_service.programs import (
    GraphFacts,
    WeightFacts,
    input_violations,
    read_graph,
    read_weights,
)
from gradsight_service.recipes import recipe_violations
from gradsight_service.starts import baseline_violations, extension_violations, weights_violations
from gradsight_service.store_access import StoreAccess
from gradsight_service.validation import SPLITS
from gradsight_store.artifact_records import get_artifact
from gradsight_store.artifacts import Artifacts
from gradsight_store.errors import ArtifactNotFound, JobNotFound
from gradsight_store.jobs import get_job
from gradsight_store.operations import JobRef
from gradsight_store.workers import list_recipes

_KNOWN_FOR_S = 10.0
_KEPT = 1024
_FORMATS = frozenset({spec_pb2.DATA_FORMAT_UNSPECIFIED, *FORMATS_BY_ENDING.values()})
_NAMES = ", ".join(DATA_FORMATS)

_RULES: Mapping[str, Callable[[spec_pb2.JobSpec, job_pb2.Job], Iterator[Violation]]] = {
    "start.extended_job_id": extension_violations,
    "start.weights_job_id": weights_violations,
    "evaluation.baseline_job_id": baseline_violations,
}

Facts = TypeVar("Facts")
Key = TypeVar("Key")
Value = TypeVar("Value")


class References:
    """Looks up what specs refer to. A file never changes, so what was seen of it is kept."""

    def __init__(self, store: StoreAccess, artifacts: Artifacts) -> None:
        self._store = store
        self._artifacts = artifacts
        self._records: _Recent[tuple[str, str], artifact_pb2.Artifact] = _Recent(_KNOWN_FOR_S)
        self._read: _Recent[tuple[str, str, str], Any] = _Recent(3600.0)

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
        found.extend(await self._program(tenant, spec, headers, context))
        if spec.model.recipe.name:
            installed = await self._store.run(list_recipes(), context)
            found.extend(recipe_violations(spec.model.recipe, installed))
        for path, job_id in _jobs_of(spec):
            looked_for = await self._job(tenant, path, job_id, context)
            found.extend([looked_for] if isinstance(looked_for, Violation) else [])
        return found

    async def job_violations(self, tenant: str, spec: spec_pb2.JobSpec, context: Context) -> list[Violation]:
        """What is wrong between a spec that is sound, with its defaults, and the earlier jobs that it names."""
        found: list[Violation] = []
        for path, job_id in _jobs_of(spec):
            job = await self._job(tenant, path, job_id, context)
            found.extend([job] if isinstance(job, Violation) else _RULES[path](spec, job))
        return found

    async def _header(
        self, tenant: str, path: str, source: spec_pb2.DataSource, context: Context
    ) -> Header | Violation:
        record = await self._record(tenant, f"{path}.artifact", source.artifact, context)
        if isinstance(record, Violation):
            return record
        if not source.format:
            ending = "." + record.filename.rpartition(".")[2].lower()
            if ending not in FORMATS_BY_ENDING:
                return Violation(
                    path=f"{path}.format",
                    message=f"got none, and the file name {shown(record.filename)} does not tell, allowed {_NAMES}",
                )
            source.format = FORMATS_BY_ENDING[ending]
        read = partial(read_header, data_format=source.format)
        header = await self._facts(tenant, source.artifact, f"data {source.format}", read)
        return Violation(path=f"{path}.artifact", message=header.problem) if header.problem else header

    async def _program(
        self, tenant: str, spec: spec_pb2.JobSpec, headers: Mapping[str, Header], context: Context
    ) -> list[Violation]:
        """What is wrong with a program's graph, its weights, and the columns that are its inputs."""
        found: list[Violation] = []
        facts: dict[str, Any] = {}
        for name, read in (("graph", read_graph), ("weights", read_weights)):
            path, digest = f"model.program.{name}", getattr(spec.model.program, name)
            if not DIGEST.pattern.fullmatch(digest):
                continue
            record = await self._record(tenant, path, digest, context)
            if isinstance(record, Violation):
                found.append(record)
                continue
            read_as: GraphFacts | WeightFacts = await self._facts(tenant, digest, name, read)
            if read_as.problem:
                where = f"{path}.{read_as.place}" if read_as.place else path
                found.append(Violation(path=where, message=read_as.problem))
            else:
                facts[name] = read_as
        if len(facts) == 2:
            found.extend(
                Violation(path="model.program.weights", message=f"got others than the graph's: {misfit}")
                for misfit in misfits(facts["graph"].tensors, facts["weights"].tensors)
            )
        if "graph" in facts:
            columns = {split: header.columns for split, header in headers.items() if header.columns}
            found.extend(input_violations(spec, facts["graph"].inputs, columns))
        return found

    async def _record(
        self, tenant: str, path: str, digest: str, context: Context
    ) -> artifact_pb2.Artifact | Violation:
        """What is known of a file, whatever it was stored as: what counts is what it holds."""
        record = self._records.get((tenant, digest))
        if record is None:
            try:
                record = await self._store.run(get_artifact(tenant, digest), context)
            except ArtifactNotFound:
                return Violation(
                    path=path,
                    message=f"got {digest}, which no file has, allowed an uploaded one: upload it first",
                    reason=Reason.ARTIFACT_NOT_FOUND,
                )
            self._records.put((tenant, digest), record)
        return record

    async def _facts(self, tenant: str, digest: str, kind: str, read: Callable[[BinaryIO], Facts]) -> Facts:
        """What `read` makes of a file, kept under `kind`."""
        facts: Facts | None = self._read.get((tenant, digest, kind))
        if facts is None:
            facts = await asyncio.to_thread(self._read_file, tenant, digest, read)
            self._read.put((tenant, digest, kind), facts)
        return facts

    def _read_file(self, tenant: str, digest: str, read: Callable[[BinaryIO], Facts]) -> Facts:
        with self._artifacts.open(tenant, digest) as file:
            return read(file)

    async def _job(self, tenant: str, path: str, job_id: str, context: Context) -> job_pb2.Job | Violation:
        """A job that has succeeded, or why there is none of this id."""
        try:
            job = await self._store.run(get_job(JobRef(tenant, job_id)), context)
        except JobNotFound:
            message = f"got {shown(job_id)}, which no job has, allowed a job that has succeeded"
            return Violation(path=path, message=message, reason=Reason.JOB_NOT_FOUND)
        if job.state != state_pb2.JOB_STATE_SUCCEEDED:
            message = f"got a job that is {_state(job)}, allowed one that has succeeded"
            return Violation(path=path, message=message)
        return job


def column_violations(spec: spec_pb2.JobSpec, headers: Mapping[str, Header]) -> Iterator[Violation]:
    """Columns that the spec names and a file lacks, by the path of the field that names them."""
    data = spec.data
    columns = {
        split: header.columns + _whole(spec, getattr(data, split))
        for split, header in headers.items()
        if header.columns is not None
    }
    if not columns:
        return
    own = MODELS.get(model_of(spec))
    named = [("data.target_column", data.target_column)]
    named += [("data.id_column", data.id_column), ("data.category_column", data.category_column)]
    by_default = input_column(data, own) if own and not data.input_columns else ""
    named += [("data.input_columns", by_default)]
    named += [(f"data.input_columns[{index}]", column) for index, column in enumerate(data.input_columns)]
    for path, column in named:
        lacking = [split for split, known in columns.items() if column and column not in known]
        if lacking:
            where = " and ".join(lacking)
            hint = nearest(column, columns[lacking[0]])
            yield Violation(path=path, message=f"got {shown(column)}, no column of {where}, {hint}")
    if not by_default and not data.input_columns and "train" in columns:
        used = {data.target_column, data.id_column, data.category_column}
        if used.issuperset(columns["train"]):
            yield Violation(
                path="data.input_columns", message="got none, and train has no other column to learn from"
            )


def _whole(spec: spec_pb2.JobSpec, source: spec_pb2.DataSource) -> tuple[str, ...]:
    """To a language model an array of tokens is one column, whatever its width."""
    is_tokens = objective_of(spec) == "causal_language_model" and source.format == spec_pb2.DATA_FORMAT_NPY
    return (TOKENS_COLUMN,) if is_tokens else ()


def _jobs_of(spec: spec_pb2.JobSpec) -> Iterator[tuple[str, str]]:
    """Paths and ids of the earlier jobs that a spec names; malformed ids are passed over."""
    start = spec.start.WhichOneof("from")
    named = {f"start.{start}": getattr(spec.start, start)} if start else {}
    named["evaluation.baseline_job_id"] = spec.evaluation.baseline_job_id
    return ((path, job_id) for path, job_id in named.items() if JOB_ID.pattern.fullmatch(job_id))


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
