"""What the client can do, once for the sync and the async client: requests out, records back, nothing blocking."""

import dataclasses
import enum
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from gradsight import _convert, _transfer
from gradsight._effects import Compute, Emit, Operation
from gradsight._enums import ArtifactKind, JobState, ReportFormat
from gradsight._errors import InvalidRequest, JobCancelled, JobFailed, RequirementNotMet
from gradsight._insight import Finding, JobComparison, Report
from gradsight._job import Job, JobResult
from gradsight._records import Artifact, Recipe, Series, ServerInfo, Worker
from gradsight._requirements import Required, requirements
from gradsight._retry import Patience, call, call_patiently
from gradsight._spec import JobSpec
from gradsight._spec_files import upload_files
from gradsight._watch import watch_job
from gradsight.v1 import artifact_pb2, spec_pb2, state_pb2
from gradsight.v1 import artifact_service_pb2 as files
from gradsight.v1 import training_service_pb2 as wire


@dataclasses.dataclass(frozen=True)
class Created:
    """The answer to a create: the job, and whether this call made it."""

    job: Job
    new: bool


def create_job(
    spec: JobSpec, patience: Patience, *, request_id: str | None, validate_only: bool
) -> Operation[Created]:
    """Uploads the files that the spec names, then creates the job or only checks it."""
    message = spec_pb2.JobSpec()
    message.CopyFrom(spec._message)
    yield from upload_files(message, spec._files, patience)
    response: wire.CreateJobResponse = yield from call(
        "CreateJob",
        wire.CreateJobRequest(
            spec=message, request_id=request_id or uuid.uuid4().hex, validate_only=validate_only
        ),
        patience,
    )
    return Created(_convert.job(response.job), response.created)


def extend_job(
    job_id: str, patience: Patience, *, epochs: int | None, steps: int | None, request_id: str | None
) -> Operation[Created]:
    """Creates a job that goes on where another one ended: its spec with a larger budget."""
    if (epochs is None) == (steps is None):
        raise InvalidRequest(
            "extend: got both or none of epochs and steps; say one, counted from the beginning"
        )
    earlier = yield from get_job(job_id, patience)
    message = spec_pb2.JobSpec()
    message.CopyFrom(earlier.spec._message)
    message.start.extended_job_id = job_id
    if epochs is None:
        message.budget.steps = _whole("steps", steps)
    else:
        message.budget.epochs = _whole("epochs", epochs)
    extended = JobSpec._from_message(message)
    return (yield from create_job(extended, patience, request_id=request_id, validate_only=False))


def get_job(job_id: str, patience: Patience) -> Operation[Job]:
    """Returns the job as it stands."""
    response: wire.GetJobResponse = yield from call("GetJob", wire.GetJobRequest(job_id=job_id), patience)
    return _convert.job(response.job)


def list_jobs(
    patience: Patience, *, states: Sequence[JobState | str], labels: Mapping[str, str], name: str, queue: str
) -> Operation[None]:
    """Emits jobs, newest first, page by page."""
    request = wire.ListJobsRequest(
        states=[job_state(state) for state in states], labels=labels, name=name, queue=queue
    )
    while True:
        page: wire.ListJobsResponse = yield from call("ListJobs", request, patience)
        for job in page.jobs:
            yield Emit(_convert.job(job))
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def cancel_job(job_id: str, patience: Patience) -> Operation[Job]:
    """Asks the job to end and returns it, cancelling or cancelled."""
    response: wire.CancelJobResponse = yield from call(
        "CancelJob", wire.CancelJobRequest(job_id=job_id), patience
    )
    return _convert.job(response.job)


def list_events(job_id: str, patience: Patience, *, after: int, kinds: Sequence[str]) -> Operation[None]:
    """Emits the events that exist now, page by page."""
    request = wire.ListJobEventsRequest(job_id=job_id, after_sequence=after, event_kinds=kinds)
    while True:
        page: wire.ListJobEventsResponse = yield from call("ListJobEvents", request, patience)
        for event in filter(None, map(_convert.event, page.events)):
            yield Emit(event)
        if page.end:
            return
        request.after_sequence = page.next_sequence


def wait(job_id: str, patience: Patience, *, timeout: float | None, require: Required = ()) -> Operation[Job]:
    """Returns the job once it has ended. Raises WaitTimeout after `timeout` seconds; the job goes on.

    With `require`, raises RequirementNotMet unless all of it is met, and JobFailed or JobCancelled without a result.
    """
    wanted = requirements(require)
    job = yield from _until_done(job_id, patience, timeout)
    if not wanted:
        return job
    results = _succeeded(job).check(wanted)
    unmet = [result.sentence for result in results if not result.met]
    if unmet:
        raise RequirementNotMet(f"job {job_id} succeeded, but {'; '.join(unmet)}", job, results)
    return job


def _until_done(job_id: str, patience: Patience, timeout: float | None) -> Operation[Job]:
    """Waits; a service that answered once is waited for as long as a watch waits for it."""
    job = yield from get_job(job_id, patience)
    if job.done:
        return job
    yield from watch_job(job_id, patience, after=job.last_sequence, kinds=("state_changed",), timeout=timeout)
    response: wire.GetJobResponse = yield from call_patiently(
        "GetJob", wire.GetJobRequest(job_id=job_id), patience
    )
    return _convert.job(response.job)


def result(job_id: str, patience: Patience, *, timeout: float | None) -> Operation[JobResult]:
    """Waits for the job and returns what it brought home. Raises JobFailed or JobCancelled when that is nothing."""
    job = _succeeded((yield from _until_done(job_id, patience, timeout)))
    return JobResult(
        job_id=job_id,
        files=job.result,
        kept=job.summary.kept if job.summary else None,
        test=job.summary.test if job.summary else None,
        baseline_test=job.summary.baseline_test if job.summary else None,
    )


def _succeeded(job: Job) -> Job:
    """Returns the job. Raises JobFailed or JobCancelled when it ended without a result."""
    if job.state is JobState.FAILED:
        raise failure(job)
    if job.state is JobState.CANCELLED:
        raise JobCancelled(f"job {job.job_id} was cancelled", job)
    return job


def failure(job: Job) -> JobFailed:
    """Returns the exception that says why the job failed."""
    error = job.error
    if error is None:
        return JobFailed(f"job {job.job_id} failed", job, None)
    where = f", field {error.field}" if error.field else ""
    where += f", row {error.row}" if error.row else ""
    return JobFailed(f"job {job.job_id} failed ({error.reason}{where}): {error.message}", job, error)


def history(
    job_id: str,
    patience: Patience,
    *,
    metrics: Sequence[str],
    layers: Sequence[str],
    first_step: int,
    last_step: int,
    max_points: int,
) -> Operation[tuple[Series, ...]]:
    """Returns curves of the job."""
    request = wire.GetJobHistoryRequest(
        job_id=job_id,
        metrics=metrics,
        layers=layers,
        first_step=first_step,
        last_step=last_step,
        max_points=max_points,
    )
    response: wire.GetJobHistoryResponse = yield from call("GetJobHistory", request, patience)
    return tuple(_convert.record(Series, series) for series in response.series)


def list_findings(job_id: str, patience: Patience, *, open_only: bool) -> Operation[tuple[Finding, ...]]:
    """Returns the findings about the job, from all pages."""
    request = wire.ListFindingsRequest(job_id=job_id, open_only=open_only)
    found: list[Finding] = []
    while True:
        page: wire.ListFindingsResponse = yield from call("ListFindings", request, patience)
        found += [_convert.record(Finding, finding) for finding in page.findings]
        if not page.next_page_token:
            return tuple(found)
        request.page_token = page.next_page_token


def compare_jobs(baseline_job_id: str, job_id: str, patience: Patience) -> Operation[JobComparison]:
    """Returns the two jobs side by side."""
    request = wire.CompareJobsRequest(baseline_job_id=baseline_job_id, job_id=job_id)
    response: wire.CompareJobsResponse = yield from call("CompareJobs", request, patience, work=6)
    return _convert.record(JobComparison, response)


def job_id_of(job: object) -> str:
    """Returns the id of a job that is given by its id, as a record or as a handle."""
    job_id = getattr(job, "job_id", job)
    if not isinstance(job_id, str):
        raise InvalidRequest(f"job: got {job!r}, allowed: a job's id, a Job or a handle")
    return job_id


def report(job_id: str, patience: Patience, *, report_format: ReportFormat | str) -> Operation[Report]:
    """Returns the report about the job."""
    try:
        value = wire.ReportFormat.Value(f"REPORT_FORMAT_{ReportFormat(report_format).name}")
    except ValueError:
        raise InvalidRequest(f"format: got {str(report_format)!r}, allowed: {_words(ReportFormat)}") from None
    request = wire.GetJobReportRequest(job_id=job_id, format=value)
    response: wire.GetJobReportResponse = yield from call("GetJobReport", request, patience, work=6)
    return _convert.record(Report, response)


def list_workers(patience: Patience) -> Operation[None]:
    """Emits the workers."""
    request = wire.ListWorkersRequest()
    while True:
        page: wire.ListWorkersResponse = yield from call("ListWorkers", request, patience)
        for worker in page.workers:
            yield Emit(_convert.record(Worker, worker))
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def list_recipes(patience: Patience) -> Operation[tuple[Recipe, ...]]:
    """Returns the recipes of the workers that are alive."""
    response: wire.ListRecipesResponse = yield from call("ListRecipes", wire.ListRecipesRequest(), patience)
    return tuple(_convert.record(Recipe, recipe) for recipe in response.recipes)


def server_info(patience: Patience) -> Operation[ServerInfo]:
    """Returns what the service is and can do."""
    response: wire.GetServerInfoResponse = yield from call(
        "GetServerInfo", wire.GetServerInfoRequest(), patience
    )
    return _convert.record(ServerInfo, response)


def get_artifact(digest: str, patience: Patience) -> Operation[Artifact]:
    """Returns what is known of a file."""
    response: files.GetArtifactResponse = yield from call(
        "GetArtifact", files.GetArtifactRequest(digest=digest), patience
    )
    return _convert.record(Artifact, response.artifact)


def list_artifacts(patience: Patience, *, job_id: str, kind: ArtifactKind | None) -> Operation[None]:
    """Emits the files of a job, or the uploads, newest first."""
    request: files.ListArtifactsRequest | None = _artifacts_request(job_id, kind)
    while request is not None:
        page, request = yield from _artifacts_page(request, patience)
        for artifact in page:
            yield Emit(artifact)


def download_files(
    artifacts: Sequence[Artifact], directory: Path, patience: Patience
) -> Operation[tuple[Path, ...]]:
    """Fetches the files that a directory does not hold yet, makes it if needed, and returns all paths."""
    yield Compute(partial(directory.mkdir, parents=True, exist_ok=True))
    paths: dict[Path, str] = {}
    for artifact in artifacts:
        path = directory / _safe_name(artifact)
        if paths.get(path, artifact.digest) != artifact.digest:
            path = path.with_name(f"{path.stem}-{artifact.digest[7:15]}{path.suffix}")
        paths[path] = artifact.digest
        if not (yield Compute(partial(_transfer.holds, path, artifact))):
            yield from _transfer.download(artifact, path, patience)
    return tuple(paths)


def download_job(
    job_id: str, directory: Path, patience: Patience, *, kinds: Sequence[ArtifactKind], timeout: float | None
) -> Operation[tuple[Path, ...]]:
    """Waits for the job and fetches its result, or without waiting the files of the given kinds that exist now."""
    if not kinds:
        brought = yield from result(job_id, patience, timeout=timeout)
        return (yield from download_files(brought.files, directory, patience))
    found: list[Artifact] = []
    for kind in kinds:
        request: files.ListArtifactsRequest | None = _artifacts_request(job_id, kind)
        while request is not None:
            page, request = yield from _artifacts_page(request, patience)
            found += page
    return (yield from download_files(found, directory, patience))


def job_state(state: JobState | str) -> state_pb2.JobState.ValueType:
    """Returns the contract's value for a state."""
    try:
        return state_pb2.JobState.Value(f"JOB_STATE_{JobState(state).name}")
    except ValueError:
        raise InvalidRequest(f"state: got {str(state)!r}, allowed: {_words(JobState)}") from None


def _artifacts_page(
    request: files.ListArtifactsRequest, patience: Patience
) -> Operation[tuple[list[Artifact], files.ListArtifactsRequest | None]]:
    """Returns a page of files and the request for the next one, None after the last."""
    page: files.ListArtifactsResponse = yield from call("ListArtifacts", request, patience)
    following = files.ListArtifactsRequest(
        job_id=request.job_id, kind=request.kind, page_token=page.next_page_token
    )
    artifacts = [_convert.record(Artifact, artifact) for artifact in page.artifacts]
    return artifacts, following if page.next_page_token else None


def _artifacts_request(job_id: str, kind: ArtifactKind | str | None) -> files.ListArtifactsRequest:
    if kind is None:
        return files.ListArtifactsRequest(job_id=job_id)
    try:
        value = artifact_pb2.ArtifactKind.Value(f"ARTIFACT_KIND_{ArtifactKind(kind).name}")
        return files.ListArtifactsRequest(job_id=job_id, kind=value)
    except ValueError:
        raise InvalidRequest(f"kind: got {str(kind)!r}, allowed: {_words(ArtifactKind)}") from None


def _words(cls: type[enum.StrEnum]) -> str:
    """Returns what may be said of an enumeration."""
    return ", ".join(member for member in cls if member != "unknown")


def _whole(name: str, value: int | None) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**31:
        raise InvalidRequest(f"{name}: got {value!r}, allowed: a whole number from 1 to {2**31 - 1}")
    return value


def _safe_name(artifact: Artifact) -> str:
    """Returns the file's name without any directory, so that a download stays where it was sent."""
    name = Path(artifact.filename.replace("\\", "/")).name
    return name if name not in ("", ".", "..") else artifact.digest.removeprefix("sha256:")
