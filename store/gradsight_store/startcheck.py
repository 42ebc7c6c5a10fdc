"""Is this server fit to hold the truth, and do we know what is in it? Asked once, when a process starts.

By `INFO` alone: managed services block `CONFIG`. One primary is expected; Redis Cluster is not supported.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

from gradsight_store import keys
from gradsight_store.errors import SchemaTooNew, StoreUnfit
from gradsight_store.operations import Operation, Pipeline

SCHEMA_VERSION = 1
"""Form of everything that this gradsight writes. A store of a newer form is refused."""

OLDEST_VERSION = (6, 2)

Durability = Literal["checked", "managed"]
"""`managed`: the operator vouches that what was acknowledged survives, whatever the server says of its file."""


def check_store(durability: Durability = "checked", *, dev: bool = False) -> Operation[list[str]]:
    """Check the server and the schema version, which is written when the store has none.

    With `dev`, what is wrong with the server comes back as warnings, a sentence each; else the list is empty.

    Raises:
        StoreUnfit: The server could lose jobs as it is set up.
        SchemaTooNew: A newer gradsight wrote the store. `dev` makes no difference.
    """
    (info,) = yield Pipeline([("INFO",)])
    problems = list(_problems(parse_info(info), durability))
    if problems and not dev:
        raise problems[0]
    _, version = yield Pipeline(
        [("SETNX", keys.SCHEMA_VERSION, SCHEMA_VERSION), ("GET", keys.SCHEMA_VERSION)]
    )
    _require_known_schema(bytes(version))
    return [str(problem) for problem in problems]


def parse_info(reply: bytes) -> dict[str, str]:
    """The fields of an `INFO` reply; comments and blank lines are dropped."""
    lines = reply.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def _problems(info: Mapping[str, str], durability: Durability) -> Iterator[StoreUnfit]:
    version = _version(info)
    if version < OLDEST_VERSION:
        told = info.get("redis_version", "unknown")
        yield StoreUnfit(
            f"the store's server has version {told}, 6.2 is the oldest that works",
            "update it, or let `gradsight up` start its own",
        )
    if info.get("cluster_enabled", "0") != "0":
        yield StoreUnfit(
            "the store's server runs as Redis Cluster, which is not supported",
            "use a single primary, with replicas if you like",
        )
    if (role := info.get("role", "master")) != "master":
        yield StoreUnfit(
            f"the store's server is a {role} of another, which takes no writes",
            "point --store at its primary",
        )
    if info.get("maxmemory", "0") != "0" and (policy := info.get("maxmemory_policy", "?")) != "noeviction":
        yield StoreUnfit(
            f"the store's server may throw jobs away when its memory is full: maxmemory-policy is {policy}",
            "set maxmemory-policy to noeviction",
        )
    if durability == "checked" and info.get("aof_enabled") != "1":
        yield StoreUnfit(
            "the store's server would forget jobs when it restarts: its append-only file is off",
            "set appendonly to yes, or say --store-durability=managed when your provider keeps the data safe",
        )


def _version(info: Mapping[str, str]) -> tuple[int, int]:
    major, _, rest = info.get("redis_version", "").partition(".")
    minor = rest.partition(".")[0]
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (0, 0)


def _require_known_schema(version: bytes) -> None:
    if not version.isdigit():
        raise StoreUnfit(
            f"the key {keys.SCHEMA_VERSION} holds {version[:40]!r} instead of a number",
            "the database is used by something else: choose another with --store redis://HOST:PORT/NUMBER",
        )
    if int(version) > SCHEMA_VERSION:
        raise SchemaTooNew(int(version), SCHEMA_VERSION)
