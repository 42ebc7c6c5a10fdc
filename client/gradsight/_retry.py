"""When to try again: only when the service was not there, a bounded number of times, with growing random pauses."""

import dataclasses
import random
import time
from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message

from gradsight._effects import Call, Operation, Sleep
from gradsight._errors import Unavailable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patience:
    """How long calls and streams wait for a service that is away.

    Attributes:
        call_timeout: Longest wait for one answer of one call, in seconds; reports and comparisons, which are made for
            the call, may take six times as long.
        call_attempts: Most times one call is tried; only UNAVAILABLE is tried again.
        reconnect: Longest time a watch or a transfer goes without the service before it gives up, in seconds.
        first_pause: Pause before the second try, in seconds, on average; it doubles from try to try.
        longest_pause: Bound of the pauses, in seconds.
    """

    call_timeout: float = 10.0
    call_attempts: int = 6
    reconnect: float = 300.0
    first_pause: float = 0.1
    longest_pause: float = 2.0

    def pauses(self) -> Iterator[float]:
        """Yields the pauses between tries, for ever: half fixed, half random, so that many clients spread out."""
        pause = self.first_pause
        while True:
            yield pause * random.uniform(0.5, 1.5)
            pause = min(pause * 2, self.longest_pause)


def call(method: str, request: Message, patience: Patience, *, work: int = 1) -> Operation[Any]:
    """Calls a method that is safe to repeat, repeats it while the service is away, and returns its response.

    `work` says how many times as long as others the call may take: what is made for the call alone takes its time.
    """
    timeout, pauses = patience.call_timeout * work, patience.pauses()
    for _ in range(patience.call_attempts - 1):
        try:
            return (yield Call(method, request, timeout))
        except Unavailable:
            yield Sleep(next(pauses))
    return (yield Call(method, request, timeout))


def call_patiently(method: str, request: Message, patience: Patience) -> Operation[Any]:
    """Calls a method that is safe to repeat, of a service that has just answered: waits as long as a watch does."""
    pauses, deadline = patience.pauses(), time.monotonic() + patience.reconnect
    while True:
        try:
            return (yield from call(method, request, patience))
        except Unavailable:
            if time.monotonic() >= deadline:
                raise
            yield Sleep(next(pauses))
