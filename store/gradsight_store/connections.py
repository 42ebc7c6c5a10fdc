"""What both drivers share: how clients are made, when a pipeline is sent again, what a failure is called.

redis-py would send any command again up to ten times; here it never does. A pipeline is sent again by the driver,
at most twice and within a time limit, which is safe because every mutation is known by its operation id.
"""

import time
from collections.abc import Sequence
from typing import Any

from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gradsight_store.errors import StoreError, StoreFull, StoreUnavailable
from gradsight_store.operations import Command
from gradsight_store.settings import StoreSettings

FAILURES = (RedisConnectionError, RedisTimeoutError, OSError)
"""What says nothing about whether the commands were carried out."""
MAX_CONNECTIONS = 32
_MOST_TRIES = 3
_DELAY_S = 0.02


def client_arguments(settings: StoreSettings, retry: Any) -> dict[str, Any]:
    """Arguments for a connection pool: address, credentials, short time limits, the given retry policy."""
    arguments = settings.redis_arguments()
    arguments |= {
        "socket_timeout": settings.command_timeout_s,
        "socket_connect_timeout": settings.connect_timeout_s,
        "socket_keepalive": True,
        "retry": retry,
        "protocol": 2,
        "health_check_interval": 0,
    }
    if "unix_socket_path" in arguments:
        del arguments["socket_keepalive"]
    return arguments


def no_backoff() -> NoBackoff:
    """The back-off for a retry policy that never retries."""
    return NoBackoff()


class Patience:
    """Says after each failure of a pipeline how long to wait before it is sent again, or gives up."""

    def __init__(self, settings: StoreSettings) -> None:
        self._url = settings.url
        self._give_up_at = time.monotonic() + 2 * settings.command_timeout_s
        self._tries = 0

    def delay_after(self, failure: Exception) -> float:
        """Seconds to wait before the next try.

        Raises:
            StoreUnavailable: Enough was tried.
        """
        self._tries += 1
        if self._tries >= _MOST_TRIES or time.monotonic() >= self._give_up_at:
            raise StoreUnavailable(self._url, _reason(failure)) from failure
        return _DELAY_S * self._tries


def lacks_script(replies: Sequence[Any]) -> bool:
    """Whether the server does not know a script (any more); nothing of that command was carried out."""
    return any(isinstance(reply, NoScriptError) for reply in replies)


def checked(replies: list[Any], url: str) -> list[Any]:
    """The replies themselves.

    Raises:
        StoreFull: The server's memory is used up.
        StoreUnavailable: The server only reads at the moment.
        StoreError: It refused a command for another reason.
    """
    for reply in replies:
        if not isinstance(reply, ResponseError):
            continue
        # Redis 6.2 wraps what a script ran into in words of its own, which redis-py does not know.
        if isinstance(reply, OutOfMemoryError) or "OOM command not allowed" in str(reply):
            raise StoreFull(url) from reply
        if isinstance(reply, ReadOnlyError) or "-READONLY" in str(reply):
            raise StoreUnavailable(url, "it is a replica that takes no writes") from reply
        raise StoreError(f"the store at {url} refused a command: {reply}") from reply
    return replies


def packed(commands: Sequence[Command]) -> bytes:
    """The commands as they travel. redis-py's own packing took a third of the time of creating a job."""
    parts: list[bytes] = []
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for argument in command:
            data = argument if isinstance(argument, bytes) else str(argument).encode()
            parts += (b"$%d\r\n" % len(data), data, b"\r\n")
    return b"".join(parts)


def _reason(failure: Exception) -> str:
    if isinstance(failure, (RedisTimeoutError, TimeoutError)):
        return "no answer in time"
    return str(failure).rstrip(".") or type(failure).__name__
