"""The TrainingService: every method checks its request, asks the store, answers. What is long lives elsewhere."""

# ruff: noqa: N802 -- the methods are named by the contract

import hashlib
from dataclasses import dataclass

import structlog

from gradsight import __version__
from gradsight._data_formats import DATA_FORMATS
from gradsight._reasons import Reason
from gradsight.v1 import job_pb2, spec_pb2, state_pb2, training_service_pb2_grpc
from gradsight.v1 import training_service_pb2 as pb
from gradsight_service import requests
from gradsight_service.artifact_servicer import MAX_CHUNK_BYTES, MAX_UPLOAD_BYTES
from gradsight_service.calls import Context
from gradsight_service.comparisons import Comparisons
from gradsight_service.defaults import ARCHITECTURES, OBJECTIVES, OPTIMIZERS, SCHEDULES, with_defaults
from gradsight_service.dispatcher import Dispatcher
from gradsight_service.errors import CallError, draining, invalid_request, refuse
from gradsight_service.feed_hub import FeedHub
from gradsight_service.history import read_history
from gradsight_service.hub import Hub
from gradsight_service.job_stream import JobStream
from gradsight_service.references import References
from gradsight_service.reports import Reports
from gradsight_service.store_access import StoreAccess
from gradsight_service.validation import spec_violations
from gradsight_store import jobs
from gradsight_store.artifacts import Artifacts
from gradsight_store.clock import read_clock
from gradsight_store.errors import TransitionRefused
from gradsight_store.events import read_events
from gradsight_store.feed import checked_cursor
from gradsight_store.findings import list_findings
from gradsight_store.operations import new_operation_id
from gradsight_store.startcheck import SCHEMA_VERSION
from gradsight_store.workers import list_recipes, list_workers

log = structlog.get_logger()

TENANT = "default"
"""The one tenant until tokens name others."""

_MOST_SCANS = 8  # pages looked through in one call for events of rare kinds; the caller goes on from there


@dataclass(kw_only=True)
class TrainingServicer(training_service_pb2_grpc.TrainingServiceServicer):
    """The methods of the contract; what they raise becomes a status in `calls`."""

    store: StoreAccess
    artifacts: Artifacts
    references: References
    comparisons: Comparisons
    hub: Hub
    feed: FeedHub
    dispatcher: Dispatcher
    reports: Reports
    draining: bool = False

    async def CreateJob(self, request: pb.CreateJobRequest, context: Context) -> pb.CreateJobResponse:
        """Check the spec as a whole, fill in its defaults, record the job and wake the dispatcher."""
        if self.draining:
            raise draining()
        request_id = requests.request_id(request.request_id)
        spec = await self._checked_spec(request, context)
        if request.validate_only:
            queued = job_pb2.Job(tenant=TENANT, spec=spec, state=state_pb2.JOB_STATE_QUEUED)
            return pb.CreateJobResponse(job=queued)
        # The digest is that of the spec as it was sent: a newer service may have other defaults.
        sent = request.spec.SerializeToString(deterministic=True)
        operation = jobs.create_job(
            TENANT,
            spec,
            request_id=request_id,
            request_digest=hashlib.sha256(sent).hexdigest(),
            operation_id=new_operation_id(),
        )
        created = await self.store.run(operation, context)
        self.dispatcher.wake()
        log.info("job created", job_id=created.job.job_id, name=spec.name, again=not created.created)
        return pb.CreateJobResponse(job=created.job, created=created.created)

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.GetJobResponse:
        """Return one job."""
        ref = requests.job_ref(TENANT, request.job_id)
        return pb.GetJobResponse(job=await self.store.run(jobs.get_job(ref), context))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        """Return a page of jobs, newest first."""
        for index, state in enumerate(request.states):
            if state not in state_pb2.JobState.values() or not state:
                raise invalid_request(f"states[{index}]", f"got {state}, allowed a state")
        operation = jobs.list_jobs(
            TENANT,
            page_size=requests.page_size(request.page_size, default=50),
            page_token=request.page_token,
            states=list(request.states),
            labels=dict(request.labels),
            name=request.name,
            queue=request.queue,
        )
        with requests.refusing("page_token"):
            page = await self.store.run(operation, context)
        return pb.ListJobsResponse(jobs=page.jobs, next_page_token=page.next_page_token)

    async def CancelJob(self, request: pb.CancelJobRequest, context: Context) -> pb.CancelJobResponse:
        """Ask a job to end."""
        ref = requests.job_ref(TENANT, request.job_id)
        try:
            changed = await self.store.run(jobs.request_cancel(ref, operation_id=new_operation_id()), context)
        except TransitionRefused as error:
            state = state_pb2.JobState.Name(state_pb2.JobState.ValueType(error.state)).removeprefix(
                "JOB_STATE_"
            )
            metadata = {"job_id": ref.job_id, "state": state}
            raise CallError(Reason.STATE_TRANSITION_NOT_ALLOWED, str(error), metadata=metadata) from error
        log.info("cancel asked for", job_id=ref.job_id, answer=changed.answer.value)
        return pb.CancelJobResponse(job=changed.job)

    async def PauseJob(self, request: pb.PauseJobRequest, context: Context) -> pb.PauseJobResponse:
        """Not supported yet."""
        raise _not_supported_yet("PauseJob")

    async def ResumeJob(self, request: pb.ResumeJobRequest, context: Context) -> pb.ResumeJobResponse:
        """Not supported yet."""
        raise _not_supported_yet("ResumeJob")

    async def ListFindings(
        self, request: pb.ListFindingsRequest, context: Context
    ) -> pb.ListFindingsResponse:
        """Return a page of the findings about a job, most severe first."""
        operation = list_findings(
            requests.job_ref(TENANT, request.job_id),
            page_size=requests.page_size(request.page_size, default=50),
            page_token=request.page_token,
            open_only=request.open_only,
        )
        with requests.refusing("page_token"):
            page = await self.store.run(operation, context)
        return pb.ListFindingsResponse(findings=page.findings, next_page_token=page.next_page_token)

    async def CompareJobs(self, request: pb.CompareJobsRequest, context: Context) -> pb.CompareJobsResponse:
        """Compare two jobs on the test rows that both answered."""
        return await self.comparisons.compare(TENANT, request, context)

    async def GetJobReport(
        self, request: pb.GetJobReportRequest, context: Context
    ) -> pb.GetJobReportResponse:
        """Return a report about a job as one file."""
        ref = requests.job_ref(TENANT, request.job_id)
        return await self.reports.make(ref, request, context)

    async def WatchJob(self, request: pb.WatchJobRequest, context: Context) -> None:  # type: ignore[override]  # it writes
        """Stream a job's events: history, then live."""
        ref = requests.job_ref(TENANT, request.job_id)
        kinds = requests.event_kinds(request.event_kinds)
        if request.mode not in pb.WatchMode.values():
            raise invalid_request("mode", f"got {request.mode}, allowed every, latest")
        after = requests.sequence("after_sequence", request.after_sequence)
        with self.hub.seat():
            snapshot = await self.store.run(jobs.get_job(ref), context)
            if after > snapshot.last_sequence:
                raise CallError(
                    Reason.CURSOR_BEYOND_END,
                    f"after_sequence: got {after}, allowed at most {snapshot.last_sequence}, the job's last sequence",
                    metadata={"last_sequence": str(snapshot.last_sequence)},
                )
            stream = JobStream(
                hub=self.hub,
                ref=ref,
                position=after,
                kinds=kinds,
                latest=request.mode == pb.WATCH_MODE_LATEST,
                write=context.write,
            )
            await stream.run(snapshot)

    async def WatchJobs(self, request: pb.WatchJobsRequest, context: Context) -> None:  # type: ignore[override]  # it writes
        """Stream the state events of all jobs."""
        if request.after_cursor:
            with requests.refusing("after_cursor"):
                checked_cursor(request.after_cursor)
        with self.hub.seat():
            await self.feed.stream(request.after_cursor, context.write)

    async def ListJobEvents(
        self, request: pb.ListJobEventsRequest, context: Context
    ) -> pb.ListJobEventsResponse:
        """Return a page of a job's events."""
        ref = requests.job_ref(TENANT, request.job_id)
        kinds = requests.event_kinds(request.event_kinds)
        size = requests.page_size(request.page_size, default=100)
        response = pb.ListJobEventsResponse(
            next_sequence=requests.sequence("after_sequence", request.after_sequence)
        )
        for _ in range(_MOST_SCANS):
            scan = requests.MOST_IN_PAGE if kinds else size
            operation = read_events(ref, response.next_sequence, scan, self.artifacts)
            page = await self.store.run(operation, context)
            for event in page.events:
                response.next_sequence = event.sequence
                if not kinds or event.WhichOneof("kind") in kinds:
                    response.events.append(event)
                    if len(response.events) == size:
                        break
            response.end = page.end and response.next_sequence == page.next_sequence
            if response.end or len(response.events) == size:
                break
        return response

    async def GetJobHistory(
        self, request: pb.GetJobHistoryRequest, context: Context
    ) -> pb.GetJobHistoryResponse:
        """Return curves of a job."""
        ref = requests.job_ref(TENANT, request.job_id)
        return pb.GetJobHistoryResponse(
            series=await read_history(self.store, self.artifacts, ref, request, context)
        )

    async def ListWorkers(self, request: pb.ListWorkersRequest, context: Context) -> pb.ListWorkersResponse:
        """Return a page of the workers; the token is the last worker's id."""
        size = requests.page_size(request.page_size, default=100)
        workers = await self.store.run(list_workers(), context)
        later = [worker for worker in workers if worker.worker_id > request.page_token]
        token = later[size - 1].worker_id if len(later) > size else ""
        return pb.ListWorkersResponse(workers=later[:size], next_page_token=token)

    async def ListRecipes(self, request: pb.ListRecipesRequest, context: Context) -> pb.ListRecipesResponse:
        """Return the recipes of the workers that are alive."""
        recipes = await self.store.run(list_recipes(), context)
        return pb.ListRecipesResponse(recipes=recipes[: requests.MOST_IN_PAGE])

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.GetServerInfoResponse:
        """Return what the service is and can do."""
        info = pb.GetServerInfoResponse(
            version=__version__,
            schema_version=SCHEMA_VERSION,
            architectures=ARCHITECTURES,
            objectives=OBJECTIVES,
            optimizers=OPTIMIZERS,
            schedules=SCHEDULES,
            data_formats=DATA_FORMATS,
            max_upload_bytes=MAX_UPLOAD_BYTES,
            max_chunk_bytes=MAX_CHUNK_BYTES,
        )
        info.time.FromMilliseconds(await self.store.run(read_clock(), context))
        return info

    async def _checked_spec(self, request: pb.CreateJobRequest, context: Context) -> spec_pb2.JobSpec:
        """The spec with its defaults.

        Raises:
            CallError: Something is wrong with it; every violation is named.
        """
        spec = spec_pb2.JobSpec()
        spec.CopyFrom(request.spec)
        violations = spec_violations(spec)
        violations += await self.references.violations(TENANT, spec, context)
        if violations:
            raise refuse(violations)
        filled = with_defaults(spec)
        if violations := await self.references.job_violations(TENANT, filled, context):
            raise refuse(violations)
        return filled


def _not_supported_yet(method: str) -> CallError:
    return CallError(Reason.NOT_SUPPORTED_YET, f"{method} is not supported yet", metadata={"method": method})
