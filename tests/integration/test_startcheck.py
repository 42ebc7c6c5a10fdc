"""A server that could lose jobs, and a store of a newer form, are refused in one sentence; `dev` only warns."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from gradsight_store import keys
from gradsight_store.async_store import AsyncStore
from gradsight_store.embedded import server_binary, start_embedded
from gradsight_store.errors import SchemaTooNew, StoreUnavailable, StoreUnfit
from gradsight_store.settings import StoreSettings
from gradsight_store.startcheck import SCHEMA_VERSION, check_store
from gradsight_store.store import Store


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[StoreSettings]:
    with start_embedded(tmp_path) as embedded:
        yield StoreSettings(url=embedded.url)


@pytest.fixture
def store(settings: StoreSettings) -> Iterator[Store]:
    opened = Store.open(settings)
    yield opened
    opened.close()


@pytest.fixture
def admin(settings: StoreSettings) -> Iterator[redis.Redis]:
    with redis.Redis(**settings.redis_arguments()) as client:
        yield client


def test_the_embedded_store_is_fit_and_gets_its_schema_version(store: Store, admin: redis.Redis) -> None:
    assert store.run(check_store()) == []
    assert admin.get(keys.SCHEMA_VERSION) == str(SCHEMA_VERSION).encode()
    assert store.run(check_store()) == []


def test_the_check_runs_on_asyncio_too(settings: StoreSettings) -> None:
    async def check() -> list[str]:
        opened = await AsyncStore.open(settings)
        try:
            return await opened.run(check_store())
        finally:
            await opened.close()

    assert asyncio.run(check()) == []


@pytest.mark.parametrize(
    ("settings_of_server", "problem", "remedy"),
    [
        ({"appendonly": "no"}, "append-only file is off", "set appendonly to yes"),
        ({"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}, "allkeys-lru", "to noeviction"),
    ],
)
def test_a_server_that_could_lose_jobs_is_refused(
    store: Store, admin: redis.Redis, settings_of_server: dict[str, str], problem: str, remedy: str
) -> None:
    for name, value in settings_of_server.items():
        admin.config_set(name, value)
    with pytest.raises(StoreUnfit, match=rf"{problem}; .*{remedy}") as refused:
        store.run(check_store())
    assert "\n" not in str(refused.value)
    assert not admin.exists(keys.SCHEMA_VERSION)
    (warning,) = store.run(check_store(dev=True))
    assert warning == str(refused.value)


def test_an_eviction_policy_without_a_memory_limit_does_no_harm(store: Store, admin: redis.Redis) -> None:
    admin.config_set("maxmemory-policy", "allkeys-lru")
    assert store.run(check_store()) == []


def test_the_operator_can_vouch_for_durability_and_for_nothing_else(store: Store, admin: redis.Redis) -> None:
    admin.config_set("appendonly", "no")
    assert store.run(check_store("managed")) == []
    admin.config_set("maxmemory", "100mb")
    admin.config_set("maxmemory-policy", "volatile-ttl")
    with pytest.raises(StoreUnfit, match="volatile-ttl"):
        store.run(check_store("managed"))


def test_a_replica_is_refused(store: Store, admin: redis.Redis) -> None:
    admin.replicaof("127.0.0.1", 1)
    with pytest.raises(
        StoreUnfit, match="is a slave of another, which takes no writes; point --store at its primary"
    ):
        store.run(check_store())


def test_a_store_of_a_newer_form_is_refused_even_for_development(store: Store, admin: redis.Redis) -> None:
    admin.set(keys.SCHEMA_VERSION, SCHEMA_VERSION + 1)
    with pytest.raises(
        SchemaTooNew, match=f"schema version {SCHEMA_VERSION + 1}, .*update gradsight"
    ) as refused:
        store.run(check_store(dev=True))
    assert (refused.value.found, refused.value.supported) == (SCHEMA_VERSION + 1, SCHEMA_VERSION)
    assert admin.get(keys.SCHEMA_VERSION) == str(SCHEMA_VERSION + 1).encode()


def test_a_database_of_something_else_is_refused(store: Store, admin: redis.Redis) -> None:
    admin.set(keys.SCHEMA_VERSION, "two")
    with pytest.raises(StoreUnfit, match="choose another with --store"):
        store.run(check_store())


def test_the_shipped_configuration_of_a_store_is_fit(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "deploy" / "store" / "valkey.conf"
    configuration = tmp_path / "valkey.conf"
    configuration.write_text(shipped.read_text().replace("dir /data", f"dir {tmp_path}"))
    socket = tmp_path / "store.sock"
    command = [str(server_binary()), str(configuration), "--port", "0", "--unixsocket", str(socket)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not socket.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        store = Store.open(StoreSettings(url=f"unix://{socket}"))
        assert store.run(check_store()) == []
        store.close()
    finally:
        server.terminate()
        server.wait(10)


def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    store = Store.open(StoreSettings(url=f"unix://{tmp_path}/nothing.sock"))
    with pytest.raises(StoreUnavailable, match=r"nothing\.sock"):
        store.run(check_store())
