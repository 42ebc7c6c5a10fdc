"""A watch brings every event once, in order, whatever happens to the connection and to the service."""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import grpc
import pytest

import gradsight
from gradsight import Patience, aio
from gradsight.v1 import event_pb2, state_pb2
from gradsight.v1 import training_service_pb2 as wire

if TYPE_CHECKING:
    from tests.unit.client.conftest import LittleService, Relay

PATIENT = Patience(first_pause=0.02, longest_pause=0.2, reconnect=20.0)


@pytest.fixture
def client(service: "LittleService") -> Iterator[gradsight.Client]:
    with gradsight.Client(service.address, patience=PATIENT) as client:
        yield client


def _run_with_trouble(service: "LittleService", trouble: Callable[[], None], rounds: int = 6) -> None:
    """Writes a job's log while something keeps breaking."""
    rng = random.Random(1)
    for _ in range(rounds):
        service.log_lines("job1", rng.randint(1, 30))
        time.sleep(rng.uniform(0, 0.15))
        trouble()
    service.change("job1", state_pb2.JOB_STATE_SUCCEEDED)


def _restart(service: "LittleService") -> Callable[[], None]:
    def restart() -> None:
        service.stop()
        service.log_lines("job1", 3)
        watches = service.calls.count("WatchJob")
        service.start()
        _until(lambda: service.calls.count("WatchJob") > watches)

    return restart


def _cut(service: "LittleService", relay: "Relay") -> Callable[[], None]:
    def cut() -> None:
        watches = service.calls.count("WatchJob")
        relay.cut()
        _until(lambda: service.calls.count("WatchJob") > watches)

    return cut


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the watch did not come back"
        time.sleep(0.01)


def test_a_watch_goes_on_through_restarts_without_gap_or_duplicate(
    service: "LittleService", client: gradsight.Client
) -> None:
    service.add_job()
    writer = threading.Thread(target=_run_with_trouble, args=(service, _restart(service)))
    writer.start()
    sequences = [event.sequence for event in client.job("job1").watch()]
    writer.join()
    assert sequences == list(range(1, len(service.logs["job1"]) + 1))
    assert service.calls.count("WatchJob") == 7


def test_a_watch_goes_on_when_connections_are_cut(service: "LittleService", relay: "Relay") -> None:
    service.add_job()
    writer = threading.Thread(target=_run_with_trouble, args=(service, _cut(service, relay)))
    with gradsight.Client(relay.address, patience=PATIENT) as client:
        watching = client.job("job1").watch()
        first = next(watching)
        writer.start()
        sequences = [first.sequence, *(event.sequence for event in watching)]
    writer.join()
    assert sequences == list(range(1, len(service.logs["job1"]) + 1))
    assert service.calls.count("WatchJob") == 7


def test_the_asyncio_watch_goes_on_through_restarts(service: "LittleService") -> None:
    async def watch() -> list[int]:
        async with aio.Client(service.address, patience=PATIENT) as client:
            return [event.sequence async for event in client.job("job1").watch()]

    service.add_job()
    writer = threading.Thread(target=_run_with_trouble, args=(service, _restart(service)))
    writer.start()
    sequences = asyncio.run(watch())
    writer.join()
    assert sequences == list(range(1, len(service.logs["job1"]) + 1))


def test_a_watch_begins_after_a_sequence(service: "LittleService", client: gradsight.Client) -> None:
    service.add_job()
    service.log_lines("job1", 4)
    service.change("job1", state_pb2.JOB_STATE_CANCELLED)
    assert [event.sequence for event in client.job("job1").watch(after=3)] == [4, 5, 6]


def test_a_watch_of_some_kinds_goes_on_through_restarts(
    service: "LittleService", client: gradsight.Client
) -> None:
    service.add_job()
    writer = threading.Thread(target=_run_with_trouble, args=(service, _restart(service), 3))
    writer.start()
    events = list(client.job("job1").watch(kinds=["state_changed"]))
    writer.join()
    assert [event.sequence for event in events] == [1, len(service.logs["job1"])]


def test_waiting_goes_on_through_a_restart(service: "LittleService", client: gradsight.Client) -> None:
    service.add_job()
    writer = threading.Thread(target=_run_with_trouble, args=(service, _restart(service), 2))
    writer.start()
    assert client.job("job1").wait(timeout=30).state is gradsight.JobState.SUCCEEDED
    writer.join()


def test_waiting_is_as_patient_with_its_last_question_as_a_watch_is(
    service: "LittleService", client: gradsight.Client
) -> None:
    service.add_job()

    def away_at_the_end(frames: Iterable[Any]) -> Iterator[Any]:
        yield from frames
        for _ in range(20):
            service.refuse("GetJob", grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", "no store")

    service.frames["job1"] = away_at_the_end
    service.change("job1", state_pb2.JOB_STATE_RUNNING)
    threading.Timer(0.2, service.change, ("job1", state_pb2.JOB_STATE_SUCCEEDED)).start()
    assert client.job("job1").wait(timeout=30).state is gradsight.JobState.SUCCEEDED
    assert service.calls.count("GetJob") == 22


def test_events_that_come_twice_are_given_once(service: "LittleService", client: gradsight.Client) -> None:
    def twice(frames: Iterable[Any]) -> Iterator[Any]:
        for frame in frames:
            yield frame
            yield frame

    service.add_job()
    service.log_lines("job1", 3)
    service.change("job1", state_pb2.JOB_STATE_SUCCEEDED)
    service.frames["job1"] = twice
    assert [event.sequence for event in client.job("job1").watch()] == [1, 2, 3, 4, 5]


def _without(sequences: set[int], *extra: Any) -> Callable[[Iterable[Any]], Iterator[Any]]:
    def leave_out(frames: Iterable[Any]) -> Iterator[Any]:
        for frame in frames:
            if frame.event.sequence == min(sequences):
                yield from extra
            if frame.event.sequence not in sequences:
                yield frame

    return leave_out


def test_a_gap_that_nobody_announced_is_an_error(service: "LittleService", client: gradsight.Client) -> None:
    service.add_job()
    service.log_lines("job1", 5)
    service.frames["job1"] = _without({3, 4})
    with pytest.raises(gradsight.WatchGap, match="events 3 to 4 of job job1 did not come") as caught:
        list(client.job("job1").watch())
    assert (caught.value.first_sequence, caught.value.last_sequence) == (3, 4)


def test_a_gap_that_retention_made_is_an_error_or_is_told(
    service: "LittleService", client: gradsight.Client
) -> None:
    service.add_job()
    service.log_lines("job1", 4)
    service.change("job1", state_pb2.JOB_STATE_SUCCEEDED)
    gap = wire.WatchJobResponse(gap=wire.Gap(first_sequence=1, last_sequence=2))
    service.frames["job1"] = _without({1, 2}, gap)
    with pytest.raises(gradsight.WatchGap, match="deleted by retention; watch again with after=2"):
        list(client.job("job1").watch())
    told: list[gradsight.Gap] = []
    events = list(client.job("job1").watch(on_gap=told.append))
    assert [event.sequence for event in events] == [3, 4, 5, 6]
    assert told == [gradsight.Gap(first_sequence=1, last_sequence=2, conflated=False)]


def test_what_mode_latest_leaves_out_is_passed_over(
    service: "LittleService", client: gradsight.Client
) -> None:
    service.add_job()
    service.log_lines("job1", 4)
    service.change("job1", state_pb2.JOB_STATE_SUCCEEDED)
    gap = wire.WatchJobResponse(gap=wire.Gap(first_sequence=2, last_sequence=3, conflated=True))
    service.frames["job1"] = _without({2, 3}, gap)
    events = client.job("job1").watch(mode=gradsight.WatchMode.LATEST)
    assert [event.sequence for event in events] == [1, 4, 5, 6]


def test_a_kind_of_a_newer_service_is_skipped_without_a_gap(
    service: "LittleService", client: gradsight.Client
) -> None:
    def newer(frames: Iterable[Any]) -> Iterator[Any]:
        for frame in frames:
            if frame.event.sequence == 2:
                frame = wire.WatchJobResponse(event=event_pb2.JobEvent(sequence=2))
            yield frame

    service.add_job()
    service.log_lines("job1", 2)
    service.change("job1", state_pb2.JOB_STATE_SUCCEEDED)
    service.frames["job1"] = newer
    assert [event.sequence for event in client.job("job1").watch()] == [1, 3, 4]


def test_a_stream_that_ends_before_the_job_is_opened_again(
    service: "LittleService", client: gradsight.Client
) -> None:
    def break_off(frames: Iterable[Any]) -> Iterator[Any]:
        service.frames.clear()
        for frame, _ in zip(frames, range(3), strict=False):
            yield frame

    service.add_job()
    service.log_lines("job1", 6)
    service.change("job1", state_pb2.JOB_STATE_SUCCEEDED)
    service.frames["job1"] = break_off
    assert [event.sequence for event in client.job("job1").watch()] == list(range(1, 9))
    assert service.calls.count("WatchJob") == 2


def test_a_watch_gives_up_on_a_service_that_stays_away(service: "LittleService") -> None:
    service.add_job()
    patience = Patience(first_pause=0.02, longest_pause=0.1, reconnect=0.5)
    with gradsight.Client(service.address, patience=patience) as client:
        watching = client.job("job1").watch()
        next(watching)
        service.stop()
        started = time.monotonic()
        with pytest.raises(gradsight.ServiceUnreachable):
            next(watching)
        assert 0.4 < time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_WATCHERS", gradsight.TooManyWatchers),
        (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_BEYOND_END", gradsight.CursorBeyondEnd),
        (grpc.StatusCode.INTERNAL, "INTERNAL", gradsight.InternalServiceError),
    ],
)
def test_a_refused_watch_is_not_tried_again(
    service: "LittleService",
    client: gradsight.Client,
    code: grpc.StatusCode,
    reason: str,
    error: type[gradsight.GradsightError],
) -> None:
    service.add_job()
    service.refuse("WatchJob", code, reason, "refused")
    with pytest.raises(error):
        list(client.job("job1").watch())
    assert service.calls == ["WatchJob"]


def test_leaving_the_loop_closes_the_stream(service: "LittleService", client: gradsight.Client) -> None:
    closed = threading.Event()

    def noticing(frames: Iterable[Any]) -> Iterator[Any]:
        try:
            yield from frames
        finally:
            closed.set()

    service.add_job()
    service.frames["job1"] = noticing
    for _ in client.job("job1").watch():
        break
    assert closed.wait(10)


def test_the_feed_of_all_jobs_goes_on_behind_its_cursor_after_a_restart(
    service: "LittleService", client: gradsight.Client
) -> None:
    service.add_job("a")
    service.add_job("b")
    feed = client.watch_jobs("0")
    assert [next(feed).job_id, next(feed).job_id] == ["a", "b"]
    service.stop()
    service.change("a", state_pb2.JOB_STATE_RUNNING)
    service.start()
    event = next(feed)
    assert (event.job_id, event.cursor, event.event.kind) == (
        "b",
        "3",
        "state_changed",
    ) or event.job_id == "a"
    feed.close()  # type: ignore[attr-defined]
