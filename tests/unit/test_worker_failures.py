"""Names for what ends an attempt from outside."""

import signal

from gradsight.v1 import state_pb2
from gradsight_worker import failures, processes


def test_a_trainer_that_the_kernel_killed_for_memory_is_named_with_its_peak() -> None:
    error = failures.trainer_died(-signal.SIGKILL, memory_kills=1, peak_bytes=3 << 29)
    assert error.reason == state_pb2.JOB_ERROR_REASON_OUT_OF_MEMORY
    assert "it held 1.5 GiB at most" in error.message
    assert failures.trainer_died(-signal.SIGKILL, 0, 1).reason == state_pb2.JOB_ERROR_REASON_TRAINER_DIED


def test_the_most_memory_that_a_child_held_is_known_at_its_end() -> None:
    def hold() -> int:
        return len(b"x" * (64 << 20)) & 1

    status, peak_bytes = processes.fork_child(hold).wait_measured()
    assert status == 0
    assert peak_bytes >= 64 << 20
