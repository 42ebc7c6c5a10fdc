"""The process: starts safely or says why not, shares a store with others, bears outages, and leaves in order."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gradsight.v1 import artifact_service_pb2 as files_pb
from gradsight.v1 import state_pb2
from gradsight.v1 import training_service_pb2 as pb
from gradsight_store.embedded import EmbeddedStore, start_embedded

Service = Any
ServiceStarter = Callable[..., Any]
Worker = Callable[..., Any]
Refused = Callable[[Callable[[], Any]], Any]

CODE = grpc.StatusCode
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def health_of(service: Service) -> int:
    check = health_pb2_grpc.HealthStub(service.channel).Check(health_pb2.HealthCheckRequest())
    return int(check.status)


def page(service: Service, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{service.metrics}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def run_serve(*arguments: str, timeout_s: float = 20.0, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gradsight.cli", "serve", "--metrics-address", "127.0.0.1:0", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_s, env={**os.environ, **environ}, check=False
    )


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    """A store that a test may kill."""
    with start_embedded(tmp_path / "store", 0) as server:
        yield server


def test_an_address_that_others_could_reach_is_refused_in_one_sentence(
    service: Service, tmp_path: Path
) -> None:
    ended = run_serve(
        "--address", "0.0.0.0:0", "--store", service.store_server.url, "--artifacts", str(tmp_path)
    )
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "--insecure-listen" in ended.stderr


def test_insecure_listen_takes_any_address(start_service: ServiceStarter) -> None:
    service = start_service("--address", "0.0.0.0:0", "--insecure-listen")
    port = service.address.rpartition(":")[2]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert check.status == SERVING
        reflect: Any = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.RpcError) as caught:
            list(reflect(iter([b""])))
        assert caught.value.code() is CODE.UNIMPLEMENTED
    assert service.stop() == 0


def test_a_port_that_is_taken_is_told_in_one_sentence(service: Service, tmp_path: Path) -> None:
    shared = ("--store", service.store_server.url, "--artifacts", str(tmp_path))
    ended = run_serve("--address", service.address, *shared)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert f"cannot listen on {service.address}" in ended.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        metrics = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = run_serve("--address", "127.0.0.1:0", "--metrics-address", metrics, *shared)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "--metrics-address" in ended.stderr


def test_a_store_that_could_lose_jobs_is_refused_and_dev_only_warns(
    tmp_path: Path, start_service: ServiceStarter, own_store: EmbeddedStore
) -> None:
    import redis

    with redis.Redis.from_url(own_store.url) as client:
        client.config_set("appendonly", "no")
    ended = run_serve("--address", "127.0.0.1:0", "--store", own_store.url, "--artifacts", str(tmp_path))
    assert ended.returncode == 1
    assert "append-only file is off" in ended.stderr
    assert start_service("--dev", store=own_store).stop() == 0
    assert start_service("--store-durability", "managed", store=own_store).stop() == 0


def test_flags_come_from_the_environment(service: Service, tmp_path: Path) -> None:
    ended = run_serve(
        GRADSIGHT_ADDRESS="0.0.0.0:0",
        GRADSIGHT_STORE=service.store_server.url,
        GRADSIGHT_ARTIFACTS=str(tmp_path),
    )
    assert "refusing to listen on 0.0.0.0:0" in ended.stderr


def test_two_services_on_one_store_are_one_service(
    start_service: ServiceStarter, service: Service, worker: Worker
) -> None:
    other = start_service()
    spec = service.spec('queue: "shared"')
    first = service.training.CreateJob(pb.CreateJobRequest(spec=spec, request_id="shared-1"))
    second = other.training.CreateJob(pb.CreateJobRequest(spec=spec, request_id="shared-1"))
    assert (first.created, second.created) == (True, False)
    assert first.job.job_id == second.job.job_id
    streams = [
        one.training.WatchJob(pb.WatchJobRequest(job_id=first.job.job_id), timeout=20)
        for one in (service, other)
    ]
    for stream in streams:
        next(stream)
    attempts = [worker("shared").wait_for_job()]
    attempts[0].append_steps(1, 30)
    attempts[0].finish(state_pb2.JOB_STATE_SUCCEEDED)
    seen = [[frame.event.sequence for frame in stream if frame.HasField("event")] for stream in streams]
    assert seen[0] == seen[1] == list(range(1, 35))
    assert other.stop() == 0


def test_many_jobs_are_handed_out_once_each_by_two_dispatchers(
    start_service: ServiceStarter, service: Service, worker: Worker
) -> None:
    other = start_service()
    spec = service.spec('queue: "twice"')
    made = [
        one.training.CreateJob(pb.CreateJobRequest(spec=spec)).job.job_id for one in (service, other) * 10
    ]
    idle, done = worker("twice"), []
    for _ in made:
        attempt = idle.wait_for_job()
        done.append(attempt.ref.job_id)
        attempt.finish(state_pb2.JOB_STATE_SUCCEEDED)
    assert sorted(done) == sorted(made)
    assert all(service.training.GetJob(pb.GetJobRequest(job_id=one)).job.state == 6 for one in made)
    assert other.stop() == 0


def test_a_service_that_is_killed_loses_no_event(
    start_service: ServiceStarter, service: Service, worker: Worker
) -> None:
    other = start_service()
    queue = f"killed-{time.monotonic_ns()}"
    service.create(f'queue: "{queue}"')
    attempt = worker(queue).wait_for_job()
    last = attempt.append_steps(1, 50)
    stream = other.training.WatchJob(pb.WatchJobRequest(job_id=attempt.ref.job_id), timeout=20)
    next(stream)
    seen = [next(stream).event.sequence for _ in range(20)]
    os.kill(other.process.pid, signal.SIGKILL)
    with pytest.raises(grpc.RpcError) as caught:
        seen.extend(frame.event.sequence for frame in stream if frame.HasField("event"))
    assert caught.value.code() is CODE.UNAVAILABLE
    attempt.finish(state_pb2.JOB_STATE_SUCCEEDED)
    again = service.training.WatchJob(pb.WatchJobRequest(job_id=attempt.ref.job_id, after_sequence=seen[-1]))
    seen.extend(frame.event.sequence for frame in again if frame.HasField("event"))
    assert seen == list(range(1, last + 2))


def test_draining_ends_streams_with_their_place_and_refuses_new_work(
    start_service: ServiceStarter, service: Service, refusal: Refused
) -> None:
    leaving = start_service()
    job = leaving.create()
    spec = leaving.spec()
    stream = leaving.training.WatchJob(pb.WatchJobRequest(job_id=job.job_id), timeout=20)
    feed = leaving.training.WatchJobs(pb.WatchJobsRequest(), timeout=20)
    next(stream)
    next(stream)
    health = health_pb2_grpc.HealthStub(leaving.channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
    assert next(health).status == SERVING
    # A call in progress keeps the service draining for as long as it takes, within bounds.
    held = threading.Event()

    def slow_upload() -> Iterator[Any]:
        held.wait(10)
        yield from ()

    upload = leaving.files.WriteUpload.future(slow_upload())
    wait_until(lambda: page(leaving, "/readyz")[0] == 200)
    started = time.monotonic()
    leaving.process.send_signal(signal.SIGTERM)
    assert next(health).status == NOT_SERVING
    end = next(stream).end
    assert (end.reason, end.next_sequence) == (pb.STREAM_END_REASON_SERVER_DRAINING, 1)
    ended = refusal(lambda: next(stream))
    assert (ended.code, ended.reason) == (CODE.UNAVAILABLE, "SERVER_DRAINING")
    assert refusal(lambda: list(feed)).reason == "SERVER_DRAINING"
    refused = refusal(lambda: leaving.training.CreateJob(pb.CreateJobRequest(spec=spec)))
    assert (refused.code, refused.reason) == (CODE.UNAVAILABLE, "SERVER_DRAINING")
    assert refused.retry_after_s > 0
    assert leaving.training.GetJob(pb.GetJobRequest(job_id=job.job_id)).job.job_id == job.job_id
    assert page(leaving, "/readyz") == (503, "the service is shutting down\n")
    held.set()
    assert isinstance(upload.exception(), grpc.RpcError)
    assert leaving.process.wait(10) == 0
    assert time.monotonic() - started < 10


def test_an_upload_that_never_ends_does_not_keep_the_service(start_service: ServiceStarter) -> None:
    leaving = start_service()
    never = threading.Event()

    def endless() -> Iterator[files_pb.WriteUploadRequest]:
        never.wait(30)
        yield from ()

    upload = leaving.files.WriteUpload.future(endless())
    next(leaving.training.WatchJobs(pb.WatchJobsRequest(after_cursor="0"), timeout=20), None)
    started = time.monotonic()
    leaving.process.send_signal(signal.SIGTERM)
    assert leaving.process.wait(10) == 0
    assert time.monotonic() - started < 10
    never.set()
    assert upload.exception() is not None


def test_watchers_beyond_the_limit_are_refused(start_service: ServiceStarter, refusal: Refused) -> None:
    small = start_service("--max-watchers", "2")
    request = pb.WatchJobRequest(job_id=small.create().job_id)
    streams = [small.training.WatchJob(request, timeout=20) for _ in range(2)]
    for stream in streams:
        next(stream)
    refused = refusal(lambda: next(small.training.WatchJob(request, timeout=20)))
    assert (refused.code, refused.reason) == (CODE.RESOURCE_EXHAUSTED, "TOO_MANY_WATCHERS")
    streams[0].cancel()
    wait_until(lambda: "gradsight_watch_streams 1.0" in page(small, "/metrics")[1])
    assert next(small.training.WatchJob(request, timeout=20)).HasField("snapshot")
    assert small.stop() == 0


def test_a_job_whose_worker_fell_silent_waits_again(service: Service, worker: Worker) -> None:
    job_id = service.create('queue: "silent"').job_id
    worker("silent", lease_s=0.3).wait_for_job()

    def job() -> Any:
        return service.training.GetJob(pb.GetJobRequest(job_id=job_id)).job

    wait_until(lambda: job().state == state_pb2.JOB_STATE_QUEUED)
    assert [attempt.error.reason for attempt in job().attempts] == [state_pb2.JOB_ERROR_REASON_WORKER_LOST]


def test_a_long_log_moves_to_the_artifacts_and_is_still_listed_whole(
    service: Service, worker: Worker
) -> None:
    service.create('queue: "long"')
    attempt = worker("long").wait_for_job()
    for batch in range(5):
        last = attempt.append_steps(1 + 5000 * batch, 500)
    told = f'"job_id": "{attempt.ref.job_id}", "event": "log compacted"'
    wait_until(lambda: told in service.log.read_text())
    after, listed = 0, list[int]()
    while after < last:
        found = service.training.ListJobEvents(
            pb.ListJobEventsRequest(job_id=attempt.ref.job_id, after_sequence=after, page_size=1000)
        )
        listed += [event.sequence for event in found.events]
        after = found.next_sequence
    assert listed == list(range(1, last + 1))
    attempt.finish(state_pb2.JOB_STATE_SUCCEEDED)


def test_streams_that_clients_leave_leave_nothing_behind(start_service: ServiceStarter) -> None:
    left = start_service()
    request = pb.WatchJobRequest(job_id=left.create().job_id)
    for _ in range(100):
        stream = left.training.WatchJob(request, timeout=20)
        next(stream)
        stream.cancel()
    wait_until(lambda: "gradsight_watch_streams 0.0" in page(left, "/metrics")[1])
    assert left.stop() == 0


def test_an_old_stream_ends_with_its_place(start_service: ServiceStarter, refusal: Refused) -> None:
    short = start_service("--stream-age", "0.5")
    stream = short.training.WatchJob(pb.WatchJobRequest(job_id=short.create().job_id), timeout=20)
    frames = [next(stream), next(stream), next(stream)]
    assert frames[-1].end.reason == pb.STREAM_END_REASON_STREAM_EXPIRED
    assert frames[-1].end.next_sequence == 1
    refused = refusal(lambda: next(stream))
    assert (refused.code, refused.reason) == (CODE.UNAVAILABLE, "STREAM_EXPIRED")
    feed = short.training.WatchJobs(pb.WatchJobsRequest(), timeout=20)
    assert refusal(lambda: list(feed)).reason == "STREAM_EXPIRED"
    assert short.stop() == 0


def test_an_outage_of_the_store_is_told_and_passes(
    start_service: ServiceStarter, refusal: Refused, tmp_path: Path, own_store: EmbeddedStore
) -> None:
    bearing = start_service(store=own_store)
    job = bearing.create()
    stream = bearing.training.WatchJob(pb.WatchJobRequest(job_id=job.job_id), timeout=60)
    next(stream)
    next(stream)
    own_store.stop()
    started = time.monotonic()
    refused = refusal(lambda: bearing.training.GetJob(pb.GetJobRequest(job_id=job.job_id)))
    assert (refused.code, refused.reason) == (CODE.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert refused.retry_after_s > 0
    assert own_store.url not in refused.message
    assert time.monotonic() - started < 8
    assert next(stream).end.reason == pb.STREAM_END_REASON_STORE_UNAVAILABLE
    assert refusal(lambda: next(stream)).reason == "STORE_UNAVAILABLE"
    wait_until(lambda: health_of(bearing) == NOT_SERVING, 15)
    assert page(bearing, "/livez")[0] == 200
    assert page(bearing, "/readyz")[0] == 503
    port = int(own_store.url.rpartition(":")[2].partition("/")[0])
    with start_embedded(tmp_path / "store", port):
        wait_until(lambda: health_of(bearing) == SERVING, 15)
        assert bearing.training.GetJob(pb.GetJobRequest(job_id=job.job_id)).job.job_id == job.job_id
        again = bearing.training.WatchJob(pb.WatchJobRequest(job_id=job.job_id, after_sequence=1), timeout=20)
        assert next(again).snapshot.last_sequence == 1
        again.cancel()
        assert bearing.stop() == 0


def test_a_store_that_stands_still_is_told_within_three_seconds(
    start_service: ServiceStarter, refusal: Refused, own_store: EmbeddedStore
) -> None:
    bearing = start_service(store=own_store)
    spec = bearing.spec()
    os.kill(own_store.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        refused = refusal(
            lambda: bearing.training.CreateJob(pb.CreateJobRequest(spec=spec, request_id="still"))
        )
        assert (refused.code, refused.reason) == (CODE.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert time.monotonic() - started < 8
    finally:
        os.kill(own_store.pid, signal.SIGCONT)
    # Whether the first try was carried out does not matter: the request id makes it one job.
    wait_until(lambda: page(bearing, "/readyz")[0] == 200)
    bearing.training.CreateJob(pb.CreateJobRequest(spec=spec, request_id="still"))
    assert len(bearing.training.ListJobs(pb.ListJobsRequest()).jobs) == 1
    assert bearing.stop() == 0


def test_the_metrics_port_shows_calls_by_code_and_store_latency(service: Service) -> None:
    service.create()
    with pytest.raises(grpc.RpcError):
        service.training.GetJob(pb.GetJobRequest(job_id="nobody"))
    called = 'grpc_service="gradsight.v1.TrainingService",grpc_type="unary"'
    # A call is counted just after its answer has left.
    deadline = time.monotonic() + 10
    while 'grpc_code="NotFound"' not in page(service, "/metrics")[1]:
        assert time.monotonic() < deadline
    status, text = page(service, "/metrics")
    assert status == 200
    assert f'grpc_server_handled_total{{grpc_code="OK",grpc_method="CreateJob",{called}}}' in text
    assert f'grpc_server_handled_total{{grpc_code="NotFound",grpc_method="GetJob",{called}}}' in text
    assert 'grpc_server_handling_seconds_bucket{grpc_method="CreateJob"' in text
    assert 'gradsight_store_operation_seconds_count{operation="create_job"}' in text
    assert "process_cpu_seconds_total" in text
    assert page(service, "/nothing")[0] == 404


@pytest.mark.skipif(
    shutil.which("promtool") is None and not os.environ.get("CI"), reason="promtool is not installed"
)
def test_promtool_finds_nothing_to_say_about_the_metrics(service: Service) -> None:
    _, text = page(service, "/metrics")
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_log_is_json_and_names_the_job(start_service: ServiceStarter) -> None:
    logging = start_service()
    job = logging.create()
    assert logging.stop() == 0
    lines = logging.log.read_text().splitlines()
    assert lines[0].startswith("gradsight serves on 127.0.0.1:")
    entries = [json.loads(line) for line in lines[1:]]
    assert any(entry["event"] == "job created" and entry["job_id"] == job.job_id for entry in entries)
    assert entries[-1]["event"] == "drained"
