"""Which job goes to which worker, and the numbers by which jobs stand in line."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gradsight.v1.spec_pb2 import DEVICE_CLASS_CPU, DEVICE_CLASS_CUDA, DEVICE_CLASS_UNSPECIFIED
from gradsight.v1.worker_pb2 import Worker
from gradsight_store.dispatch import WaitingJob, choose
from gradsight_store.operations import JobRef
from gradsight_store.placements import WAIT_BUCKETS_S, parse_waiting_score, wait_bucket, waiting_score

ANY = DEVICE_CLASS_UNSPECIFIED


def job(name: str, device_class: int = ANY, *, queue: str = "default", avoided: str = "") -> WaitingJob:
    return WaitingJob(JobRef("default", name), queue, device_class, 0, 0, avoided)


def worker(name: str, device_class: "int" = DEVICE_CLASS_CPU, queue: str = "default") -> Worker:
    return Worker(worker_id=name, device_class=device_class, queue=queue)  # type: ignore[arg-type]


def names(waiting: list[WaitingJob], idle: list[Worker]) -> list[tuple[str, str]]:
    return [(job.ref.job_id, worker.worker_id) for job, worker in choose(waiting, idle)]


def test_the_best_job_gets_the_worker_and_no_worker_gets_two() -> None:
    assert names([job("a"), job("b")], [worker("w")]) == [("a", "w")]


def test_queue_and_class_must_fit() -> None:
    waiting = [job("a", queue="other"), job("b", DEVICE_CLASS_CUDA), job("c", DEVICE_CLASS_CPU)]
    assert names(waiting, [worker("w")]) == [("c", "w")]


def test_a_job_for_any_device_takes_the_cuda_device() -> None:
    assert names([job("a")], [worker("w1"), worker("w2", DEVICE_CLASS_CUDA)]) == [("a", "w2")]


def test_the_worker_that_lost_a_job_gets_it_again_only_when_it_is_the_last() -> None:
    assert names([job("a", avoided="w1")], [worker("w1"), worker("w2")]) == [("a", "w2")]
    assert names([job("a", avoided="w1")], [worker("w1")]) == [("a", "w1")]


@given(st.lists(st.tuples(st.integers(-100, 100), st.integers(0, 4 * 10**12)), min_size=2))
def test_lines_are_sorted_by_priority_then_by_the_longer_wait(jobs: list[tuple[int, int]]) -> None:
    scores = sorted(float(waiting_score(priority, since)) for priority, since in jobs)
    for (priority, since), (next_priority, next_since) in pairwise(map(parse_waiting_score, scores)):
        assert (-priority, since) <= (-next_priority, next_since)


@given(st.integers(-100, 100), st.integers(0, 4 * 10**12))
def test_scores_are_exact(priority: int, since: int) -> None:
    assert parse_waiting_score(float(waiting_score(priority, since))) == (priority, since)


def test_waits_fall_into_the_bucket_whose_bound_they_do_not_pass() -> None:
    assert [wait_bucket(seconds) for seconds in (0, 0.1, 0.11, 14400, 14401)] == [0, 0, 1, 11, 12]
    assert len(WAIT_BUCKETS_S) == 12
