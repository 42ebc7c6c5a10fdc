"""What an operation may ask of the outside world, so that it can be written once for the sync and the async client.

An operation is a generator: it yields effects and is sent their outcomes; a failed effect is raised inside it. The
clients' drivers (`_driver.py`, `aio.py`) carry the effects out and contain no decisions of their own.
"""

import dataclasses
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

from google.protobuf.message import Message

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Call:
    """Call a method once and wait for its one answer. Outcome: the response."""

    method: str
    request: Message
    timeout: float


@dataclasses.dataclass(frozen=True)
class Send:
    """Stream requests to a method and wait for its one answer. Outcome: the response."""

    method: str
    requests: Iterator[Message]


@dataclasses.dataclass(frozen=True)
class Open:
    """Begin to receive a stream of responses, in place of the one that was open. Outcome: None."""

    method: str
    request: Message
    timeout: float | None


@dataclasses.dataclass(frozen=True)
class Receive:
    """Wait for the open stream's next response. Outcome: the response, or None at its orderly end."""


@dataclasses.dataclass(frozen=True)
class Sleep:
    """Wait. Outcome: None."""

    seconds: float


@dataclasses.dataclass(frozen=True)
class Compute:
    """Run a function that reads or writes files, where it blocks nobody. Outcome: what it returns."""

    function: Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Emit:
    """Hand a value to the caller's loop. Outcome: None, once the caller wants the next one."""

    value: Any


Effect = Call | Send | Open | Receive | Sleep | Compute | Emit
Operation = Generator[Effect, Any, T]
