"""A real store for every test that asks for one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from gradsight_store.artifacts import Artifacts
from gradsight_store.embedded import EmbeddedStore, start_embedded
from gradsight_store.settings import StoreSettings
from gradsight_store.store import Store


@pytest.fixture(scope="session")
def store_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    """A server with an append-only file; tests that kill servers start their own."""
    with start_embedded(tmp_path_factory.mktemp("store"), 0) as server:
        yield server


@pytest.fixture
def store_url(store_server: EmbeddedStore) -> str:
    """Address of an empty store."""
    with redis.Redis.from_url(store_server.url) as client:
        client.flushall()
    return store_server.url


@pytest.fixture
def settings(store_url: str) -> StoreSettings:
    """Settings with short leases for an empty store."""
    return StoreSettings.fast(url=store_url)


@pytest.fixture
def store(settings: StoreSettings) -> Iterator[Store]:
    """The sync driver on an empty store."""
    opened = Store.open(settings)
    yield opened
    opened.close()


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    """An empty artifact root."""
    return Artifacts(tmp_path / "artifacts")
