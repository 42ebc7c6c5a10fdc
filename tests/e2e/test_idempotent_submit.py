"""A submit that is repeated makes one job; a request id that stands for something else is refused."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from tests.e2e.conftest import Datasets, Household

from gradsight import Reason, RequestIdReused
from gradsight.v1 import training_service_pb2 as wire
from gradsight.v1 import training_service_pb2_grpc as stubs


def test_submits_with_one_request_id_make_one_job(household: Household, datasets: Datasets) -> None:
    spec = datasets.job("mlp", name="once")
    with household.client() as client, ThreadPoolExecutor(8) as pool:
        submitted = pool.map(lambda _: client.submit(spec, request_id="week-48").job_id, range(8))
        (job_id,) = set(submitted)
        assert [job.job_id for job in client.jobs(name="once")] == [job_id]
        client.job(job_id).wait(timeout=60)
        assert client.submit(spec, request_id="week-48").job_id == job_id


def test_another_spec_under_the_same_request_id_is_refused(household: Household, datasets: Datasets) -> None:
    with household.client() as client:
        first = client.submit(datasets.job("mlp", name="first"), request_id="week-49")
        with pytest.raises(RequestIdReused, match="week-49"):
            client.submit(datasets.job("mlp", name="second"), request_id="week-49")
        assert list(client.jobs(name="second")) == []
        spec = client.validate(datasets.job("mlp", name="third"))._message
        with grpc.insecure_channel(household.service) as channel, pytest.raises(grpc.RpcError) as refused:
            stubs.TrainingServiceStub(channel).CreateJob(
                wire.CreateJobRequest(request_id="week-49", spec=spec), timeout=10
            )
        first.wait(timeout=60)
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    trailers: Any = refused.value.trailing_metadata()
    rich = dict(trailers)["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    (detail, *_) = status_pb2.Status.FromString(rich).details
    assert detail.Unpack(info)
    assert (info.domain, info.reason) == ("gradsight", Reason.REQUEST_ID_REUSED)


def test_the_command_line_submits_twice_and_trains_once(household: Household, datasets: Datasets) -> None:
    flags = ("--model", "mlp", "--train", str(datasets.numbers), "--target", "size", "--steps", "20")
    first, second = (household.cli("submit", *flags, "--request-id", "week-50") for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0)
    assert first.stdout == second.stdout
    other = household.cli("submit", *flags, "--seed", "1", "--request-id", "week-50")
    assert other.returncode == 2
    assert "--request-id" in other.stderr
