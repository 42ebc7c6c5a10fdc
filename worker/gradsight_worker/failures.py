"""Names for everything that can end an attempt from outside the training itself."""

import signal

from google.protobuf.duration_pb2 import Duration

from gradsight.v1 import state_pb2
from gradsight_worker.processes import describe_exit


def drained(*, saved: bool) -> state_pb2.JobError:
    """The worker was asked to stop."""
    how = "after saving the state" if saved else "before the state could be saved: the last checkpoint counts"
    return _infrastructure(state_pb2.JOB_ERROR_REASON_WORKER_DRAINED, f"the worker was asked to stop, {how}")


def stalled(timeout_s: float) -> state_pb2.JobError:
    """The trainer lived and said nothing."""
    return state_pb2.JobError(
        reason=state_pb2.JOB_ERROR_REASON_STALLED,
        fault=state_pb2.FAULT_UNKNOWN,
        message=f"the training process made no progress for {timeout_s:g} s and was killed; "
        "the job goes on from its last checkpoint",
        retryable=True,
    )


def timed_out(timeout: Duration) -> state_pb2.JobError:
    """The job used up its time."""
    seconds = timeout.ToMicroseconds() / 1e6
    return state_pb2.JobError(
        reason=state_pb2.JOB_ERROR_REASON_TIMED_OUT,
        fault=state_pb2.FAULT_POLICY,
        message=f"the job took longer than its timeout of {seconds:g} s, counted from its first attempt; "
        "raise budget.timeout, or ask for fewer steps",
        field="budget.timeout",
    )


def storage_failed(problem: str) -> state_pb2.JobError:
    """The artifact storage did not give or take a file; another try may find it better."""
    return _infrastructure(
        state_pb2.JOB_ERROR_REASON_ARTIFACT_UNAVAILABLE, f"the artifact storage failed: {problem}"
    )


def trainer_died(status: int, memory_kills: int, peak_bytes: int) -> state_pb2.JobError:
    """A trainer ended without a result, a failure or a request to stop.

    Args:
        status: Its exit status, negative for a signal.
        memory_kills: Processes that the kernel killed for lack of memory while it ran.
        peak_bytes: Most memory that it held.
    """
    ended = f"the training process {describe_exit(status)}"
    if status == -signal.SIGKILL and memory_kills > 0:
        return _infrastructure(
            state_pb2.JOB_ERROR_REASON_OUT_OF_MEMORY,
            f"{ended}, most likely by the kernel because memory ran out: it held {peak_bytes / 2**30:.1f} GiB at most; "
            "use a smaller batch or model, or a machine with more memory",
        )
    if status < 0:
        return _infrastructure(
            state_pb2.JOB_ERROR_REASON_TRAINER_DIED, f"{ended}; the job goes on from its last checkpoint"
        )
    return internal(f"{ended} without a result or a reason; the worker's log says more", retryable=False)


def attempt_died(status: int) -> state_pb2.JobError:
    """The process that holds the lease ended without telling the store."""
    ended = f"the attempt's process {describe_exit(status)}"
    if status < 0:
        return _infrastructure(
            state_pb2.JOB_ERROR_REASON_TRAINER_DIED, f"{ended}; the job goes on from its last checkpoint"
        )
    return internal(f"{ended}; the worker's log says more", retryable=True)


def lease_lost(lease_s: float) -> state_pb2.JobError:
    """The attempt stopped itself because the store could not be reached."""
    return _infrastructure(
        state_pb2.JOB_ERROR_REASON_WORKER_LOST,
        f"the worker could not renew its lease of {lease_s:g} s; the job goes on from its last checkpoint",
    )


def internal(message: str, *, retryable: bool) -> state_pb2.JobError:
    """An error of gradsight itself."""
    return state_pb2.JobError(
        reason=state_pb2.JOB_ERROR_REASON_INTERNAL,
        fault=state_pb2.FAULT_UNKNOWN,
        message=message,
        retryable=retryable,
    )


def _infrastructure(reason: state_pb2.JobErrorReason.ValueType, message: str) -> state_pb2.JobError:
    return state_pb2.JobError(reason=reason, fault=state_pb2.FAULT_INFRA, message=message, retryable=True)
