"""Jobs through the front door: created once, read, listed, cancelled; what is wrong is refused and leaves nothing."""

import concurrent.futures
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
import redis
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from gradsight.v1 import spec_pb2, state_pb2
from gradsight.v1 import training_service_pb2 as pb
from gradsight_store.settings import StoreSettings

Service = Any
Refused = Callable[[Callable[[], Any]], Any]

CODE = grpc.StatusCode


def key_count(service: Service) -> int:
    with redis.Redis(**StoreSettings(url=service.store_server.url).redis_arguments()) as client:
        return client.dbsize()  # type: ignore[no-any-return]


def test_a_job_is_created_with_its_defaults_and_found_again(service: Service) -> None:
    created = service.training.CreateJob(pb.CreateJobRequest(spec=service.spec('name: "first"')))
    assert created.created
    job = created.job
    assert (job.state, job.last_sequence, job.done) == (state_pb2.JOB_STATE_QUEUED, 1, False)
    assert job.spec.data.train.format == spec_pb2.DATA_FORMAT_CSV
    assert job.spec.data.batch_size == 64
    found = service.training.GetJob(pb.GetJobRequest(job_id=job.job_id)).job
    assert (found.spec, found.create_time) == (job.spec, job.create_time)
    listed = service.training.ListJobs(pb.ListJobsRequest(name="first", page_size=1)).jobs
    assert [entry.job_id for entry in listed] == [job.job_id]


def test_one_request_id_makes_one_job_however_often_it_is_sent(service: Service, refusal: Refused) -> None:
    request = pb.CreateJobRequest(spec=service.spec(), request_id="weekly-1")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: service.training.CreateJob(request), range(16)))
    assert len({answer.job.job_id for answer in answers}) == 1
    assert sum(answer.created for answer in answers) == 1
    other = pb.CreateJobRequest(spec=service.spec("seed: 1"), request_id="weekly-1")
    refused = refusal(lambda: service.training.CreateJob(other))
    assert (refused.code, refused.reason) == (CODE.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert refused.metadata["job_id"] == answers[0].job.job_id


def test_validate_only_checks_everything_and_creates_nothing(service: Service, refusal: Refused) -> None:
    spec = service.spec('name: "only-checked"')
    before = key_count(service)
    job = service.training.CreateJob(pb.CreateJobRequest(spec=spec, validate_only=True)).job
    assert (job.job_id, job.spec.budget.epochs) == ("", 20)
    spec.data.batch_size = -1
    refused = refusal(lambda: service.training.CreateJob(pb.CreateJobRequest(spec=spec, validate_only=True)))
    assert refused.reason == "INVALID_FIELD"
    assert key_count(service) == before


def test_a_queued_job_is_cancelled_at_once_and_stays_so(service: Service, refusal: Refused) -> None:
    job_id = service.create().job_id
    for _ in range(2):
        job = service.training.CancelJob(pb.CancelJobRequest(job_id=job_id)).job
        assert job.state == state_pb2.JOB_STATE_CANCELLED


def test_an_ended_job_cannot_be_cancelled(service: Service, worker: Any, refusal: Refused) -> None:
    job_id = service.create('queue: "cancel-late"').job_id
    attempt = worker("cancel-late").wait_for_job()
    attempt.finish(state_pb2.JOB_STATE_SUCCEEDED)
    refused = refusal(lambda: service.training.CancelJob(pb.CancelJobRequest(job_id=job_id)))
    assert (refused.code, refused.reason) == (CODE.FAILED_PRECONDITION, "STATE_TRANSITION_NOT_ALLOWED")
    assert refused.metadata == {"job_id": job_id, "state": "SUCCEEDED"}


def test_pages_show_every_job_once_newest_first(service: Service) -> None:
    made = [service.create('name: "paged" labels { key: "week" value: "47" }').job_id for _ in range(5)]
    token, seen = "", []
    while True:
        page = service.training.ListJobs(
            pb.ListJobsRequest(page_size=2, page_token=token, name="paged", labels={"week": "47"})
        )
        seen += [job.job_id for job in page.jobs]
        token = page.next_page_token
        if not token:
            break
    assert seen == made[::-1]
    queued = pb.ListJobsRequest(name="paged", states=[state_pb2.JOB_STATE_FAILED])
    assert not service.training.ListJobs(queued).jobs


@pytest.mark.parametrize(
    ("method", "request_message", "path"),
    [
        ("GetJob", pb.GetJobRequest(), "job_id"),
        ("GetJob", pb.GetJobRequest(job_id="../../etc"), "job_id"),
        ("CancelJob", pb.CancelJobRequest(job_id="A"), "job_id"),
        ("CreateJob", pb.CreateJobRequest(request_id="a b"), "request_id"),
        ("CreateJob", pb.CreateJobRequest(request_id="x" * 129), "request_id"),
        ("ListJobs", pb.ListJobsRequest(page_size=-1), "page_size"),
        ("ListJobs", pb.ListJobsRequest(page_size=1001), "page_size"),
        ("ListJobs", pb.ListJobsRequest(page_token="\u202e!"), "page_token"),
        ("ListJobs", pb.ListJobsRequest(states=[99]), "states[0]"),  # type: ignore[list-item]
        ("ListJobEvents", pb.ListJobEventsRequest(job_id="a", page_size=-1), "page_size"),
        ("ListJobEvents", pb.ListJobEventsRequest(job_id="a", after_sequence=-1), "after_sequence"),
        ("ListJobEvents", pb.ListJobEventsRequest(job_id="a", event_kinds=["x"]), "event_kinds[0]"),
        ("GetJobHistory", pb.GetJobHistoryRequest(job_id="a", metrics=["loss", "x"]), "metrics[1]"),
        ("GetJobHistory", pb.GetJobHistoryRequest(job_id="a", first_step=-1), "first_step"),
        ("GetJobHistory", pb.GetJobHistoryRequest(job_id="a", first_step=5, last_step=4), "last_step"),
        ("GetJobHistory", pb.GetJobHistoryRequest(job_id="a", max_points=1), "max_points"),
        ("ListFindings", pb.ListFindingsRequest(), "job_id"),
        ("ListFindings", pb.ListFindingsRequest(job_id="a", page_size=1001), "page_size"),
        ("ListFindings", pb.ListFindingsRequest(job_id="a", page_token="?"), "page_token"),
        ("ListWorkers", pb.ListWorkersRequest(page_size=2000), "page_size"),
    ],
)
def test_a_malformed_request_is_refused_with_its_field(
    service: Service, refusal: Refused, method: str, request_message: Any, path: str
) -> None:
    refused = refusal(lambda: getattr(service.training, method)(request_message))
    assert (refused.code, refused.reason) == (CODE.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert list(refused.fields) == [path]
    assert refused.message.startswith(f"{path}: ")


@pytest.mark.parametrize("method", ["GetJob", "CancelJob", "ListJobEvents", "GetJobHistory", "ListFindings"])
def test_a_job_that_is_none_is_not_found(service: Service, refusal: Refused, method: str) -> None:
    request = getattr(pb, f"{method}Request")(job_id="nobody")
    refused = refusal(lambda: getattr(service.training, method)(request))
    assert (refused.code, refused.reason) == (CODE.NOT_FOUND, "JOB_NOT_FOUND")
    assert refused.metadata == {"job_id": "nobody"}


@pytest.mark.parametrize("method", ["PauseJob", "ResumeJob"])
def test_a_method_of_a_later_version_says_so(service: Service, refusal: Refused, method: str) -> None:
    refused = refusal(lambda: getattr(service.training, method)(getattr(pb, f"{method}Request")(job_id="a")))
    assert (refused.code, refused.reason) == (CODE.UNIMPLEMENTED, "NOT_SUPPORTED_YET")


@pytest.mark.parametrize(
    ("parts", "path", "message"),
    [
        (
            'data { target_column: "lable" }',
            "data.target_column",
            'got "lable", no column of train, nearest is "label"',
        ),
        (
            'data { id_column: "row" }',
            "data.id_column",
            'got "row", no column of train, allowed "width", "height"',
        ),
        ('data { category_column: "kindd" }', "data.category_column", 'nearest is "kind"'),
        ('data { input_columns: ["width", "heigth"] }', "data.input_columns[1]", 'nearest is "height"'),
        ("model { builtin { text_classifier {} } }", "data.input_columns", 'got "text", no column of train'),
        (f'data {{ test {{ artifact: "sha256:{"0" * 64}" }} }}', "data.test.artifact", "which no file has"),
        ('evaluation { baseline_job_id: "nobody" }', "evaluation.baseline_job_id", "which no job has"),
        ("data { train { format: DATA_FORMAT_JSONL } }", "data.train.artifact", "not JSON"),
        ('data { train { uri: "file:///etc/passwd" } }', "data.train.uri", "not supported yet"),
        ("data { batch_size: 0 }", "data.batch_size", "got 0, allowed 1 to 65536"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused_and_nothing_is_stored(
    service: Service, refusal: Refused, parts: str, path: str, message: str
) -> None:
    spec = service.spec(parts)
    before = key_count(service)
    refused = refusal(
        lambda: service.training.CreateJob(pb.CreateJobRequest(spec=spec, request_id="never-used"))
    )
    assert refused.code is CODE.INVALID_ARGUMENT
    assert refused.reason in ("INVALID_FIELD", "NOT_SUPPORTED_YET")
    assert list(refused.fields) == [path]
    assert message in refused.fields[path]
    assert refused.message.startswith(f"{path}: ")
    assert "pb2" not in refused.message
    assert key_count(service) == before


def test_everything_wrong_with_a_spec_is_told_at_once(service: Service, refusal: Refused) -> None:
    spec = service.spec(
        'priority: 999 data { target_column: "lable" batch_size: 0 } evaluation { min_improvement: -1 }'
    )
    refused = refusal(lambda: service.training.CreateJob(pb.CreateJobRequest(spec=spec)))
    assert set(refused.fields) == {
        "priority",
        "data.target_column",
        "data.batch_size",
        "evaluation.min_improvement",
    }
    assert refused.reason == "INVALID_FIELD"
    assert refused.message.endswith("and 3 more")


def test_thousands_of_violations_still_fit_into_a_status(service: Service, refusal: Refused) -> None:
    spec = service.spec()
    spec.data.input_columns.extend(["\x01" * 200] * 4000)
    refused = refusal(lambda: service.training.CreateJob(pb.CreateJobRequest(spec=spec)))
    assert refused.code is CODE.INVALID_ARGUMENT
    assert 1 <= len(refused.fields) <= 24


def test_the_baseline_must_have_succeeded(service: Service, refusal: Refused, worker: Any) -> None:
    baseline = service.create('queue: "baseline"').job_id
    request = pb.CreateJobRequest(spec=service.spec(f'evaluation {{ baseline_job_id: "{baseline}" }}'))
    refused = refusal(lambda: service.training.CreateJob(request))
    assert refused.fields == {
        "evaluation.baseline_job_id": "got a job that is QUEUED, allowed one that has succeeded"
    }
    worker("baseline").wait_for_job().finish(state_pb2.JOB_STATE_SUCCEEDED)
    assert service.training.CreateJob(request).created


def test_bytes_that_are_no_request_are_refused_without_inner_names(
    service: Service, refusal: Refused
) -> None:
    call = service.channel.unary_unary("/gradsight.v1.TrainingService/CreateJob")
    refused = refusal(lambda: call(b"\xff\xff\xff"))
    assert (refused.code, refused.reason) == (CODE.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert refused.message == "the request is not a valid CreateJobRequest"


def test_a_method_that_is_none_says_so(service: Service, refusal: Refused) -> None:
    call = service.channel.unary_unary("/gradsight.v1.TrainingService/DeleteEverything")
    refused = refusal(lambda: call(b""))
    assert (refused.code, refused.reason) == (CODE.UNIMPLEMENTED, "UNKNOWN_METHOD")


def test_a_deadline_that_is_over_is_told_as_such(service: Service, refusal: Refused) -> None:
    refused = refusal(lambda: service.training.GetServerInfo(pb.GetServerInfoRequest(), timeout=0.002))
    assert refused.code is CODE.DEADLINE_EXCEEDED


def test_a_message_beyond_the_limit_is_refused(service: Service, refusal: Refused) -> None:
    spec = service.spec()
    spec.data.target_column = "x" * (5 << 20)
    assert (
        refusal(lambda: service.training.CreateJob(pb.CreateJobRequest(spec=spec))).code
        is CODE.RESOURCE_EXHAUSTED
    )


def test_the_server_tells_what_it_can_do(service: Service) -> None:
    info = service.training.GetServerInfo(pb.GetServerInfoRequest())
    assert info.schema_version == 1
    assert list(info.architectures) == ["mlp", "text_classifier", "text_transformer", "cnn", "gpt"]
    assert list(info.optimizers) == ["adamw", "sgd", "adam", "adafactor", "muon"]
    assert list(info.schedules) == ["constant", "cosine", "linear", "one_cycle", "step", "plateau"]
    assert list(info.data_formats) == ["csv", "jsonl", "parquet", "npy", "safetensors", "tar"]
    assert info.objectives[0] == "cross_entropy"
    assert len(info.objectives) == 6
    assert abs(info.time.ToSeconds() - time.time()) < 60


def test_health_and_reflection_answer(service: Service) -> None:
    health = health_pb2_grpc.HealthStub(service.channel)
    for name in ("", "gradsight.v1.TrainingService", "gradsight.v1.ArtifactService"):
        status = health.Check(health_pb2.HealthCheckRequest(service=name)).status
        assert status == health_pb2.HealthCheckResponse.SERVING
    names = set(ProtoReflectionDescriptorDatabase(service.channel).get_services())
    assert {"gradsight.v1.TrainingService", "gradsight.v1.ArtifactService", "grpc.health.v1.Health"} <= names


def test_workers_are_listed_in_pages(service: Service, worker: Any) -> None:
    for queue in ("listed-a", "listed-b", "listed-c"):
        worker(queue)
    token, queues = "", []
    while True:
        page = service.training.ListWorkers(pb.ListWorkersRequest(page_size=2, page_token=token))
        assert len(page.workers) <= 2
        queues += [found.queue for found in page.workers]
        token = page.next_page_token
        if not token:
            break
    assert {"listed-a", "listed-b", "listed-c"} <= set(queues)
    assert len(queues) == len(set(queues))


def test_a_submitted_job_reaches_an_idle_worker_within_milliseconds(service: Service, worker: Any) -> None:
    idle = worker("quick")
    spec = service.spec('queue: "quick"')
    started = time.monotonic()
    job = service.training.CreateJob(pb.CreateJobRequest(spec=spec)).job
    attempt = idle.wait_for_job()
    assert attempt.ref.job_id == job.job_id
    assert time.monotonic() - started < 3
    attempt.finish(state_pb2.JOB_STATE_SUCCEEDED)


def test_the_spec_that_was_sent_can_be_sent_again_as_text(service: Service) -> None:
    job = service.create()
    again = spec_pb2.JobSpec()
    text_format.Parse(text_format.MessageToString(job.spec), again)
    assert service.training.CreateJob(pb.CreateJobRequest(spec=again)).job.spec == job.spec
