"""A watch brings every event once and in order, whatever the reader's pace, and says why it ends."""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import grpc
import pytest

from gradsight.v1 import event_pb2, state_pb2
from gradsight.v1 import training_service_pb2 as pb
from gradsight_store.artifacts import Artifacts
from gradsight_store.compaction import compact
from gradsight_store.settings import StoreSettings
from gradsight_store.store import Store

Service = Any
Worker = Callable[[str], Any]
Refused = Callable[[Callable[[], Any]], Any]

CODE = grpc.StatusCode


@pytest.fixture
def started(service: Service, worker: Worker, request: pytest.FixtureRequest) -> Any:
    """An attempt of a fresh job: events 1 and 2, the change to RUNNING and the attempt's start, are there."""
    queue = f"watch-{time.monotonic_ns()}"
    service.create(f'queue: "{queue}"')
    return worker(queue).wait_for_job()


def watch(service: Service, attempt: Any, **request: Any) -> Any:
    return service.training.WatchJob(pb.WatchJobRequest(job_id=attempt.ref.job_id, **request), timeout=30)


def sequences(frames: Iterable[Any]) -> list[int]:
    return [frame.event.sequence for frame in frames if frame.HasField("event")]


def test_a_job_that_was_just_created_shows_its_first_event(service: Service) -> None:
    job = service.create()
    stream = service.training.WatchJob(pb.WatchJobRequest(job_id=job.job_id), timeout=10)
    snapshot = next(stream).snapshot
    assert (snapshot.job_id, snapshot.last_sequence) == (job.job_id, 1)
    first = next(stream).event
    assert (first.sequence, first.state_changed.state) == (1, state_pb2.JOB_STATE_QUEUED)
    stream.cancel()


def test_history_and_live_events_come_once_in_order_until_the_job_is_done(
    service: Service, started: Any
) -> None:
    last = started.append_steps(1, 700)
    stream = watch(service, started)
    assert next(stream).snapshot.last_sequence == last

    def go_on() -> None:
        for batch in range(50):
            started.append_steps(7001 + 10 * batch, 1)
        started.finish(state_pb2.JOB_STATE_SUCCEEDED)

    thread = threading.Thread(target=go_on)
    thread.start()
    frames = list(stream)
    thread.join()
    numbers = sequences(frames)
    assert numbers == list(range(1, last + 52))
    assert frames[-2].event.state_changed.state == state_pb2.JOB_STATE_SUCCEEDED
    assert frames[-1].end.reason == pb.STREAM_END_REASON_JOB_DONE
    assert frames[-1].end.next_sequence == numbers[-1]
    assert stream.code() is CODE.OK


def test_a_watch_goes_on_exactly_after_a_sequence(service: Service, started: Any) -> None:
    last = started.append_steps(1, 300)
    started.finish(state_pb2.JOB_STATE_SUCCEEDED)
    for after in (0, 1, 255, 256, 257, last, last + 1):
        frames = list(watch(service, started, after_sequence=after))
        assert sequences(frames) == list(range(after + 1, last + 2))
        assert frames[-1].end.reason == pb.STREAM_END_REASON_JOB_DONE


def test_a_sequence_beyond_the_end_is_refused(service: Service, started: Any, refusal: Refused) -> None:
    last = started.append_steps(1, 1)
    refused = refusal(lambda: list(watch(service, started, after_sequence=last + 1)))
    assert (refused.code, refused.reason) == (CODE.OUT_OF_RANGE, "CURSOR_BEYOND_END")
    assert refused.metadata == {"last_sequence": str(last)}


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"after_sequence": -1}, "after_sequence"),
        ({"event_kinds": ["loss"]}, "event_kinds[0]"),
        ({"mode": 9}, "mode"),
    ],
)
def test_a_malformed_watch_is_refused(
    service: Service, started: Any, refusal: Refused, fields: dict[str, Any], path: str
) -> None:
    refused = refusal(lambda: list(watch(service, started, **fields)))
    assert (refused.code, list(refused.fields)) == (CODE.INVALID_ARGUMENT, [path])


def test_only_the_kinds_that_were_asked_for_come(service: Service, started: Any) -> None:
    started.append_steps(1, 20)
    started.finish(state_pb2.JOB_STATE_SUCCEEDED)
    frames = list(watch(service, started, event_kinds=["state_changed", "attempt_started"]))
    kinds = [frame.event.WhichOneof("kind") for frame in frames if frame.HasField("event")]
    assert kinds == ["state_changed", "state_changed", "attempt_started", "state_changed"]
    assert frames[-1].end.reason == pb.STREAM_END_REASON_JOB_DONE


def test_a_quiet_stream_gets_heartbeats(service: Service, started: Any) -> None:
    last = started.append_steps(1, 1)
    stream = watch(service, started, after_sequence=last)
    next(stream)
    for _ in range(2):
        frame = next(stream)
        assert frame.heartbeat.last_sequence == last
    stream.cancel()


def test_mode_latest_leaves_out_steps_and_says_which(service: Service, started: Any) -> None:
    started.append_steps(1, 400)
    started.append(event_pb2.JobEvent(log_line=event_pb2.LogLine(message="half")))
    last = started.append_steps(4001, 100)
    started.finish(state_pb2.JOB_STATE_SUCCEEDED)
    frames = list(watch(service, started, mode=pb.WATCH_MODE_LATEST))[1:-1]
    told = 0
    for frame in frames:
        if frame.HasField("gap"):
            assert frame.gap.conflated
            assert frame.gap.first_sequence == told + 1
            told = frame.gap.last_sequence
        else:
            assert frame.event.sequence == told + 1
            told = frame.event.sequence
    assert told == last + 1
    steps = [frame.event for frame in frames if frame.event.HasField("steps_recorded")]
    assert len(steps) <= 4
    assert steps[-1].sequence == last


def test_a_log_that_moved_to_segments_is_watched_whole(service: Service, started: Any) -> None:
    last = started.append_steps(1, 900)
    store = Store.open(StoreSettings.fast(url=service.store_server.url, log_max_events=100))
    assert store.run(compact(started.ref, Artifacts(service.root)))
    store.close()
    started.finish(state_pb2.JOB_STATE_SUCCEEDED)
    frames = list(watch(service, started))
    assert sequences(frames) == list(range(1, last + 2))
    assert not any(frame.HasField("gap") for frame in frames)


def test_many_watchers_of_one_job_see_the_same(service: Service, started: Any) -> None:
    started.append_steps(1, 100)
    streams = [watch(service, started) for _ in range(20)]
    seen: list[list[int]] = [[] for _ in streams]
    threads = [
        threading.Thread(
            target=lambda place, stream: seen[place].extend(sequences(stream)), args=(place, stream)
        )
        for place, stream in enumerate(streams)
    ]
    for thread in threads:
        thread.start()
    for batch in range(100):
        last = started.append_steps(1001 + 10 * batch, 1)
    started.finish(state_pb2.JOB_STATE_SUCCEEDED)
    for thread in threads:
        thread.join(30)
    assert all(numbers == list(range(1, last + 2)) for numbers in seen)


def test_a_live_event_arrives_within_milliseconds(service: Service, started: Any) -> None:
    last = started.append_steps(1, 1)
    stream = watch(service, started, after_sequence=last)
    next(stream)
    next(stream)  # a heartbeat: the stream is at rest
    delays = []
    for batch in range(20):
        sent = time.monotonic()
        wanted = started.append_steps(11 + 10 * batch, 1)
        while next(stream).event.sequence != wanted:
            pass
        delays.append(time.monotonic() - sent)
    stream.cancel()
    assert sorted(delays)[10] < 0.05


def test_events_are_listed_in_pages_and_by_kind(service: Service, started: Any) -> None:
    last = started.append_steps(1, 1200)
    started.finish(state_pb2.JOB_STATE_SUCCEEDED)
    listed: list[int] = []
    after, end = 0, False
    while not end:
        page = service.training.ListJobEvents(
            pb.ListJobEventsRequest(job_id=started.ref.job_id, after_sequence=after, page_size=500)
        )
        assert len(page.events) <= 500
        listed += [event.sequence for event in page.events]
        after, end = page.next_sequence, page.end
    assert listed == list(range(1, last + 2))
    page = service.training.ListJobEvents(
        pb.ListJobEventsRequest(job_id=started.ref.job_id, event_kinds=["state_changed"], page_size=2)
    )
    assert [event.sequence for event in page.events] == [1, 2]
    assert not page.end
    page = service.training.ListJobEvents(
        pb.ListJobEventsRequest(
            job_id=started.ref.job_id, event_kinds=["state_changed"], after_sequence=page.next_sequence
        )
    )
    assert [event.sequence for event in page.events] == [last + 1]
    assert page.end


def test_history_thins_curves_out_and_forgets_what_a_resume_took_back(
    service: Service, worker: Worker
) -> None:
    service.create('queue: "history"')
    idle = worker("history")
    started = idle.wait_for_job()
    probe = event_pb2.Probe(step=5, layer_gradient_norm=[0.5, 0.25], gain_ratio=0.75)
    layers = [event_pb2.Layer(index=0, path="hidden.0"), event_pb2.Layer(index=1, path="output")]
    started.append(event_pb2.JobEvent(model_built=event_pb2.ModelBuilt(layers=layers)))
    steps = event_pb2.StepsRecorded(first_step=1, loss=[9.0] * 10, probes=[probe])
    started.append(event_pb2.JobEvent(steps_recorded=steps))
    started.append_steps(11, 100)
    started.hand_back(resume_at_step=500)
    started = idle.wait_for_job()
    rewound = event_pb2.AttemptRewound(resumed_at_step=400, message="step 500 is damaged")
    started.append(event_pb2.JobEvent(attempt_rewound=rewound))
    started.append_steps(401, 40)
    evaluation = event_pb2.EvaluationCompleted(
        split=state_pb2.SPLIT_VALIDATION, step=800, loss=0.5, error_ratio=0.125, macro_f1=0.75
    )
    started.append(event_pb2.JobEvent(evaluation_completed=evaluation))

    def history(**fields: Any) -> dict[tuple[str, str], Any]:
        request = pb.GetJobHistoryRequest(job_id=started.ref.job_id, **fields)
        return {(one.metric, one.layer): one for one in service.training.GetJobHistory(request).series}

    whole = history(max_points=10_000)
    assert list(whole["loss", ""].steps) == list(range(1, 801))
    assert whole["validation_error_ratio", ""].values == [0.125]
    fitting = history(metrics=["validation_macro_f1", "validation_perplexity"])
    assert {metric: list(one.values) for (metric, _), one in fitting.items()} == {
        "validation_macro_f1": [0.75]
    }
    thin = history(max_points=50, metrics=["loss"])["loss", ""]
    assert 2 <= len(thin.steps) <= 50
    assert thin.steps[-1] == 800
    assert list(thin.steps) == sorted(set(thin.steps))
    assert 9.0 in thin.values
    part = history(first_step=100, last_step=110, metrics=["loss"])["loss", ""]
    assert list(part.steps) == list(range(100, 111))
    probed = history(metrics=["layer_gradient_norm", "gain_ratio"], layers=["output"])
    assert probed["layer_gradient_norm", "output"].values == [0.25]
    assert probed["gain_ratio", ""].values == [0.75]
    assert ("layer_gradient_norm", "hidden.0") not in probed


def test_the_feed_brings_state_events_of_all_jobs_and_resumes(service: Service, worker: Worker) -> None:
    stream = service.training.WatchJobs(pb.WatchJobsRequest(), timeout=20)
    while next(stream).HasField("event"):  # until a heartbeat: the stream stands at its beginning
        pass
    queue = f"feed-{time.monotonic_ns()}"
    job = service.create(f'queue: "{queue}" name: "fed"')
    worker(queue).wait_for_job().finish(state_pb2.JOB_STATE_SUCCEEDED)
    seen: list[Any] = []
    while len(seen) < 3:
        frame = next(stream)
        if frame.job_id == job.job_id:
            seen.append(frame)
    stream.cancel()
    states = [frame.event.state_changed.state for frame in seen]
    assert states == [
        state_pb2.JOB_STATE_QUEUED,
        state_pb2.JOB_STATE_RUNNING,
        state_pb2.JOB_STATE_SUCCEEDED,
    ]
    assert {frame.name for frame in seen} == {"fed"}
    again = service.training.WatchJobs(pb.WatchJobsRequest(after_cursor=seen[0].cursor), timeout=20)
    resumed = [next(again), next(again)]
    again.cancel()
    assert [frame.cursor for frame in resumed] == [frame.cursor for frame in seen[1:]]


def test_a_malformed_feed_cursor_is_refused(service: Service, refusal: Refused) -> None:
    refused = refusal(lambda: next(service.training.WatchJobs(pb.WatchJobsRequest(after_cursor="yesterday"))))
    assert (refused.code, list(refused.fields)) == (CODE.INVALID_ARGUMENT, ["after_cursor"])
