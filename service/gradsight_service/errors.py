"""Refusals: from a reason, or from an error of the store, to the status that travels.

Everything that a caller may read is built here and nowhere else, so nothing internal can slip out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from gradsight._reasons import DOMAIN, Reason
from gradsight_store import errors as store_errors
from gradsight_store.errors import StoreError

# gRPC drops trailers of more than 8 KiB at its own discretion; the details are sent as base64 beside the message.
_MOST_VIOLATIONS = 24
_MOST_DETAIL_BYTES = 4096
_MOST_TEXT = 240

_CODES: Mapping[Reason, grpc.StatusCode] = {
    Reason.INVALID_FIELD: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.NOT_SUPPORTED_YET: grpc.StatusCode.UNIMPLEMENTED,
    Reason.JOB_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.REQUEST_ID_REUSED: grpc.StatusCode.ALREADY_EXISTS,
    Reason.STATE_TRANSITION_NOT_ALLOWED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.CURSOR_BEYOND_END: grpc.StatusCode.OUT_OF_RANGE,
    Reason.ARTIFACT_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.UPLOAD_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.UPLOAD_OFFSET_CONFLICT: grpc.StatusCode.ABORTED,
    Reason.DIGEST_MISMATCH: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.UPLOAD_TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.STORAGE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.STORE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.STORE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.SERVER_DRAINING: grpc.StatusCode.UNAVAILABLE,
    Reason.STREAM_EXPIRED: grpc.StatusCode.UNAVAILABLE,
    Reason.TOO_MANY_WATCHERS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
    Reason.UNKNOWN_METHOD: grpc.StatusCode.UNIMPLEMENTED,
}


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One field that is wrong: its path in the spec or request, and `got …, allowed …`."""

    path: str
    message: str
    reason: Reason = Reason.INVALID_FIELD


class CallError(Exception):
    """A call is refused.

    `reason` decides the status code; `metadata` repeats what is dynamic in the message for programs; `retry_after_s`,
    in seconds, says when another try makes sense.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        violations: Iterable[Violation] = (),
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.violations = tuple(violations)
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s

    @property
    def code(self) -> grpc.StatusCode:
        """The status code; a *field* that is not supported yet is an invalid argument, a *method* is unimplemented."""
        if self.reason is Reason.NOT_SUPPORTED_YET and self.violations:
            return grpc.StatusCode.INVALID_ARGUMENT
        return _CODES[self.reason]

    def status(self) -> status_pb2.Status:
        """The rich status: ErrorInfo always; BadRequest, RetryInfo and PreconditionFailure where they apply."""
        number: int = self.code.value[0]
        status = status_pb2.Status(code=number, message=self.message)
        status.details.add().Pack(
            error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata)
        )
        if self.retry_after_s is not None:
            delay = Duration()
            delay.FromMilliseconds(round(self.retry_after_s * 1000))
            status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        if self.reason is Reason.STATE_TRANSITION_NOT_ALLOWED:
            status.details.add().Pack(self._precondition())
        if self.violations:
            status.details.add().Pack(self._bad_request())
        return status

    def _precondition(self) -> error_details_pb2.PreconditionFailure:
        failure = error_details_pb2.PreconditionFailure()
        failure.violations.add(
            type="JOB_STATE", subject=self.metadata.get("job_id", ""), description=self.message
        )
        return failure

    def _bad_request(self) -> error_details_pb2.BadRequest:
        bad = error_details_pb2.BadRequest()
        for violation in self.violations[:_MOST_VIOLATIONS]:
            bad.field_violations.add(
                field=violation.path, description=clip(violation.message), reason=violation.reason
            )
            if bad.ByteSize() > _MOST_DETAIL_BYTES:
                break
        return bad


def refuse(violations: list[Violation]) -> CallError:
    """One error that reports every violation; its message shows the first."""
    first = violations[0]
    more = f"; and {len(violations) - 1} more" if len(violations) > 1 else ""
    wrong = [violation for violation in violations if violation.reason is not Reason.NOT_SUPPORTED_YET]
    reason = Reason.INVALID_FIELD if wrong else Reason.NOT_SUPPORTED_YET
    return CallError(
        reason,
        f"{clip(first.path)}: {clip(first.message)}{more}",
        violations=violations,
        metadata={"field": clip(first.path)},
    )


def invalid_request(path: str, message: str) -> CallError:
    """The refusal of one field of a request that is no part of a spec."""
    violation = Violation(path=path, message=message, reason=Reason.INVALID_REQUEST)
    return CallError(
        Reason.INVALID_REQUEST,
        f"{path}: {clip(message)}",
        violations=[violation],
        metadata={"field": path},
    )


def clip(text: str) -> str:
    """The text, short enough for a status."""
    return text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 1] + "…"


def draining() -> CallError:
    """The refusal of new work while the server shuts down."""
    return CallError(
        Reason.SERVER_DRAINING,
        "the service is shutting down; try again: its successor answers",
        retry_after_s=1.0,
    )


def store_unavailable() -> CallError:
    """The refusal while the store cannot be reached."""
    return CallError(
        Reason.STORE_UNAVAILABLE,
        "the service cannot reach its store; try again in a moment",
        retry_after_s=1.0,
    )


def from_store(error: StoreError) -> CallError:
    """The refusal that an error of the store becomes. The one place where the two meet."""
    match error:
        case store_errors.StoreUnavailable():
            return store_unavailable()
        case store_errors.StoreFull():
            return CallError(
                Reason.STORE_FULL,
                "the store is full and takes no more writes; ask the operator",
                retry_after_s=30.0,
            )
        case store_errors.JobNotFound():
            return CallError(Reason.JOB_NOT_FOUND, str(error), metadata={"job_id": error.job_id})
        case store_errors.RequestIdReused():
            ids = {"request_id": error.request_id, "job_id": error.job_id}
            return CallError(Reason.REQUEST_ID_REUSED, str(error), metadata=ids)
        case store_errors.TransitionRefused():
            return CallError(Reason.STATE_TRANSITION_NOT_ALLOWED, str(error))
        case store_errors.ArtifactNotFound():
            return CallError(Reason.ARTIFACT_NOT_FOUND, str(error), metadata={"digest": error.digest})
        case store_errors.UploadNotFound():
            return CallError(Reason.UPLOAD_NOT_FOUND, str(error), metadata={"upload_id": error.upload_id})
        case store_errors.UploadConflict():
            expected = {"expected_offset": str(error.expected_offset)}
            return CallError(Reason.UPLOAD_OFFSET_CONFLICT, str(error), metadata=expected)
        case store_errors.DigestMismatch():
            digests = {"announced": error.announced, "found": error.found}
            return CallError(Reason.DIGEST_MISMATCH, str(error), metadata=digests)
        case store_errors.StorageFull():
            return CallError(Reason.STORAGE_FULL, "the place for files has no room left; ask the operator")
        case store_errors.ArtifactDamaged():
            return CallError(Reason.INTERNAL, str(error), metadata={"digest": error.digest})
        case _:
            return (
                store_unavailable()
            )  # unfit, or of a newer schema: it was exchanged under a running service


def stream_expired() -> CallError:
    """The end of a stream that has reached its greatest age."""
    return CallError(
        Reason.STREAM_EXPIRED,
        "the stream has reached its greatest age; watch again to go on",
        retry_after_s=0.0,
    )
