"""The Lua scripts beside this file, as commands. Sent by digest; a driver loads them when the server asks."""

import hashlib
from functools import cache
from importlib import resources
from typing import NamedTuple

from gradsight_store.operations import Argument, Command

NAMES = (
    "commit",
    "append",
    "renew_lease",
    "renew_worker",
    "remove_worker",
    "free_worker",
    "enqueue",
    "record_artifact",
    "forget_artifact",
)


class Script(NamedTuple):
    """A script and the digest that names it."""

    source: bytes
    digest: str


def call(name: str, keys: list[str], arguments: list[Argument]) -> Command:
    """The command that runs a script."""
    return ("EVALSHA", script(name).digest, len(keys), *keys, *arguments)


def load_commands() -> list[Command]:
    """Commands that make all scripts known to a server."""
    return [("SCRIPT", "LOAD", script(name).source) for name in NAMES]


@cache
def script(name: str) -> Script:
    """A script by its file's name."""
    source = (resources.files(__package__) / f"{name}.lua").read_bytes()
    return Script(source, hashlib.sha1(source, usedforsecurity=False).hexdigest())
