"""Every verb does its call, pages, retries what may be retried, and nothing else."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

import gradsight
from gradsight import JobState, Patience, aio
from gradsight.v1 import (
    artifact_service_pb2,
    event_pb2,
    insight_pb2,
    state_pb2,
    training_service_pb2,
    worker_pb2,
)

if TYPE_CHECKING:
    from tests.unit.client.conftest import LittleService

# Declared in the contract for later; the service refuses them.
LATER = {"PauseJob", "ResumeJob"}
QUICK = Patience(call_attempts=3, first_pause=0.01, reconnect=1.0)


@pytest.fixture
def client(service: "LittleService") -> Iterator[gradsight.Client]:
    with gradsight.Client(service.address, patience=QUICK) as client:
        yield client


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("text,intent\nwhere is my parcel,delivery\n")
    return path


def _all_methods() -> set[str]:
    services = (
        training_service_pb2.DESCRIPTOR.services_by_name["TrainingService"],
        artifact_service_pb2.DESCRIPTOR.services_by_name["ArtifactService"],
    )
    return {method.name for service in services for method in service.methods}


def _finished_job(service: "LittleService", job_id: str = "done") -> None:
    job = service.add_job(job_id)
    service.change(job_id, state_pb2.JOB_STATE_RUNNING)
    job.result.append(service.add_blob(b"weights", "weights.safetensors", job_id=job_id, kind=3))
    service.change(job_id, state_pb2.JOB_STATE_SUCCEEDED)


def test_the_client_wraps_every_method_of_the_contract(
    service: "LittleService", client: gradsight.Client, rows: Path, tmp_path: Path
) -> None:
    _finished_job(service)
    job = client.submit(model="mlp", train=rows, target="intent")
    job.get()
    assert list(client.jobs())
    list(client.workers())
    client.recipes()
    client.server_info()
    list(client.artifacts(job_id="done"))
    list(job.events())
    job.history()
    next(client.watch_jobs("0"))
    job.cancel()
    list(job.watch())
    [file] = client.job("done").result().files
    client.artifact(file.digest)
    client.job("done").download(tmp_path / "result")
    service.add_job("old")
    service.comparisons["old", "done"] = training_service_pb2.CompareJobsResponse()
    client.compare("old", client.job("done"))
    client.job("done").findings()
    client.job("done").report()
    assert set(service.calls) == _all_methods() - LATER


def test_the_asyncio_client_wraps_every_method_of_the_contract(
    service: "LittleService", rows: Path, tmp_path: Path
) -> None:
    async def use() -> None:
        async with aio.Client(service.address, patience=QUICK) as client:
            job = await client.submit(model="mlp", train=rows, target="intent")
            await job.get()
            assert [each.job_id async for each in client.jobs()]
            assert [each async for each in client.workers()] == []
            assert await client.recipes() == ()
            await client.server_info()
            assert [each async for each in client.artifacts(job_id="done")]
            assert [each async for each in job.events()]
            await job.history()
            async for event in client.watch_jobs("0"):
                assert event.cursor == "1"
                break
            await job.cancel()
            assert [event.sequence async for event in job.watch()] == [1, 2]
            [file] = (await client.job("done").result()).files
            await client.artifact(file.digest)
            await client.job("done").download(tmp_path / "result")
            await client.compare("old", client.job("done"))
            await client.job("done").findings()
            await client.job("done").report()

    _finished_job(service)
    service.add_job("old")
    service.comparisons["old", "done"] = training_service_pb2.CompareJobsResponse()
    asyncio.run(use())
    assert set(service.calls) == _all_methods() - LATER
    assert (tmp_path / "result" / "weights.safetensors").read_bytes() == b"weights"


def test_submit_uploads_the_files_and_sends_their_digests(
    service: "LittleService", client: gradsight.Client, rows: Path
) -> None:
    job = client.submit(model="text_classifier", train=rows, test=rows, text="text", target="intent").get()
    digest = job.spec["data"]["train"]["path"]
    assert digest.startswith("sha256:")
    assert job.spec["data"]["test"] == {"path": digest, "format": "csv"}
    assert service.blobs[digest][1] == rows.read_bytes()
    assert service.calls.count("WriteUpload") == 1


def test_validate_creates_nothing_and_returns_the_filled_spec(
    service: "LittleService", client: gradsight.Client, rows: Path
) -> None:
    spec = client.validate(model="mlp", train=rows, target="intent")
    assert spec["data"]["batch_size"] == 64
    assert service.jobs == {}


def test_a_missing_file_is_a_wrong_field(client: gradsight.Client, tmp_path: Path) -> None:
    with pytest.raises(gradsight.InvalidSpec) as caught:
        client.submit(model="mlp", train=tmp_path / "no.csv", target="intent")
    assert caught.value.fields[0].field == "data.train"
    assert "No such file" in str(caught.value)


def test_the_same_request_id_gives_the_same_job_and_refuses_another_spec(
    client: gradsight.Client, rows: Path
) -> None:
    first = client.submit(model="mlp", train=rows, target="intent", request_id="week-48")
    again = client.submit(model="mlp", train=rows, target="intent", request_id="week-48")
    assert again.job_id == first.job_id
    with pytest.raises(gradsight.RequestIdReused):
        client.submit(model="mlp", train=rows, target="text", request_id="week-48")


def test_by_default_every_submit_makes_a_job(client: gradsight.Client, rows: Path) -> None:
    ids = {client.submit(model="mlp", train=rows, target="intent").job_id for _ in range(3)}
    assert len(ids) == 3


def test_a_create_whose_answer_was_lost_is_repeated_under_one_request_id(
    service: "LittleService", client: gradsight.Client, rows: Path
) -> None:
    seen: list[str] = []
    create = service.CreateJob

    def lose_the_first_answer(request: Any, context: Any) -> Any:
        answer = create(request, context)
        seen.append(request.request_id)
        if len(seen) == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "connection lost")
        return answer

    service.CreateJob = lose_the_first_answer  # type: ignore[method-assign]
    service.stop()
    service.start()
    client.submit(model="mlp", train=rows, target="intent")
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert len(service.jobs) == 1


def test_unavailable_is_tried_again_a_bounded_number_of_times(
    service: "LittleService", client: gradsight.Client
) -> None:
    service.add_job()
    for _ in range(2):
        service.refuse("GetJob", grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", "no store")
    assert client.job("job1").get().job_id == "job1"
    assert service.calls.count("GetJob") == 3
    for _ in range(5):
        service.refuse("GetJob", grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", "no store")
    with pytest.raises(gradsight.StoreUnavailable):
        client.job("job1").get()
    assert service.calls.count("GetJob") == 6


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.name not in ("OK", "UNAVAILABLE")])
def test_nothing_else_is_tried_again(
    service: "LittleService", client: gradsight.Client, code: grpc.StatusCode
) -> None:
    service.refuse("GetServerInfo", code, "", "refused")
    with pytest.raises(gradsight.GradsightError, match="refused"):
        client.server_info()
    assert service.calls == ["GetServerInfo"]


def test_pauses_grow_to_a_bound_and_are_spread() -> None:
    first = [pause for pause, _ in zip(Patience().pauses(), range(12), strict=False)]
    second = [pause for pause, _ in zip(Patience().pauses(), range(12), strict=False)]
    assert first != second
    assert 0.05 <= first[0] <= 0.15
    assert max(first) <= 3.0
    assert min(first[6:]) >= 1.0


def test_nobody_at_the_address_is_said_with_the_address() -> None:
    with gradsight.Client("127.0.0.1:1", patience=QUICK) as client:
        with pytest.raises(
            gradsight.ServiceUnreachable, match=r"answers at 127\.0\.0\.1:1 \(connection refused\)"
        ):
            client.server_info()
        with pytest.raises(gradsight.ServiceUnreachable):
            list(client.job("x").watch())


def test_the_address_comes_from_the_environment(
    service: "LittleService", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADSIGHT_ADDRESS", service.address)
    with gradsight.Client() as client:
        assert client.server_info().version == "9.9.9"


def test_a_call_takes_no_longer_than_its_timeout(service: "LittleService") -> None:
    def slow(request: Any, context: Any) -> Any:
        time.sleep(1.5)
        return training_service_pb2.GetServerInfoResponse()

    service.GetServerInfo = slow  # type: ignore[method-assign]
    service.stop()
    service.start()
    with gradsight.Client(service.address, timeout=0.2) as client, pytest.raises(gradsight.DeadlineExceeded):
        client.server_info()


def test_lists_fetch_page_after_page_and_only_as_far_as_they_are_read(
    service: "LittleService", client: gradsight.Client
) -> None:
    for number in range(5):
        service.add_job(f"job{number}", labels={"week": str(number % 2)})
    listing = client.jobs()
    assert next(listing).job_id == "job4"
    assert service.calls == ["ListJobs"]
    assert [job.job_id for job in listing] == ["job3", "job2", "job1", "job0"]
    assert service.calls == ["ListJobs"] * 3
    assert [job.job_id for job in client.jobs(labels={"week": "1"})] == ["job3", "job1"]
    assert [job.job_id for job in client.jobs(states=["running", JobState.FAILED])] == []


def test_a_state_that_does_not_exist_is_refused_before_the_call(
    service: "LittleService", client: gradsight.Client
) -> None:
    with pytest.raises(gradsight.InvalidRequest, match="got 'runing', allowed: queued, running"):
        list(client.jobs(states=["runing"]))
    assert service.calls == []


def test_events_come_from_all_pages_and_end_with_what_exists(
    service: "LittleService", client: gradsight.Client
) -> None:
    service.add_job()
    service.log_lines("job1", 6)
    assert [event.sequence for event in client.job("job1").events()] == [1, 2, 3, 4, 5, 6, 7]
    assert [event.sequence for event in client.job("job1").events(5)] == [6, 7]
    assert [event.kind for event in client.job("job1").events(kinds=["state_changed"])] == ["state_changed"]


def test_workers_are_listed(service: "LittleService", client: gradsight.Client) -> None:
    for number in range(3):
        service.workers.append(worker_pb2.Worker(worker_id=f"w{number}", state=worker_pb2.WORKER_STATE_IDLE))
    assert [worker.worker_id for worker in client.workers()] == ["w0", "w1", "w2"]


def test_history_returns_curves(service: "LittleService", client: gradsight.Client) -> None:
    service.add_job()
    steps = event_pb2.StepsRecorded(first_step=1, loss=[1.0, 0.5], gradient_norm=[2.0, 1.0])
    service.append("job1", steps_recorded=steps)
    [loss] = client.job("job1").history(["loss"])
    assert (loss.steps, loss.values) == ((1, 2), (1.0, 0.5))


def test_findings_come_from_all_pages(service: "LittleService", client: gradsight.Client) -> None:
    service.add_job()
    service.findings["job1"] = [
        insight_pb2.Finding(finding_id=f"plateau-{number}", kind="plateau", open=number != 2)
        for number in (1, 2, 3, 4, 5)
    ]
    found = client.job("job1").findings()
    assert [finding.finding_id for finding in found] == [f"plateau-{number}" for number in (1, 2, 3, 4, 5)]
    assert [finding.open for finding in client.job("job1").findings(open_only=True)] == [True] * 4


def test_two_jobs_are_compared_by_id_as_records_or_as_handles(
    service: "LittleService", client: gradsight.Client
) -> None:
    for job_id in ("old", "new"):
        _finished_job(service, job_id)
    answer = service.comparisons["old", "new"] = training_service_pb2.CompareJobsResponse()
    answer.comparison.verdict = insight_pb2.COMPARISON_VERDICT_REGRESSED
    answer.differences.add(field="seed", value="7")
    for new in ("new", client.job("new"), client.job("new").get()):
        compared = client.compare("old", new)
        assert compared.comparison.verdict is gradsight.ComparisonVerdict.REGRESSED
        assert compared.differences[0].to_dict() == {"field": "seed", "baseline_value": None, "value": "7"}
    with pytest.raises(gradsight.InvalidRequest, match="got 7, allowed: a job's id, a Job or a handle"):
        client.compare("old", 7)  # type: ignore[arg-type]


def test_a_report_is_a_file(service: "LittleService", client: gradsight.Client, tmp_path: Path) -> None:
    service.add_job()
    report = client.job("job1").report()
    assert (report.text, report.media_type) == ("<h1>job1</h1>\n", "text/html; charset=utf-8")
    assert report.save(tmp_path) == tmp_path / "job1.html"
    assert report.save(tmp_path / "other.html").read_bytes() == report.content
    assert client.job("job1").report("markdown").save(f"{tmp_path}/new/").read_text() == "# job1\n"
    with pytest.raises(gradsight.InvalidRequest, match="got 'pdf', allowed: html, markdown"):
        client.job("job1").report("pdf")


def test_what_is_made_for_a_call_may_take_longer(service: "LittleService") -> None:
    def slow(request: Any, context: Any) -> Any:
        time.sleep(0.5)
        return training_service_pb2.GetJobReportResponse(filename="late.html")

    service.GetJobReport = slow  # type: ignore[method-assign]
    service.stop()
    service.start()
    with gradsight.Client(service.address, timeout=0.2) as client:
        assert client.job("job1").report().filename == "late.html"


def test_result_of_a_failed_job_says_why(service: "LittleService", client: gradsight.Client) -> None:
    service.add_job()
    error = state_pb2.JobError(
        reason=state_pb2.JOB_ERROR_REASON_INVALID_DATA,
        fault=state_pb2.FAULT_DATA,
        message="the target is empty",
        field="data.target_column",
        row=17,
    )
    service.change("job1", state_pb2.JOB_STATE_FAILED, error=error)
    with pytest.raises(gradsight.JobFailed) as caught:
        client.job("job1").result()
    assert caught.value.error is not None
    assert caught.value.error.reason is gradsight.JobErrorReason.INVALID_DATA
    assert caught.value.job.state is JobState.FAILED
    expected = "job job1 failed (invalid_data, field data.target_column, row 17): the target is empty"
    assert str(caught.value) == expected
    assert client.job("job1").wait().state is JobState.FAILED


def test_result_of_a_cancelled_job_is_an_error_and_waiting_for_it_is_not(
    service: "LittleService", client: gradsight.Client
) -> None:
    service.add_job()
    assert client.job("job1").cancel().state is JobState.CANCELLED
    assert client.job("job1").cancel().state is JobState.CANCELLED
    assert client.job("job1").wait().state is JobState.CANCELLED
    with pytest.raises(gradsight.JobCancelled):
        client.job("job1").result()


def test_a_finished_job_cannot_be_cancelled(service: "LittleService", client: gradsight.Client) -> None:
    _finished_job(service)
    with pytest.raises(gradsight.StateTransitionRefused):
        client.job("done").cancel()


@pytest.mark.parametrize("wait", [gradsight.JobHandle.wait, gradsight.JobHandle.result])
def test_waiting_ends_after_its_timeout(
    service: "LittleService", client: gradsight.Client, wait: Callable[..., Any]
) -> None:
    service.add_job()
    started = time.monotonic()
    with pytest.raises(gradsight.WaitTimeout, match=r"has not ended after 0\.3 s; it goes on"):
        wait(client.job("job1"), timeout=0.3)
    assert 0.25 < time.monotonic() - started < 5


def test_a_baseline_may_be_a_job_or_its_handle(
    service: "LittleService", client: gradsight.Client, rows: Path
) -> None:
    _finished_job(service)
    handle = client.job("done")
    for baseline in (handle, handle.get(), "done"):
        job = client.submit(model="mlp", train=rows, target="intent", baseline=baseline)
        assert job.get().spec["evaluation"] == {"baseline": "done"}
