"""What `INFO` says decides; servers that cannot be had here are judged by their reply."""

import pytest

from gradsight_store.errors import StoreUnfit
from gradsight_store.operations import Pipeline
from gradsight_store.startcheck import SCHEMA_VERSION, check_store, parse_info

FIT = {
    "redis_version": "7.2.4",
    "valkey_version": "9.1.2",
    "role": "master",
    "aof_enabled": "1",
    "maxmemory": "0",
    "maxmemory_policy": "noeviction",
    "cluster_enabled": "0",
}


def check(info: dict[str, str], dev: bool = False) -> list[str]:
    """Run the check against a server with this reply."""
    reply = "# Server\r\n" + "".join(f"{name}:{value}\r\n" for name, value in info.items())
    operation = check_store(dev=dev)
    assert next(operation) == Pipeline([("INFO",)])
    try:
        operation.send([reply.encode()])
        operation.send([1, str(SCHEMA_VERSION).encode()])
    except StopIteration as stop:
        warnings: list[str] = stop.value
        return warnings
    raise AssertionError("the check sends twice")


def test_a_fit_server_passes() -> None:
    assert check(FIT) == []
    assert check({**FIT, "redis_version": "6.2.0"}) == []
    assert check({**FIT, "redis_version": "10.0.1"}) == []


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"redis_version": "6.0.16"}, "has version 6.0.16, 6.2 is the oldest"),
        ({"redis_version": ""}, "6.2 is the oldest"),
        ({"cluster_enabled": "1"}, "Redis Cluster, which is not supported; use a single primary"),
        ({"role": "slave"}, "is a slave of another"),
        ({"aof_enabled": "0"}, "append-only file is off"),
        ({"maxmemory": "1048576", "maxmemory_policy": "allkeys-lfu"}, "maxmemory-policy is allkeys-lfu"),
    ],
)
def test_an_unfit_server_is_refused_or_warned_of(changed: dict[str, str], sentence: str) -> None:
    with pytest.raises(StoreUnfit, match=sentence):
        check({**FIT, **changed})
    (warning,) = check({**FIT, **changed}, dev=True)
    assert sentence in warning


def test_development_hears_of_every_problem() -> None:
    assert len(check({**FIT, "role": "slave", "aof_enabled": "0", "cluster_enabled": "1"}, dev=True)) == 3


def test_an_info_reply_is_read_without_its_headings() -> None:
    reply = b"# Server\r\nredis_version:7.2.4\r\nexecutable:/a:b\r\n\r\n# Memory\r\nmaxmemory:0\r\n"
    assert parse_info(reply) == {"redis_version": "7.2.4", "executable": "/a:b", "maxmemory": "0"}
