"""A real gRPC server with a little training service behind it: jobs live in memory, a test writes their events."""
# ruff: noqa: N802 (gRPC names its methods)

import contextlib
import hashlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2

from gradsight import _reasons
from gradsight.v1 import artifact_pb2, event_pb2, insight_pb2, job_pb2, spec_pb2, state_pb2, worker_pb2
from gradsight.v1 import artifact_service_pb2 as files
from gradsight.v1 import artifact_service_pb2_grpc as files_grpc
from gradsight.v1 import training_service_pb2 as wire
from gradsight.v1 import training_service_pb2_grpc as wire_grpc

DONE = {state_pb2.JOB_STATE_SUCCEEDED, state_pb2.JOB_STATE_FAILED, state_pb2.JOB_STATE_CANCELLED}


class LittleService(wire_grpc.TrainingServiceServicer, files_grpc.ArtifactServiceServicer):
    """What the client talks to in these tests; `restart` keeps the jobs and the port."""

    def __init__(self) -> None:
        self.jobs: dict[str, job_pb2.Job] = {}
        self.logs: dict[str, list[event_pb2.JobEvent]] = {}
        self.requests: dict[str, tuple[bytes, str]] = {}
        self.workers: list[worker_pb2.Worker] = []
        self.recipes: list[worker_pb2.Recipe] = []
        self.findings: dict[str, list[insight_pb2.Finding]] = {}
        self.comparisons: dict[tuple[str, str], wire.CompareJobsResponse] = {}
        self.blobs: dict[str, tuple[artifact_pb2.Artifact, bytes]] = {}
        self.uploads: dict[str, tuple[files.CreateUploadRequest, bytearray]] = {}
        self.calls: list[str] = []
        self.refusals: dict[str, deque[tuple[grpc.StatusCode, str, str, dict[str, str]]]] = {}
        self.frames: dict[str, Callable[[Iterable[Any]], Iterable[Any]]] = {}
        self.changed = threading.Condition()
        self.port = 0
        self.page_size = 2
        self.chunk_bytes = 3
        self._server: grpc.Server | None = None
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        wire_grpc.add_TrainingServiceServicer_to_server(self, server)
        files_grpc.add_ArtifactServiceServicer_to_server(self, server)
        deadline = time.monotonic() + 10
        while True:
            try:
                self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
                break
            except RuntimeError:
                assert time.monotonic() < deadline, "the port of the stopped server stays taken"
                time.sleep(0.02)
        server.start()
        self._server = server

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None
        with self.changed:
            self.changed.notify_all()

    def refuse(self, method: str, code: grpc.StatusCode, reason: str, message: str, **fields: str) -> None:
        """The next call of the method is refused."""
        self.refusals.setdefault(method, deque()).append((code, reason, message, fields))

    # What tests write.

    def add_job(self, job_id: str = "job1", **spec: Any) -> job_pb2.Job:
        job = job_pb2.Job(job_id=job_id, tenant="default", spec=spec_pb2.JobSpec(**spec))
        job.create_time.GetCurrentTime()
        self.jobs[job_id], self.logs[job_id] = job, []
        self.change(job_id, state_pb2.JOB_STATE_QUEUED)
        return job

    def append(self, job_id: str, attempt: int = 1, **kind: Any) -> event_pb2.JobEvent:
        with self.changed:
            log = self.logs[job_id]
            event = event_pb2.JobEvent(sequence=len(log) + 1, attempt=attempt, **kind)
            event.record_time.GetCurrentTime()
            log.append(event)
            self.jobs[job_id].last_sequence = event.sequence
            self.changed.notify_all()
            return event

    def change(self, job_id: str, state: state_pb2.JobState.ValueType, **more: Any) -> None:
        job = self.jobs[job_id]
        with self.changed:
            changed = event_pb2.StateChanged(previous_state=job.state, state=state, **more)
            job.state, job.done = state, state in DONE
            if job.done:
                job.end_time.GetCurrentTime()
                job.error.CopyFrom(changed.error) if changed.HasField("error") else None
            self.append(job_id, state_changed=changed)

    def log_lines(self, job_id: str, count: int) -> None:
        for number in range(count):
            self.append(job_id, log_line=event_pb2.LogLine(message=f"line {number}"))

    def add_blob(self, data: bytes, filename: str, **more: Any) -> artifact_pb2.Artifact:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        artifact = artifact_pb2.Artifact(digest=digest, filename=filename, size_bytes=len(data), **more)
        self.blobs[digest] = artifact, data
        return artifact

    # TrainingService.

    def CreateJob(
        self, request: wire.CreateJobRequest, context: grpc.ServicerContext
    ) -> wire.CreateJobResponse:
        self._enter("CreateJob", context)
        if not request.spec.data.target_column:
            self._abort(
                context,
                (
                    grpc.StatusCode.INVALID_ARGUMENT,
                    "INVALID_FIELD",
                    "data.target_column: got nothing, allowed 1 to 256 characters",
                    {"data.target_column": "got nothing, allowed 1 to 256 characters"},
                ),
            )
        digest = request.spec.SerializeToString(deterministic=True)
        if request.request_id in self.requests:
            known, job_id = self.requests[request.request_id]
            if known != digest:
                self._abort(
                    context,
                    (
                        grpc.StatusCode.ALREADY_EXISTS,
                        "REQUEST_ID_REUSED",
                        "the request id made another job",
                        {},
                    ),
                )
            return wire.CreateJobResponse(job=self.jobs[job_id], created=False)
        filled = spec_pb2.JobSpec()
        filled.CopyFrom(request.spec)
        filled.data.batch_size = filled.data.batch_size or 64
        filled.name = filled.name or "unnamed"
        if request.validate_only:
            return wire.CreateJobResponse(job=job_pb2.Job(spec=filled))
        job = self.add_job(f"job{len(self.jobs) + 1}")
        job.spec.CopyFrom(filled)
        self.requests[request.request_id] = digest, job.job_id
        return wire.CreateJobResponse(job=job, created=True)

    def GetJob(self, request: wire.GetJobRequest, context: grpc.ServicerContext) -> wire.GetJobResponse:
        self._enter("GetJob", context)
        return wire.GetJobResponse(job=self._job(request.job_id, context))

    def ListJobs(self, request: wire.ListJobsRequest, context: grpc.ServicerContext) -> wire.ListJobsResponse:
        self._enter("ListJobs", context)
        jobs = [
            job
            for job in reversed(self.jobs.values())
            if (not request.states or job.state in request.states)
            and all(job.spec.labels.get(name) == value for name, value in request.labels.items())
            and request.name in ("", job.spec.name)
            and request.queue in ("", job.spec.queue)
        ]
        page, token = self._page(jobs, request.page_token)
        return wire.ListJobsResponse(jobs=page, next_page_token=token)

    def CancelJob(
        self, request: wire.CancelJobRequest, context: grpc.ServicerContext
    ) -> wire.CancelJobResponse:
        self._enter("CancelJob", context)
        job = self._job(request.job_id, context)
        if job.state in (state_pb2.JOB_STATE_SUCCEEDED, state_pb2.JOB_STATE_FAILED):
            refusal = "STATE_TRANSITION_NOT_ALLOWED", "the job has ended", {"job_id": job.job_id}
            self._abort(context, (grpc.StatusCode.FAILED_PRECONDITION, *refusal))
        if job.state != state_pb2.JOB_STATE_CANCELLED:
            self.change(job.job_id, state_pb2.JOB_STATE_CANCELLED)
        return wire.CancelJobResponse(job=job)

    def WatchJob(self, request: wire.WatchJobRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        self._enter("WatchJob", context)
        job = self._job(request.job_id, context)
        frames: Iterable[Any] = self._frames(job, request, context)
        yield from self.frames[job.job_id](frames) if job.job_id in self.frames else frames

    def _frames(self, job: job_pb2.Job, request: wire.WatchJobRequest, context: Any) -> Iterator[Any]:
        server, sequence = self._server, request.after_sequence
        yield wire.WatchJobResponse(snapshot=job)
        while context.is_active() and server is self._server:
            with self.changed:
                fresh, done = self.logs[job.job_id][sequence:], job.done
                if not fresh and not done:
                    self.changed.wait(0.1)
            for event in fresh:
                sequence = event.sequence
                if not request.event_kinds or event.WhichOneof("kind") in request.event_kinds:
                    yield wire.WatchJobResponse(event=event)
            if done and sequence == job.last_sequence:
                end = wire.StreamEnd(reason=wire.STREAM_END_REASON_JOB_DONE, next_sequence=sequence)
                yield wire.WatchJobResponse(end=end)
                return
            if not fresh:
                yield wire.WatchJobResponse(heartbeat=wire.Heartbeat(last_sequence=sequence))

    def WatchJobs(self, request: wire.WatchJobsRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        self._enter("WatchJobs", context)
        place, server = int(request.after_cursor or 0), self._server
        while context.is_active() and server is self._server:
            feed = [
                (job.job_id, event)
                for job in self.jobs.values()
                for event in self.logs[job.job_id]
                if event.HasField("state_changed")
            ]
            for job_id, event in feed[place:]:
                place += 1
                name = self.jobs[job_id].spec.name
                yield wire.WatchJobsResponse(cursor=str(place), job_id=job_id, event=event, name=name)
            with self.changed:
                self.changed.wait(0.1)
            yield wire.WatchJobsResponse(cursor=str(place))

    def ListJobEvents(self, request: wire.ListJobEventsRequest, context: Any) -> wire.ListJobEventsResponse:
        self._enter("ListJobEvents", context)
        self._job(request.job_id, context)
        page = self.logs[request.job_id][request.after_sequence : request.after_sequence + self.page_size]
        following = page[-1].sequence if page else request.after_sequence
        kinds = request.event_kinds
        return wire.ListJobEventsResponse(
            events=[event for event in page if not kinds or event.WhichOneof("kind") in kinds],
            next_sequence=following,
            end=following >= len(self.logs[request.job_id]),
        )

    def GetJobHistory(self, request: wire.GetJobHistoryRequest, context: Any) -> wire.GetJobHistoryResponse:
        self._enter("GetJobHistory", context)
        curves: dict[tuple[str, str], wire.Series] = {}

        def point(metric: str, layer: str, step: int, value: float) -> None:
            if metric in (request.metrics or ("loss", "gradient_norm", "validation_error_ratio")):
                series = curves.setdefault((metric, layer), wire.Series(metric=metric, layer=layer))
                series.steps.append(step)
                series.values.append(value)

        for event in self.logs[self._job(request.job_id, context).job_id]:
            steps = event.steps_recorded
            for index, loss in enumerate(steps.loss):
                point("loss", "", steps.first_step + index, loss)
                point("gradient_norm", "", steps.first_step + index, steps.gradient_norm[index])
            for probe in steps.probes:
                for layer, norm in enumerate(probe.layer_gradient_norm):
                    point("layer_gradient_norm", f"hidden.{layer}", probe.step, norm)
            if event.HasField("evaluation_completed"):
                evaluation = event.evaluation_completed
                point("validation_error_ratio", "", evaluation.step, evaluation.error_ratio)
        return wire.GetJobHistoryResponse(series=list(curves.values()))

    def ListWorkers(self, request: wire.ListWorkersRequest, context: Any) -> wire.ListWorkersResponse:
        self._enter("ListWorkers", context)
        page, token = self._page(self.workers, request.page_token)
        return wire.ListWorkersResponse(workers=page, next_page_token=token)

    def ListRecipes(self, request: wire.ListRecipesRequest, context: Any) -> wire.ListRecipesResponse:
        self._enter("ListRecipes", context)
        return wire.ListRecipesResponse(recipes=self.recipes)

    def GetServerInfo(self, request: wire.GetServerInfoRequest, context: Any) -> wire.GetServerInfoResponse:
        self._enter("GetServerInfo", context)
        return wire.GetServerInfoResponse(version="9.9.9", architectures=["mlp"], time=_now())

    def PauseJob(self, request: wire.PauseJobRequest, context: Any) -> wire.PauseJobResponse:
        raise NotImplementedError

    def ResumeJob(self, request: wire.ResumeJobRequest, context: Any) -> wire.ResumeJobResponse:
        raise NotImplementedError

    def ListFindings(self, request: wire.ListFindingsRequest, context: Any) -> wire.ListFindingsResponse:
        self._enter("ListFindings", context)
        self._job(request.job_id, context)
        found = self.findings.get(request.job_id, [])
        wanted = [finding for finding in found if finding.open or not request.open_only]
        page, token = self._page(wanted, request.page_token)
        return wire.ListFindingsResponse(findings=page, next_page_token=token)

    def CompareJobs(self, request: wire.CompareJobsRequest, context: Any) -> wire.CompareJobsResponse:
        self._enter("CompareJobs", context)
        for job_id in (request.baseline_job_id, request.job_id):
            self._job(job_id, context)
        return self.comparisons[request.baseline_job_id, request.job_id]

    def GetJobReport(self, request: wire.GetJobReportRequest, context: Any) -> wire.GetJobReportResponse:
        self._enter("GetJobReport", context)
        job_id = self._job(request.job_id, context).job_id
        if request.format == wire.REPORT_FORMAT_MARKDOWN:
            kind, content, filename = "text/markdown", f"# {job_id}\n", f"{job_id}.md"
        else:
            kind, content, filename = "text/html", f"<h1>{job_id}</h1>\n", f"{job_id}.html"
        return wire.GetJobReportResponse(
            content=content.encode(), media_type=f"{kind}; charset=utf-8", filename=filename
        )

    # ArtifactService.

    def CreateUpload(self, request: files.CreateUploadRequest, context: Any) -> files.CreateUploadResponse:
        self._enter("CreateUpload", context)
        if request.digest in self.blobs:
            return files.CreateUploadResponse(artifact=self.blobs[request.digest][0])
        upload_id = f"up-{len(self.uploads)}"
        self.uploads[upload_id] = request, bytearray()
        return files.CreateUploadResponse(upload_id=upload_id)

    def GetUpload(self, request: files.GetUploadRequest, context: Any) -> files.GetUploadResponse:
        self._enter("GetUpload", context)
        if request.upload_id not in self.uploads:
            self._abort(context, (grpc.StatusCode.NOT_FOUND, "UPLOAD_NOT_FOUND", "no such upload", {}))
        return files.GetUploadResponse(committed_bytes=len(self.uploads[request.upload_id][1]))

    def WriteUpload(
        self, requests: Iterator[files.WriteUploadRequest], context: Any
    ) -> files.WriteUploadResponse:
        first = next(requests)
        create, stored = self.uploads[first.upload_id]
        for chunk in [first, *requests]:
            assert chunk.offset == len(stored), "a chunk begins where the stored bytes end"
            stored += chunk.data
            self._enter("WriteUpload", context)
        if len(stored) < create.size_bytes:
            return files.WriteUploadResponse(committed_bytes=len(stored))
        artifact = self.add_blob(bytes(stored), create.filename, kind=create.kind)
        if artifact.digest != create.digest:
            self._abort(context, (grpc.StatusCode.INVALID_ARGUMENT, "DIGEST_MISMATCH", "other bytes", {}))
        return files.WriteUploadResponse(committed_bytes=len(stored), artifact=artifact)

    def DownloadArtifact(self, request: files.DownloadArtifactRequest, context: Any) -> Iterator[Any]:
        _, data = self._blob(request.digest, context)
        for offset in range(request.offset, len(data), self.chunk_bytes):
            self._enter("DownloadArtifact", context)
            yield files.DownloadArtifactResponse(offset=offset, data=data[offset : offset + self.chunk_bytes])

    def GetArtifact(self, request: files.GetArtifactRequest, context: Any) -> files.GetArtifactResponse:
        self._enter("GetArtifact", context)
        return files.GetArtifactResponse(artifact=self._blob(request.digest, context)[0])

    def ListArtifacts(self, request: files.ListArtifactsRequest, context: Any) -> files.ListArtifactsResponse:
        self._enter("ListArtifacts", context)
        found = [
            artifact
            for artifact, _ in self.blobs.values()
            if artifact.job_id == request.job_id and request.kind in (0, artifact.kind)
        ]
        page, token = self._page(found, request.page_token)
        return files.ListArtifactsResponse(artifacts=page, next_page_token=token)

    def _enter(self, method: str, context: grpc.ServicerContext) -> None:
        self.calls.append(method)
        if self.refusals.get(method):
            self._abort(context, self.refusals[method].popleft())

    def _job(self, job_id: str, context: grpc.ServicerContext) -> job_pb2.Job:
        if job_id not in self.jobs:
            self._abort(context, (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", f"no job {job_id}", {}))
        return self.jobs[job_id]

    def _blob(self, digest: str, context: Any) -> tuple[artifact_pb2.Artifact, bytes]:
        if digest not in self.blobs:
            self._abort(context, (grpc.StatusCode.NOT_FOUND, "ARTIFACT_NOT_FOUND", f"no file {digest}", {}))
        return self.blobs[digest]

    def _page(self, items: list[Any], token: str) -> tuple[list[Any], str]:
        start = int(token or 0)
        end = start + self.page_size
        return items[start:end], str(end) if end < len(items) else ""

    def _abort(self, context: grpc.ServicerContext, refusal: tuple[Any, str, str, dict[str, str]]) -> None:
        code, reason, message, fields = refusal
        status = status_pb2.Status(code=code.value[0], message=message)
        if reason:
            _pack(status.details.add(), error_details_pb2.ErrorInfo(reason=reason, domain=_reasons.DOMAIN))
        if fields:
            bad = error_details_pb2.BadRequest()
            for field, description in fields.items():
                bad.field_violations.add(field=field, description=description)
            _pack(status.details.add(), bad)
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(code, message)


def _pack(holder: AnyMessage, message: Any) -> None:
    holder.Pack(message)


def _now() -> Timestamp:
    time_now = Timestamp()
    time_now.GetCurrentTime()
    return time_now


@pytest.fixture
def service() -> Iterator[LittleService]:
    little = LittleService()
    yield little
    little.stop()


class Relay:
    """A TCP relay before the little service, whose cable can be cut: what a killed service looks like from here."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self.bytes_up = 0
        self.cut_after: int | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """Breaks every connection at once, with a reset."""
        ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._ends += [near, far]
                threading.Thread(target=self._pump, args=(near, far, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(far, near, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
                self.bytes_up += len(data) if up else 0
                if up and self.cut_after is not None and self.bytes_up > self.cut_after:
                    self.cut_after = None
                    self.cut()


@pytest.fixture
def relay(service: LittleService) -> Iterator[Relay]:
    wire_between = Relay(service.port)
    yield wire_between
    wire_between.close()


@pytest.fixture
def cli(service: LittleService, tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs the real command in a process of its own, against the little service."""

    def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "gradsight.cli", *arguments],
            env={**_clean_environment(), "GRADSIGHT_ADDRESS": service.address, **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("GRADSIGHT_")}
