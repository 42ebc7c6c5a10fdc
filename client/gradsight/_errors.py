"""Everything that gradsight raises, on one screen.

    GradsightError
    ├── InvalidSpec                  the job's description is wrong; `fields` says where (also a ValueError)
    ├── InvalidRequest               another argument of the call is wrong (also a ValueError)
    │   └── CursorBeyondEnd          a watch was to begin after an event that does not exist
    ├── NotSupportedYet              the contract knows it, this version of the service does not do it
    ├── NotFound
    │   ├── JobNotFound
    │   ├── ArtifactNotFound
    │   └── UploadNotFound
    ├── RequestIdReused              the request id made another job from another spec
    ├── StateTransitionRefused       the job's state does not allow the change
    ├── UploadFailed
    │   ├── DigestMismatch           the bytes are not those that were announced; the file changed meanwhile
    │   ├── UploadOffsetConflict     a chunk did not begin where the stored bytes end
    │   └── UploadTooLarge
    ├── LimitReached                 the service or its store is full
    │   ├── StorageFull
    │   ├── StoreFull
    │   └── TooManyWatchers
    ├── AccessRefused                not allowed, or not known who asks
    ├── Unavailable                  try again later; the client has already tried several times
    │   ├── ServiceUnreachable       nobody answers at the address, or the service shuts down
    │   └── StoreUnavailable         the service answers, its store does not
    ├── DeadlineExceeded             the answer took longer than the call's timeout
    ├── CallCancelled                the call was given up on the way
    ├── InternalServiceError         an error of the service itself
    ├── JobEnded
    │   ├── JobFailed                the job failed; `error` says why and whose fault it is
    │   └── JobCancelled
    ├── RequirementNotMet            the job succeeded, its result is not what was required; `results` says why
    ├── WaitTimeout                  the wait was over before the job was; the job goes on
    ├── WatchGap                     events are missing from a watch
    └── MissingExtra                 a part of gradsight that is not installed is needed (also an ImportError)

All are picklable. Errors of a call carry `reason`, a member of `Reason` (or the text that a newer service sent, or
None when no service answered), and `metadata`, what the message says as values.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gradsight._reasons import Reason

if TYPE_CHECKING:
    from gradsight._events import JobError
    from gradsight._job import Job
    from gradsight._requirements import RequirementResult


class GradsightError(Exception):
    """Root of everything that gradsight raises."""

    reason: Reason | str | None = None
    metadata: Mapping[str, str] = {}

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call the class with the message alone, which subclasses with more arguments refuse.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(cls: type[GradsightError], args: tuple[Any, ...], state: dict[str, Any]) -> GradsightError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class FieldViolation(NamedTuple):
    """One wrong field: its path in the spec, `data.target` say, and what was got and what is allowed."""

    field: str
    message: str


class InvalidSpec(GradsightError, ValueError):
    """The description of the job is wrong: `fields` names every wrong field that is known."""

    def __init__(self, message: str, fields: Sequence[FieldViolation] = ()) -> None:
        super().__init__(message)
        self.fields = tuple(fields)


class InvalidRequest(GradsightError, ValueError):
    """An argument of the call is wrong."""


class CursorBeyondEnd(InvalidRequest):
    """A watch was to begin after an event that does not exist. Begin at the job's `last_sequence`."""


class NotSupportedYet(GradsightError):
    """The contract knows the option, this version of the service does not do it; `fields` names it."""

    def __init__(self, message: str, fields: Sequence[FieldViolation] = ()) -> None:
        super().__init__(message)
        self.fields = tuple(fields)


class NotFound(GradsightError):
    """What the call named does not exist."""


class JobNotFound(NotFound):
    """No job has this id."""


class ArtifactNotFound(NotFound):
    """No stored file has this digest."""


class UploadNotFound(NotFound):
    """The upload is unknown or has expired."""


class RequestIdReused(GradsightError):
    """The request id made another job from another spec."""


class StateTransitionRefused(GradsightError):
    """The job's state does not allow the change."""


class UploadFailed(GradsightError):
    """A file did not arrive."""


class DigestMismatch(UploadFailed):
    """The bytes are not those that were announced."""


class UploadOffsetConflict(UploadFailed):
    """A chunk did not begin where the stored bytes end."""


class UploadTooLarge(UploadFailed):
    """The file is larger than the service takes."""


class LimitReached(GradsightError):
    """The service or its store is full."""


class StorageFull(LimitReached):
    """The place for files has no room."""


class StoreFull(LimitReached):
    """The store has no memory left."""


class TooManyWatchers(LimitReached):
    """The service follows as many streams as it can."""


class AccessRefused(GradsightError):
    """The caller may not do this, or did not say who they are."""


class Unavailable(GradsightError):
    """The service cannot answer now. The client has already tried several times."""


class ServiceUnreachable(Unavailable):
    """Nobody answers at the address, or the service shuts down."""


class StoreUnavailable(Unavailable):
    """The service answers, but its store does not."""


class DeadlineExceeded(GradsightError):
    """The answer took longer than the call's timeout."""


class CallCancelled(GradsightError):
    """The call was given up on the way."""


class InternalServiceError(GradsightError):
    """An error of the service itself."""


class JobEnded(GradsightError):
    """The job ended without a result; `job` is its last state."""

    def __init__(self, message: str, job: "Job") -> None:
        super().__init__(message)
        self.job = job


class JobFailed(JobEnded):
    """The job failed; `error` says why, whose fault it is and whether trying again may help."""

    def __init__(self, message: str, job: "Job", error: "JobError | None") -> None:
        super().__init__(message, job)
        self.error = error


class JobCancelled(JobEnded):
    """The job was cancelled."""


class RequirementNotMet(GradsightError):
    """The job succeeded, and what was required of its result is not met; `results` has one sentence per requirement."""

    def __init__(self, message: str, job: "Job", results: "Sequence[RequirementResult]") -> None:
        super().__init__(message)
        self.job = job
        self.results = tuple(results)


class WaitTimeout(GradsightError):
    """The wait was over before the job was; the job goes on."""

    def __init__(self, message: str, job_id: str) -> None:
        super().__init__(message)
        self.job_id = job_id


class WatchGap(GradsightError):
    """Events from `first_sequence` to `last_sequence` are missing from a watch."""

    def __init__(self, message: str, first_sequence: int, last_sequence: int) -> None:
        super().__init__(message)
        self.first_sequence = first_sequence
        self.last_sequence = last_sequence


class MissingExtra(GradsightError, ImportError):
    """A part of gradsight that is not installed is needed; the message names the extra to install."""


_BY_REASON: dict[Reason, type[GradsightError]] = {
    Reason.INVALID_FIELD: InvalidSpec,
    Reason.INVALID_REQUEST: InvalidRequest,
    Reason.NOT_SUPPORTED_YET: NotSupportedYet,
    Reason.JOB_NOT_FOUND: JobNotFound,
    Reason.REQUEST_ID_REUSED: RequestIdReused,
    Reason.STATE_TRANSITION_NOT_ALLOWED: StateTransitionRefused,
    Reason.CURSOR_BEYOND_END: CursorBeyondEnd,
    Reason.ARTIFACT_NOT_FOUND: ArtifactNotFound,
    Reason.UPLOAD_NOT_FOUND: UploadNotFound,
    Reason.UPLOAD_OFFSET_CONFLICT: UploadOffsetConflict,
    Reason.DIGEST_MISMATCH: DigestMismatch,
    Reason.UPLOAD_TOO_LARGE: UploadTooLarge,
    Reason.STORAGE_FULL: StorageFull,
    Reason.STORE_UNAVAILABLE: StoreUnavailable,
    Reason.STORE_FULL: StoreFull,
    Reason.SERVER_DRAINING: ServiceUnreachable,
    Reason.STREAM_EXPIRED: ServiceUnreachable,
    Reason.TOO_MANY_WATCHERS: TooManyWatchers,
    Reason.DEADLINE_EXCEEDED: DeadlineExceeded,
    Reason.INTERNAL: InternalServiceError,
    Reason.UNKNOWN_METHOD: NotSupportedYet,
}

# For answers without a reason that we know: of a newer service, of a proxy, of gRPC itself.
_BY_CODE: dict[str, type[GradsightError]] = {
    "CANCELLED": CallCancelled,
    "UNKNOWN": InternalServiceError,
    "INVALID_ARGUMENT": InvalidRequest,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": RequestIdReused,
    "PERMISSION_DENIED": AccessRefused,
    "RESOURCE_EXHAUSTED": LimitReached,
    "FAILED_PRECONDITION": StateTransitionRefused,
    "ABORTED": UploadOffsetConflict,
    "OUT_OF_RANGE": InvalidRequest,
    "UNIMPLEMENTED": NotSupportedYet,
    "INTERNAL": InternalServiceError,
    "UNAVAILABLE": ServiceUnreachable,
    "DATA_LOSS": InternalServiceError,
    "UNAUTHENTICATED": AccessRefused,
}


def error_for(
    code: str,
    reason: str | None,
    message: str,
    *,
    fields: Sequence[FieldViolation] = (),
    metadata: Mapping[str, str] | None = None,
) -> GradsightError:
    """Returns the exception for a refused call: by its reason where that is known, else by its gRPC status name."""
    known = Reason.__members__.get(reason or "")
    cls = _BY_REASON[known] if known else _BY_CODE[code]
    error = cls(message, fields) if issubclass(cls, InvalidSpec | NotSupportedYet) else cls(message)
    error.reason = known or reason
    error.metadata = dict(metadata or {})
    return error
