"""The store behind the service: a cancelled call stays cancelled, a slow one is bounded."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from gradsight_service.dispatcher import Dispatcher
from gradsight_service.store_access import StoreAccess
from gradsight_store.async_store import AsyncStore
from gradsight_store.clock import read_clock
from gradsight_store.embedded import EmbeddedStore, start_embedded
from gradsight_store.errors import StoreUnavailable
from gradsight_store.settings import StoreSettings


def test_a_call_that_is_cancelled_at_any_moment_ends(service_store: EmbeddedStore) -> None:
    async def run() -> None:
        driver = await AsyncStore.open(StoreSettings(url=service_store.url))
        store = StoreAccess(driver, registry=CollectorRegistry())

        async def ask() -> None:
            for _ in range(100):
                await store.run(read_clock())

        for turns in range(1, 60):
            task = asyncio.create_task(ask())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await driver.close()

    asyncio.run(run())


def test_the_dispatcher_ends_when_it_is_cancelled_at_any_moment(service_store: EmbeddedStore) -> None:
    async def run() -> None:
        driver = await AsyncStore.open(StoreSettings(url=service_store.url))
        store = StoreAccess(driver, registry=CollectorRegistry())
        for turns in range(1, 60):
            dispatcher = Dispatcher(store)
            task = asyncio.create_task(dispatcher.run())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=5)
            assert done
        await driver.close()

    asyncio.run(run())


def test_a_store_that_stands_still_is_given_up_and_remembered_as_away(tmp_path: Path) -> None:
    async def run(server: EmbeddedStore) -> None:
        driver = await AsyncStore.open(StoreSettings(url=server.url))
        store = StoreAccess(driver, registry=CollectorRegistry(), limit_s=0.3)
        assert await store.run(read_clock()) > 0
        os.kill(server.pid, signal.SIGSTOP)
        started = time.monotonic()
        try:
            with pytest.raises(StoreUnavailable):
                await store.run(read_clock())
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert time.monotonic() - started < 5
        assert store.away_s() > 0
        assert await store.run(read_clock()) > 0
        assert store.away_s() == 0
        await driver.close()

    with start_embedded(tmp_path) as server:
        asyncio.run(run(server))
