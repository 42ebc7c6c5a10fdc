"""A job's log, its compaction, the feed, and waiting for all of them, on a real store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from gradsight.v1.artifact_pb2 import ARTIFACT_KIND_HISTORY
from gradsight.v1.state_pb2 import JOB_STATE_QUEUED, JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED
from gradsight_store import attempts, jobs
from gradsight_store.artifact_records import list_artifacts
from gradsight_store.artifacts import Artifacts
from gradsight_store.async_store import AsyncStore
from gradsight_store.compaction import compact, overlong_logs
from gradsight_store.errors import ArtifactNotFound, JobNotFound
from gradsight_store.events import decode_segment, encode_segment, read_events
from gradsight_store.feed import newest_cursor, read_feed
from gradsight_store.operations import JobRef
from gradsight_store.settings import StoreSettings
from gradsight_store.store import Store

if TYPE_CHECKING:
    from tests.integration.conftest import Lab

Result = TypeVar("Result")
BOUND = 40


@pytest.fixture
def settings(store_url: str) -> StoreSettings:
    """A log of few events."""
    return StoreSettings.fast(url=store_url, log_max_events=BOUND)


def on_loop(settings: StoreSettings, use: Callable[[AsyncStore], Awaitable[Result]]) -> Result:
    """Run a coroutine function with the asyncio driver."""

    async def main() -> Result:
        opened = await AsyncStore.open(settings)
        try:
            return await use(opened)
        finally:
            await opened.close()

    return asyncio.run(main())


def test_pages_of_events_join_without_gap_or_duplicate(lab: Lab) -> None:
    ref, term = lab.start()
    for batch in range(20):
        lab.append(ref, term, batch)
    first = lab.run(read_events(ref, 0, 5, lab.artifacts))
    assert [event.sequence for event in first.events] == [1, 2, 3, 4, 5]
    assert (first.next_sequence, first.end, first.done, first.last_sequence) == (5, False, False, 23)
    last = lab.run(read_events(ref, 20, 5, lab.artifacts))
    assert (last.next_sequence, last.end, last.done) == (23, True, False)
    lab.run(attempts.finish(ref, term, state=JOB_STATE_SUCCEEDED, operation_id="f"))
    assert not lab.run(read_events(ref, 22, 1, lab.artifacts)).done
    assert lab.run(read_events(ref, 23, 5, lab.artifacts)).done
    assert lab.run(read_events(ref, 24, 5, lab.artifacts)).events == []


def test_events_of_an_unknown_job_are_not_found(lab: Lab) -> None:
    with pytest.raises(JobNotFound):
        lab.run(read_events(JobRef("default", "nothing"), 0, 5, lab.artifacts))


def test_an_overlong_log_moves_to_the_artifacts_and_reads_the_same(lab: Lab) -> None:
    ref, term = lab.start()
    for batch in range(3 * BOUND):
        lab.append(ref, term, batch)
        if lab.run(overlong_logs()):
            before = lab.events(ref)
            assert lab.run(compact(ref, lab.artifacts))
            assert lab.events(ref) == before
            assert lab.run(overlong_logs()) == []
    log = lab.events(ref, limit=1000)
    assert len(log) == 3 + 3 * BOUND
    assert log == lab.events(ref, limit=1)
    segments = lab.run(list_artifacts("default", job_id=ref.job_id, kind=ARTIFACT_KIND_HISTORY)).artifacts
    assert len(segments) > 2
    assert segments[-1].filename.startswith("events-1-")
    assert not lab.run(compact(ref, lab.artifacts)), "within its bound"
    assert not lab.run(compact(JobRef("default", "nothing"), lab.artifacts))


def test_a_log_of_few_but_large_events_is_bounded_by_its_bytes(lab: Lab, settings: StoreSettings) -> None:
    tight = Store.open(StoreSettings(url=settings.url, log_max_bytes=4000))
    ref, term = lab.start()
    lab.store = tight
    for batch in range(10):
        lab.append(ref, term, batch, size=200)
    assert lab.run(overlong_logs()) == [ref]
    assert lab.run(compact(ref, lab.artifacts))
    assert lab.run(read_events(ref, 0, 100, lab.artifacts)).end
    lab.append(ref, term, 10, size=200)
    assert lab.run(overlong_logs()) == [], "the bytes that moved count no more"
    tight.close()


def test_a_missing_segment_is_an_error_not_a_gap(lab: Lab, tmp_path: Path) -> None:
    ref, term = lab.start()
    for batch in range(BOUND):
        lab.append(ref, term, batch)
    lab.run(compact(ref, lab.artifacts))
    with pytest.raises(ArtifactNotFound):
        lab.run(read_events(ref, 0, 5, Artifacts(tmp_path / "elsewhere")))


def test_readers_see_every_event_once_while_the_log_is_written_and_compacted(
    lab: Lab, settings: StoreSettings
) -> None:
    ref, term = lab.start()
    count, problems = 600, []

    def read() -> None:
        store, seen = Store.open(settings), 0
        try:
            while seen < count + 3:
                page = store.run(read_events(ref, seen, 13, lab.artifacts))
                sequences = [event.sequence for event in page.events]
                if sequences != list(range(seen + 1, seen + 1 + len(sequences))):
                    problems.append((seen, sequences))
                    return
                seen = page.next_sequence
        finally:
            store.close()

    def shorten() -> None:
        store = Store.open(settings)
        try:
            while readers[0].is_alive():
                for overlong in store.run(overlong_logs()):
                    store.run(compact(overlong, lab.artifacts))
        finally:
            store.close()

    readers = [threading.Thread(target=read) for _ in range(2)]
    shorteners = [threading.Thread(target=shorten) for _ in range(2)]
    for thread in readers + shorteners:
        thread.start()
    for batch in range(count):
        lab.append(ref, term, batch)
    for thread in readers + shorteners:
        thread.join(60)
    assert problems == []
    assert [event.steps_recorded.first_step for event in lab.events(ref)[3:]] == [
        batch * 4 + 1 for batch in range(count)
    ]
    assert lab.run(read_events(ref, 0, 1, lab.artifacts)).first_available == 1


def test_segments_keep_events_bit_by_bit(lab: Lab) -> None:
    ref, term = lab.start()
    for batch in range(5):
        lab.append(ref, term, batch)
    log = lab.events(ref)
    assert decode_segment(encode_segment(log)) == log
    assert decode_segment(encode_segment([])) == []


def test_the_feed_tells_the_state_events_of_all_jobs_of_a_tenant(lab: Lab) -> None:
    other = lab.create(tenant="other")
    ref, term = lab.start(name="intents")
    lab.append(ref, term, 0)
    entries = lab.run(read_feed("default", "0", 100))
    assert [(entry.job_id, entry.name, entry.event.state_changed.state) for entry in entries] == [
        (ref.job_id, "intents", JOB_STATE_QUEUED),
        (ref.job_id, "intents", JOB_STATE_RUNNING),
    ]
    assert [entry.event for entry in entries] == lab.events(ref)[:2]
    assert lab.run(read_feed("default", entries[0].cursor, 100)) == entries[1:]
    assert lab.run(read_feed("default", lab.run(newest_cursor("default")), 100)) == []
    assert lab.run(read_feed("other", "0", 1))[0].job_id == other.job_id
    assert lab.run(newest_cursor("nobody")) == "0"


@pytest.mark.parametrize("cursor", ["", "newest", "$", "1-2-3", "-1"])
def test_a_made_up_feed_cursor_is_refused(lab: Lab, cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        lab.run(read_feed("default", cursor, 10))


def test_waiting_for_events_wakes_for_the_jobs_with_news(lab: Lab, settings: StoreSettings) -> None:
    (ref, term), quiet = lab.start(), lab.create()

    async def watch(opened: AsyncStore) -> None:
        assert await opened.wait_for_events({ref: 3, quiet: 1}, 20) == {}
        known = await opened.wait_for_events({ref: 1, quiet: 1}, 5000)
        assert [event.sequence for event in known[ref]] == [2, 3]
        waiting = asyncio.create_task(opened.wait_for_events({ref: 3, quiet: 1}, 5000))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(lab.append, ref, term, 0)
        news = await waiting
        assert list(news) == [ref]
        assert news[ref] == lab.events(ref)[3:]
        assert await opened.wait_for_events({}, 1) == {}

    on_loop(settings, watch)


def test_a_wait_longer_than_the_command_time_limit_is_fine(lab: Lab, settings: StoreSettings) -> None:
    ref = lab.create()

    async def watch(opened: AsyncStore) -> None:
        assert await opened.wait_for_events({ref: 1}, 1500) == {}

    on_loop(settings, watch)


def test_a_cancelled_wait_disturbs_nobody(lab: Lab, settings: StoreSettings) -> None:
    ref = lab.create()

    async def watch(opened: AsyncStore) -> None:
        for _ in range(20):
            waiting = asyncio.create_task(opened.wait_for_events({ref: 1}, 5000))
            await asyncio.sleep(0.002)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert (await opened.run(jobs.get_job(ref))).job_id == ref.job_id

    on_loop(settings, watch)


def test_waiting_for_the_feed_and_for_work(lab: Lab, settings: StoreSettings) -> None:
    async def watch(opened: AsyncStore) -> None:
        cursor = await opened.wait_for_work("", 5000)
        assert await opened.wait_for_work(cursor, 20) == cursor
        feed = asyncio.create_task(opened.wait_for_feed("default", "0", 5000))
        work = asyncio.create_task(opened.wait_for_work(cursor, 5000))
        await asyncio.sleep(0.05)
        ref = await asyncio.to_thread(lab.create)
        assert [entry.job_id for entry in await feed] == [ref.job_id]
        cursor, before = await work, cursor
        assert cursor != before
        await asyncio.to_thread(lab.worker)
        assert await opened.wait_for_work(cursor, 5000) != cursor

    on_loop(settings, watch)
