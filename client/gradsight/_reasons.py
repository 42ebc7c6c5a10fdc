"""The stable reasons of refused calls: the service sends them, the client maps them to exceptions.

A reason travels in `google.rpc.ErrorInfo.reason` under the domain `gradsight`, beside the gRPC status that
is named in brackets below. Programs branch on the reason; the message is for people and may change. Names
are added, never renamed.
"""

import enum

DOMAIN = "gradsight"


class Reason(enum.StrEnum):
    """Why a call was refused, and what to do about it."""

    INVALID_FIELD = "INVALID_FIELD"
    """[INVALID_ARGUMENT] Fields of a spec are missing, malformed or out of range.

    Correct the fields that BadRequest names.
    """
    INVALID_REQUEST = "INVALID_REQUEST"
    """[INVALID_ARGUMENT] A field of the request outside the spec is malformed, a page token say.

    Correct the request.
    """
    NOT_SUPPORTED_YET = "NOT_SUPPORTED_YET"
    """[UNIMPLEMENTED, for a field of a spec INVALID_ARGUMENT] The contract knows it, this version does not do it yet.

    Leave it out or update the service.
    """
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    """[NOT_FOUND] No job has this id. Check the id with `gradsight jobs`."""
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    """[ALREADY_EXISTS] The request id made another job from another spec. Use a new id for a new spec."""
    STATE_TRANSITION_NOT_ALLOWED = "STATE_TRANSITION_NOT_ALLOWED"
    """[FAILED_PRECONDITION] The job's state does not allow the change, cancelling a finished job say.

    Get the job and look.
    """
    CURSOR_BEYOND_END = "CURSOR_BEYOND_END"
    """[OUT_OF_RANGE] The watch was to begin after a sequence that the job has not reached.

    Begin at the job's last sequence.
    """
    ARTIFACT_NOT_FOUND = "ARTIFACT_NOT_FOUND"
    """[NOT_FOUND] No stored file has this digest.

    Upload the file, or check the digest with `gradsight show`.
    """
    UPLOAD_NOT_FOUND = "UPLOAD_NOT_FOUND"
    """[NOT_FOUND] The upload is unknown or has expired.

    Start it again: what is already stored is not sent twice.
    """
    UPLOAD_OFFSET_CONFLICT = "UPLOAD_OFFSET_CONFLICT"
    """[ABORTED] A chunk did not begin where the stored bytes end. Ask GetUpload and go on from there."""
    DIGEST_MISMATCH = "DIGEST_MISMATCH"
    """[INVALID_ARGUMENT] The bytes that arrived are not those of the announced digest.

    The file changed meanwhile: upload again.
    """
    UPLOAD_TOO_LARGE = "UPLOAD_TOO_LARGE"
    """[INVALID_ARGUMENT] The file or a chunk is larger than the service takes.

    See GetServerInfo for the limits.
    """
    STORAGE_FULL = "STORAGE_FULL"
    """[RESOURCE_EXHAUSTED] The place for files has no room. Free some, or ask the operator."""
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    """[UNAVAILABLE] The service cannot reach its store. Try again; ask the operator if it lasts."""
    STORE_FULL = "STORE_FULL"
    """[RESOURCE_EXHAUSTED] The store has no memory left and takes no more writes. Ask the operator."""
    SERVER_DRAINING = "SERVER_DRAINING"
    """[UNAVAILABLE] The service shuts down. Try again: its successor answers."""
    STREAM_EXPIRED = "STREAM_EXPIRED"
    """[UNAVAILABLE] The stream has reached its greatest age. Watch again after its last sequence."""
    TOO_MANY_WATCHERS = "TOO_MANY_WATCHERS"
    """[RESOURCE_EXHAUSTED] The service follows as many streams as it can.

    Close some, or ask the operator for more replicas.
    """
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    """[DEADLINE_EXCEEDED] The answer took longer than the caller's deadline.

    Allow more time; a create may have happened.
    """
    INTERNAL = "INTERNAL"
    """[INTERNAL] An error of the service itself. Report it with the message."""
    UNKNOWN_METHOD = "UNKNOWN_METHOD"
    """[UNIMPLEMENTED] The service does not know the method. It is older than the client: update it."""
