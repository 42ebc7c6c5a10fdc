"""How the drivers behave when the store does not: away, silent, forgetful, full, restarted."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from gradsight.v1.spec_pb2 import JobSpec
from gradsight_store import jobs, scripts
from gradsight_store.async_store import AsyncStore
from gradsight_store.embedded import EmbeddedStore, start_embedded
from gradsight_store.errors import StoreError, StoreFull, StoreUnavailable
from gradsight_store.operations import Blocking, Operation, Pipeline, new_operation_id
from gradsight_store.settings import StoreSettings
from gradsight_store.store import Store


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedStore]:
    """A server that a test may harm."""
    with start_embedded(tmp_path / "store", 0) as started:
        yield started


def run_sync(settings: StoreSettings, operation: Operation[object]) -> object:
    store = Store.open(settings)
    try:
        return store.run(operation)
    finally:
        store.close()


def run_async(settings: StoreSettings, operation: Operation[object]) -> object:
    async def main() -> object:
        store = await AsyncStore.open(settings)
        try:
            return await store.run(operation)
        finally:
            await store.close()

    return asyncio.run(main())


Runner = Callable[[StoreSettings, Operation[object]], object]
both = pytest.mark.parametrize("run", [run_sync, run_async])


def create() -> Operation[object]:
    return jobs.create_job(
        "default",
        JobSpec(queue="default"),
        request_id="",
        request_digest="d",
        operation_id=new_operation_id(),
    )


@both
def test_no_server_is_unavailable_at_once(run: Runner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    begin = time.monotonic()
    with pytest.raises(StoreUnavailable, match="does not answer") as failed:
        run(StoreSettings(url=f"redis://:secret@127.0.0.1:{port}/0"), create())
    assert time.monotonic() - begin < 5
    assert "secret" not in str(failed.value)


@both
def test_a_silent_server_is_unavailable_within_three_seconds(run: Runner, server: EmbeddedStore) -> None:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        begin = time.monotonic()
        with pytest.raises(StoreUnavailable, match="no answer in time"):
            run(StoreSettings(url=server.url), create())
        assert time.monotonic() - begin < 8
    finally:
        os.kill(server.pid, signal.SIGCONT)


@both
def test_scripts_are_loaded_again_when_the_server_forgot_them(run: Runner, store_url: str) -> None:
    settings = StoreSettings(url=store_url)
    run(settings, create())
    with redis.Redis.from_url(store_url) as client:
        client.script_flush()
    run(settings, create())


def test_idle_connections_survive_a_restart_of_the_server(tmp_path: Path) -> None:
    with start_embedded(tmp_path, 0) as first:
        settings = StoreSettings(url=first.url)
        store = Store.open(settings)
        store.run(create())
        port = first.port
    with pytest.raises(StoreUnavailable):
        store.run(create())
    with start_embedded(tmp_path, port):
        store.run(create())
        assert len(store.run(jobs.list_jobs("default", page_size=10)).jobs) == 2
    store.close()


def test_asyncio_connections_survive_a_restart_of_the_server(tmp_path: Path) -> None:
    async def use(port: int | None, store: AsyncStore) -> None:
        await asyncio.gather(*(store.run(create()) for _ in range(10)))

    with asyncio.Runner() as runner:
        with start_embedded(tmp_path, 0) as first:
            store = runner.run(AsyncStore.open(StoreSettings(url=first.url)))
            runner.run(use(first.port, store))
        with start_embedded(tmp_path, first.port):
            runner.run(use(first.port, store))
            page = runner.run(store.run(jobs.list_jobs("default", page_size=100)))
            assert len(page.jobs) == 20
        runner.run(store.close())


@both
def test_a_full_server_says_so_and_nothing_is_written(run: Runner, server: EmbeddedStore) -> None:
    with redis.Redis.from_url(server.url) as client:
        for command in scripts.load_commands():
            client.execute_command(*command)
        client.config_set("maxmemory", "1")
        before = client.dbsize()
        with pytest.raises(StoreFull):
            run(StoreSettings(url=server.url), create())
        assert client.dbsize() == before
        client.config_set("maxmemory", "0")
    run(StoreSettings(url=server.url), create())


@both
def test_a_refused_command_is_an_error_of_the_store(run: Runner, store_url: str) -> None:
    def wrong() -> Operation[object]:
        yield Pipeline([("SET", "gradsight:test", "text"), ("LPUSH", "gradsight:test", "1")])
        return None

    with pytest.raises(StoreError, match="refused a command"):
        run(StoreSettings(url=store_url), wrong())


@both
def test_a_blocking_step_gives_its_result_or_its_error_to_the_operation(run: Runner, store_url: str) -> None:
    def operation() -> Operation[object]:
        try:
            yield Blocking(lambda: 1 // 0)
        except ZeroDivisionError:
            return (yield Blocking(lambda: "recovered"))
        return None

    assert run(StoreSettings(url=store_url), operation()) == "recovered"


def test_cancelled_calls_never_mix_up_replies(store_url: str) -> None:
    def echo(text: str) -> Operation[bytes]:
        (reply,) = yield Pipeline([("ECHO", text)])
        assert isinstance(reply, bytes)
        return reply

    async def main() -> int:
        store = await AsyncStore.open(StoreSettings(url=store_url))
        finished = 0

        async def call(number: int) -> None:
            nonlocal finished
            task = asyncio.create_task(store.run(echo(str(number))))
            if number % 3 == 0:
                await asyncio.sleep(0.0002 * (number % 5))
                task.cancel()
            try:
                assert await task == str(number).encode()
                finished += 1
            except asyncio.CancelledError:
                pass

        for start in range(0, 900, 60):
            await asyncio.gather(*(call(number) for number in range(start, start + 60)))
        await store.close()
        return finished

    assert asyncio.run(main()) >= 600


def test_a_unix_socket_serves_both_drivers(tmp_path: Path) -> None:
    with start_embedded(tmp_path, None) as server:
        settings = StoreSettings(url=server.url)
        run_sync(settings, create())
        run_async(settings, create())
        store = Store.open(settings)
        assert len(store.run(jobs.list_jobs("default", page_size=10)).jobs) == 2
        assert store.url == server.url
        store.close()
