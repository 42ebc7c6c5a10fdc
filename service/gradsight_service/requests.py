"""The fields of requests outside a spec: checked here, refused with their path."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from gradsight.v1 import artifact_pb2, event_pb2
from gradsight_service.errors import invalid_request
from gradsight_service.limits import DIGEST, JOB_ID, shown
from gradsight_store.operations import JobRef

MOST_IN_PAGE = 1000
EVENT_KINDS = tuple(field.name for field in event_pb2.JobEvent.DESCRIPTOR.oneofs_by_name["kind"].fields)
UPLOADED_KINDS = (
    artifact_pb2.ARTIFACT_KIND_DATASET,
    artifact_pb2.ARTIFACT_KIND_GRAPH,
    artifact_pb2.ARTIFACT_KIND_WEIGHTS,
)

_REQUEST_ID = re.compile("[A-Za-z0-9_-]{1,128}")
_UPLOAD_ID = re.compile("[A-Za-z0-9_-]{1,64}")


def job_ref(tenant: str, job_id: str, path: str = "job_id") -> JobRef:
    """The job that a request names in the field `path`.

    Raises:
        CallError: The id is missing or cannot be one. So it is for every function here.
    """
    if not job_id:
        raise invalid_request(path, "required: name the job")
    if problem := JOB_ID.problem(job_id):
        raise invalid_request(path, problem)
    return JobRef(tenant, job_id)


def request_id(value: str) -> str:
    """The request id, or empty."""
    if value and not _REQUEST_ID.fullmatch(value):
        raise invalid_request(
            "request_id", f"got {shown(value)}, allowed 1 to 128 characters of A-Z a-z 0-9 _ -"
        )
    return value


def digest(value: str) -> str:
    """The digest of a file."""
    if problem := DIGEST.problem(value):
        raise invalid_request("digest", problem)
    return value


def upload_id(value: str) -> str:
    """The id of an upload."""
    if not _UPLOAD_ID.fullmatch(value):
        raise invalid_request("upload_id", f"got {shown(value)}, allowed the id that CreateUpload returned")
    return value


def kind_name(kind: int) -> str:
    """A kind of file as people read it, `dataset` say."""
    name = artifact_pb2.ArtifactKind.Name(artifact_pb2.ArtifactKind.ValueType(kind))
    return name.removeprefix("ARTIFACT_KIND_").lower()


def whole_number(path: str, value: int, *, low: int, high: int, default: int = 0) -> int:
    """A number from `low` to `high`; 0 means `default` where that is given."""
    if value == 0 and default:
        return default
    if not low <= value <= high:
        allowed = f"{low} to {high}" if high < 2**62 else f"{low} and more"
        raise invalid_request(path, f"got {value}, allowed {allowed}")
    return value


def page_size(value: int, default: int) -> int:
    """The number of entries in a page."""
    return whole_number("page_size", value, low=0, high=MOST_IN_PAGE, default=default)


def sequence(path: str, value: int) -> int:
    """A place in a job's log, or 0."""
    return whole_number(path, value, low=0, high=2**62)


def event_kinds(values: Iterable[str]) -> frozenset[str]:
    """Kinds of events; none means all."""
    for index, value in enumerate(values):
        if value not in EVENT_KINDS:
            raise invalid_request(
                f"event_kinds[{index}]", f"got {shown(value)}, allowed {', '.join(EVENT_KINDS)}"
            )
    return frozenset(values)


@contextmanager
def refusing(path: str) -> Iterator[None]:
    """Turn the store's ValueError about one field into the refusal of that field."""
    try:
        yield
    except ValueError as error:
        raise invalid_request(path, str(error).removeprefix(f"{path}: ")) from error
