"""Every reason is documented and has its status; what leaves the service is short and says nothing of its inside."""

import re
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

from gradsight._reasons import DOMAIN, Reason
from gradsight_service.errors import CallError, Violation, from_store, invalid_request, refuse
from gradsight_store import errors as store_errors

PAGE = Path(__file__).parents[3] / "docs" / "errors.md"


def test_the_page_lists_every_reason_with_its_status() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| `([A-Z_]+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {reason for reason, _ in rows} == set(Reason)
    for reason, status in rows:
        assert CallError(Reason(reason), "").code.name == status


@pytest.mark.parametrize("reason", Reason)
def test_every_refusal_carries_its_reason_and_fits_into_trailers(reason: Reason) -> None:
    violations = [Violation(path=f"data.input_columns[{n}]", message="got " + "x" * 500) for n in range(5000)]
    error = CallError(reason, "m" * 200, violations=violations, metadata={"job_id": "a"}, retry_after_s=0.25)
    status = error.status()
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason, info.metadata["job_id"]) == (DOMAIN, reason, "a")
    assert len(status.SerializeToString()) < 6000
    assert status.code == error.code.value[0]


def test_retry_info_says_when() -> None:
    status = CallError(Reason.STORE_UNAVAILABLE, "away", retry_after_s=0.25).status()
    retry = error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.nanos == 250_000_000


def test_a_field_that_comes_later_is_an_invalid_argument_and_a_method_unimplemented() -> None:
    later = Violation(path="model.program", message="not supported yet", reason=Reason.NOT_SUPPORTED_YET)
    wrong = Violation(path="priority", message="got 200, allowed -100 to 100")
    assert refuse([later]).reason is Reason.NOT_SUPPORTED_YET
    assert refuse([later]).code is grpc.StatusCode.INVALID_ARGUMENT
    assert refuse([later, wrong]).reason is Reason.INVALID_FIELD
    assert CallError(Reason.NOT_SUPPORTED_YET, "PauseJob").code is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_begins_with_the_field() -> None:
    assert (
        invalid_request("page_size", "got -1, allowed 0 to 1000").message
        == "page_size: got -1, allowed 0 to 1000"
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (store_errors.StoreUnavailable("redis://secret-host:6379/0", "refused"), Reason.STORE_UNAVAILABLE),
        (store_errors.StoreFull("redis://secret-host:6379/0"), Reason.STORE_FULL),
        (store_errors.StoreUnfit("secret-host is wrong", "change it"), Reason.STORE_UNAVAILABLE),
        (store_errors.SchemaTooNew(2, 1), Reason.STORE_UNAVAILABLE),
        (store_errors.JobNotFound("abc"), Reason.JOB_NOT_FOUND),
        (store_errors.RequestIdReused("weekly", "abc"), Reason.REQUEST_ID_REUSED),
        (store_errors.TransitionRefused(6, "job is SUCCEEDED"), Reason.STATE_TRANSITION_NOT_ALLOWED),
        (store_errors.ArtifactNotFound("sha256:0"), Reason.ARTIFACT_NOT_FOUND),
        (store_errors.ArtifactDamaged("sha256:0", "sha256:1"), Reason.INTERNAL),
        (store_errors.UploadNotFound("0"), Reason.UPLOAD_NOT_FOUND),
        (store_errors.UploadConflict(7), Reason.UPLOAD_OFFSET_CONFLICT),
        (store_errors.DigestMismatch("sha256:0", "sha256:1"), Reason.DIGEST_MISMATCH),
        (store_errors.StorageFull(5), Reason.STORAGE_FULL),
    ],
)
def test_an_error_of_the_store_becomes_a_refusal_without_addresses(
    error: store_errors.StoreError, reason: Reason
) -> None:
    refusal = from_store(error)
    assert refusal.reason is reason
    assert "secret-host" not in refusal.status().SerializeToString().decode("utf-8", "replace")
