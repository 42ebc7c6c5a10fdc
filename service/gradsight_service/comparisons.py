"""Two jobs side by side: what the test rows say that both answered, and where the specs differ."""

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

from gradsight._objectives import target_kind
from gradsight._reasons import Reason
from gradsight._spec_differences import differences
from gradsight.v1 import artifact_pb2, insight_pb2, job_pb2, spec_pb2, state_pb2
from gradsight.v1 import training_service_pb2 as pb
from gradsight_insight.comparison import Comparison, compare
from gradsight_insight.messages import comparison_message
from gradsight_service import requests
from gradsight_service.calls import Context, time_left
from gradsight_service.errors import CallError, invalid_request
from gradsight_service.paired_answers import NotPaired, answers_of_baseline, pair_answers
from gradsight_service.store_access import StoreAccess
from gradsight_store.artifacts import Artifacts
from gradsight_store.jobs import get_job
from gradsight_store.operations import JobRef

_AT_ONCE = 2  # comparisons; each holds the rows of two files in memory
_RIGHT_OR_WRONG = ("classes", "labels")


class Comparisons:
    """Compares jobs in threads of its own, so that no number of calls takes those of the files."""

    def __init__(self, store: StoreAccess, artifacts: Artifacts) -> None:
        self._store = store
        self._artifacts = artifacts
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="compare")

    async def compare(
        self, tenant: str, request: pb.CompareJobsRequest, context: Context
    ) -> pb.CompareJobsResponse:
        """Compare the jobs that a request names.

        Raises:
            CallError: An id is malformed, a job has not succeeded, or the caller's deadline is over.
            JobNotFound: There is no such job.
        """
        baseline_ref = requests.job_ref(tenant, request.baseline_job_id, "baseline_job_id")
        ref = requests.job_ref(tenant, request.job_id)
        baseline = await self._succeeded("baseline_job_id", baseline_ref, context)
        job = await self._succeeded("job_id", ref, context)
        return pb.CompareJobsResponse(
            comparison=await self._comparison(baseline, job, context),
            differences=spec_differences(baseline.spec, job.spec),
        )

    async def _succeeded(self, path: str, ref: JobRef, context: Context) -> job_pb2.Job:
        job = await self._store.run(get_job(ref), context)
        if job.state != state_pb2.JOB_STATE_SUCCEEDED:
            state = state_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_")
            raise invalid_request(path, f"got a job that is {state}, allowed one that has succeeded")
        return job

    async def _comparison(
        self, baseline: job_pb2.Job, job: job_pb2.Job, context: Context
    ) -> insight_pb2.Comparison:
        told = job.summary.comparison
        if job.summary.HasField("comparison") and told.baseline_job_id == baseline.job_id:
            return told
        comparing = asyncio.get_running_loop().run_in_executor(
            self._threads, compare_examples, self._artifacts, baseline, job
        )
        try:
            async with asyncio.timeout(time_left(context)):
                comparison = await comparing
        except TimeoutError as error:
            raise CallError(
                Reason.DEADLINE_EXCEEDED, "the caller's deadline is over; allow more time"
            ) from error
        return comparison_message(comparison, baseline_job_id=baseline.job_id, job_id=job.job_id)


def compare_examples(artifacts: Artifacts, baseline: job_pb2.Job, job: job_pb2.Job) -> Comparison:
    """Compare two jobs by the answers that they left behind. Blocking, and slow for many rows.

    Raises:
        ArtifactNotFound: The answers were deleted.
    """
    old, new = _examples(baseline), _examples(job)
    if problem := _why_not(baseline, job, old, new):
        return Comparison.impossible(problem)
    with ExitStack() as files:
        new_file = files.enter_context(artifacts.open(job.tenant, new))
        paired = None
        if job.spec.evaluation.baseline_job_id == baseline.job_id:
            paired = answers_of_baseline(new_file)
        if paired is None:
            if problem := _other_identities(baseline.spec.data, job.spec.data):
                return Comparison.impossible(problem)
            try:
                paired = pair_answers(files.enter_context(artifacts.open(baseline.tenant, old)), new_file)
            except NotPaired as error:
                return Comparison.impossible(str(error))
    impacts = dict(job.spec.evaluation.category_impacts)
    found = compare(paired.baseline_correct, paired.correct, paired.categories, impacts=impacts)
    return replace(found, message=" ".join(filter(None, (paired.message, found.message))))


def spec_differences(baseline: spec_pb2.JobSpec, spec: spec_pb2.JobSpec) -> Iterator[pb.SpecDifference]:
    """Where two specs differ, fields in their order, values as JSON."""
    for found in differences(spec, baseline):
        yield pb.SpecDifference(
            field=found.path, baseline_value=_json(found.earlier), value=_json(found.value)
        )


def _examples(job: job_pb2.Job) -> str:
    """Digest of the file with the job's answers; empty when it has none."""
    kind = artifact_pb2.ARTIFACT_KIND_EXAMPLES
    return next((file.digest for file in job.result if file.kind == kind), "")


def _why_not(baseline: job_pb2.Job, job: job_pb2.Job, old: str, new: str) -> str:
    """Why two jobs cannot be compared whatever rows they answered; empty when nothing speaks against it."""
    answered, asked = target_kind(baseline.spec.objective), target_kind(job.spec.objective)
    if asked != answered:
        return f"The old job answers {answered}, the new one {asked}."
    if asked not in _RIGHT_OR_WRONG:
        return f"Answers that are {asked} are not right or wrong: compare the losses on test."
    lacking = [job_id for job_id, digest in ((baseline.job_id, old), (job.job_id, new)) if not digest]
    return f"Job {' and job '.join(lacking)} left no answers behind." if lacking else ""


def _other_identities(baseline: spec_pb2.DataSpec, data: spec_pb2.DataSpec) -> str:
    """Why equal row ids need not mean equal rows; empty when they do."""
    if baseline.id_column != data.id_column:
        old, new = (
            f"by the column {ids}" if ids else "by number" for ids in (baseline.id_column, data.id_column)
        )
        return f"The old job names its rows {old}, the new one {new}: name one id column in both."
    if not data.id_column and _source_of_test(baseline) != _source_of_test(data):
        return (
            "The test rows come from different files and are only numbered: name an id column in both jobs."
        )
    return ""


def _source_of_test(data: spec_pb2.DataSpec) -> str:
    return data.test.artifact if data.HasField("test") else data.train.artifact


def _json(value: object) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False)
