"""Everything the store room refuses or fails with.

```
StoreError
├── StoreUnavailable      no answer in time, or no connection: the same command may be sent again
├── StoreFull             the store's memory is used up: nothing was written
├── StoreUnfit            the server is set up so that jobs could be lost, or cannot be judged
├── SchemaTooNew          a newer gradsight wrote this store
├── EmbeddedStoreFailed   the store of `gradsight up` did not start
├── JobNotFound
├── RequestIdReused
├── TransitionRefused
├── ArtifactNotFound
├── ArtifactDamaged       the bytes do not agree with their digest any more
├── UploadNotFound
├── UploadConflict        a chunk that does not follow the stored bytes
├── DigestMismatch        the uploaded bytes are not the announced ones: the upload is gone
└── StorageFull           no space for files: nothing is half-written
```

Each survives pickling with its fields. No message holds a password or a path of the machine.
"""

from typing import Any


class StoreError(Exception):
    """Root of everything that the store room raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[StoreError], args: tuple[Any, ...], fields: dict[str, Any]) -> StoreError:
    error = kind.__new__(kind, *args)  # around __init__, whose parameters are not `args`
    error.__dict__.update(fields)
    return error


class StoreUnavailable(StoreError):
    """The store gave no answer. Whether a command was carried out is unknown; its operation id tells."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"the store at {url} does not answer: {reason}; start it, or correct --store (GRADSIGHT_STORE)"
        )
        self.url = url
        self.reason = reason


class StoreFull(StoreError):
    """The store refused a write because its memory limit is reached. Nothing was written."""

    def __init__(self, url: str) -> None:
        super().__init__(
            f"the store at {url} is full: it reached its maxmemory and refuses writes; raise maxmemory "
            "or let finished jobs expire"
        )
        self.url = url


class StoreUnfit(StoreError):
    """The server could lose or misjudge jobs as it is set up."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy


class SchemaTooNew(StoreError):
    """A newer gradsight wrote this store in a form that this one does not know."""

    def __init__(self, found: int, supported: int) -> None:
        super().__init__(
            f"the store has schema version {found}, this gradsight knows versions up to {supported}; "
            "update gradsight on this machine, or use another store"
        )
        self.found = found
        self.supported = supported


class EmbeddedStoreFailed(StoreError):
    """The store of this machine did not start."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy


class JobNotFound(StoreError):
    """No job of the tenant has this id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job has the id {job_id!r}; `gradsight jobs` lists them")
        self.job_id = job_id


class RequestIdReused(StoreError):
    """The request id already made a job from another spec."""

    def __init__(self, request_id: str, job_id: str = "") -> None:
        made = f" (job {job_id})" if job_id else ""
        super().__init__(
            f"request_id {request_id!r} was used with a different request{made}; use a new id for a new job"
        )
        self.request_id = request_id
        self.job_id = job_id


class TransitionRefused(StoreError):
    """The job's state does not allow the change. `state` is the number of a `gradsight.v1.JobState`."""

    def __init__(self, state: int, message: str) -> None:
        super().__init__(message)
        self.state = state


class ArtifactNotFound(StoreError):
    """The tenant has no file with this digest."""

    def __init__(self, digest: str) -> None:
        super().__init__(f"no file has the digest {digest}; upload it again, or check the digest")
        self.digest = digest


class ArtifactDamaged(StoreError):
    """A stored file's bytes do not agree with the digest it is known by."""

    def __init__(self, digest: str, found: str) -> None:
        super().__init__(
            f"the file {digest} is damaged: its bytes now have the digest {found}; "
            "check the artifact storage and upload or train again"
        )
        self.digest = digest
        self.found = found


class UploadNotFound(StoreError):
    """No upload has this id: it never was, was discarded, or was left alone for too long."""

    def __init__(self, upload_id: str) -> None:
        super().__init__(f"no upload has the id {upload_id!r}: it may have been abandoned; start it again")
        self.upload_id = upload_id


class UploadConflict(StoreError):
    """A chunk does not go on where the stored bytes end, or differs from bytes already stored."""

    def __init__(self, expected_offset: int, problem: str = "the chunk does not follow") -> None:
        super().__init__(f"{problem}: {expected_offset} bytes are stored, send on from there")
        self.expected_offset = expected_offset


class DigestMismatch(StoreError):
    """The content that arrived is not the content that was announced. The upload was discarded."""

    def __init__(self, announced: str, found: str) -> None:
        super().__init__(f"the content is {found}, announced was {announced}: discarded; upload it again")
        self.announced = announced
        self.found = found


class StorageFull(StoreError):
    """The artifact storage has no space left. Nothing was half-written."""

    def __init__(self, needed_bytes: int) -> None:
        super().__init__(
            f"the artifact storage has no space for {needed_bytes} bytes; free space, or point --artifacts "
            "(GRADSIGHT_ARTIFACTS) at a larger one"
        )
        self.needed_bytes = needed_bytes
