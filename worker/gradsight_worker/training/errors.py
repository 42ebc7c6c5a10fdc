"""The one exception that ends a run with a typed reason."""

from typing import Self

from gradsight.v1 import state_pb2


class TrainingFailed(Exception):
    """The run cannot go on; `error` is what the job will show."""

    def __init__(self, error: state_pb2.JobError) -> None:
        super().__init__(error.message)
        self.error = error

    @classmethod
    def by_data(cls, message: str, *, field: str = "", row: int = 0) -> Self:
        """The rows are at fault: `row` counts from 1 without the header, 0 when it is not about one row."""
        reason = state_pb2.JOB_ERROR_REASON_INVALID_DATA
        return cls(_error(reason, state_pb2.FAULT_DATA, message, field=field, row=row))

    @classmethod
    def by_spec(cls, message: str, *, field: str) -> Self:
        """The spec asks for something that these rows or this model cannot give."""
        return cls(
            _error(state_pb2.JOB_ERROR_REASON_INVALID_SPEC, state_pb2.FAULT_USER, message, field=field)
        )

    @classmethod
    def by_nonfinite_loss(cls, message: str) -> Self:
        """The model's training ran away."""
        return cls(_error(state_pb2.JOB_ERROR_REASON_NONFINITE_LOSS, state_pb2.FAULT_MODEL, message))

    @classmethod
    def by_finding(cls, message: str, *, of_data: bool) -> Self:
        """A critical finding ended training before any weights were worth keeping."""
        fault = state_pb2.FAULT_DATA if of_data else state_pb2.FAULT_MODEL
        return cls(_error(state_pb2.JOB_ERROR_REASON_CRITICAL_FINDING, fault, message))

    @classmethod
    def by_memory(cls, message: str) -> Self:
        """The model and its batch do not fit the device or the machine."""
        return cls(_error(state_pb2.JOB_ERROR_REASON_OUT_OF_MEMORY, state_pb2.FAULT_MODEL, message))

    @classmethod
    def by_missing_file(cls, message: str, *, field: str = "") -> Self:
        """A file that the run needs is missing or damaged; another attempt may find it."""
        reason = state_pb2.JOB_ERROR_REASON_ARTIFACT_UNAVAILABLE
        return cls(_error(reason, state_pb2.FAULT_INFRA, message, field=field, retryable=True))

    @classmethod
    def by_gradsight(cls, message: str) -> Self:
        """Our own fault."""
        return cls(
            _error(state_pb2.JOB_ERROR_REASON_INTERNAL, state_pb2.FAULT_UNKNOWN, message, retryable=True)
        )


def _error(
    reason: state_pb2.JobErrorReason.ValueType,
    fault: state_pb2.Fault.ValueType,
    message: str,
    *,
    field: str = "",
    row: int = 0,
    retryable: bool = False,
) -> state_pb2.JobError:
    return state_pb2.JobError(
        reason=reason, fault=fault, message=message, field=field, row=row, retryable=retryable
    )
