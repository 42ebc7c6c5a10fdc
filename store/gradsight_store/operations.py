"""What an operation on the store is: a generator that says what to send and is told what came back.

An operation does no I/O. It yields steps; a driver (`store.Store` or `async_store.AsyncStore`) carries each out
and sends the outcome back in. So every rule about the store is written once, for threads and for asyncio alike.

```python
def worker_count() -> Operation[int]:
    (count,) = yield Pipeline([("ZCARD", keys.WORKERS)])
    return count

store.run(worker_count())            # or: await async_store.run(worker_count())
```

A driver may send a pipeline again when its reply was lost. Every mutation therefore carries an operation id by
which the store knows it again.
"""

import enum
import secrets
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from gradsight_store.settings import StoreSettings

Argument = str | bytes | int | float
Command = tuple[Argument, ...]


class JobRef(NamedTuple):
    """Which job: ids are unique within a tenant."""

    tenant: str
    job_id: str


class Answer(enum.Enum):
    """What became of a mutation."""

    APPLIED = "applied"
    ALREADY_APPLIED = "already_applied"
    """The same operation, or one with the same effect, had been applied before: nothing changed now."""
    FENCED = "fenced"
    """The caller's term is over; somebody else may hold the job. Stop."""


@dataclass(frozen=True)
class Pipeline:
    """Commands for one round trip; the outcome is the list of raw replies, bytes undecoded."""

    commands: Sequence[Command]


@dataclass(frozen=True)
class Blocking:
    """A call that blocks, on files say; the asyncio driver makes it in a thread. The outcome is its result."""

    call: Callable[[], Any]


@dataclass(frozen=True)
class ReadSettings:
    """The outcome is the driver's `StoreSettings`."""


Step = Pipeline | Blocking | ReadSettings
Result = TypeVar("Result")
Operation = Generator[Step, Any, Result]


def read_settings() -> Operation[StoreSettings]:
    """The settings of the driver that runs the operation."""
    settings = yield ReadSettings()
    assert isinstance(settings, StoreSettings)
    return settings


def new_operation_id() -> str:
    """An id for one intended mutation; kept by the caller for as long as it may try again."""
    return secrets.token_urlsafe(12)
