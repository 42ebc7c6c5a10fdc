"""The asyncio driver: runs operations, and waits for events, feed entries and work on connections of its own."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Self

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.exceptions import ResponseError

from gradsight.v1 import event_pb2
from gradsight_store import keys, scripts
from gradsight_store.connections import (
    FAILURES,
    MAX_CONNECTIONS,
    Patience,
    checked,
    client_arguments,
    lacks_script,
    no_backoff,
    packed,
)
from gradsight_store.events import parse_event
from gradsight_store.feed import FeedEntry, checked_cursor, parse_entry
from gradsight_store.operations import (
    Blocking,
    Command,
    JobRef,
    Operation,
    Pipeline,
    ReadSettings,
    Result,
    Step,
)
from gradsight_store.settings import StoreSettings

_EVENTS_PER_JOB = 500
_ANSWER_MARGIN_S = 2.0


class AsyncStore:
    """Runs operations on one event loop. Cancelling a call is safe: its connection is dropped."""

    def __init__(self, settings: StoreSettings) -> None:
        self.settings = settings
        arguments = client_arguments(settings, Retry(no_backoff(), 0))
        # Time limits are set around each exchange. redis-py's own would send through `asyncio.wait_for`, which on
        # Python 3.11 swallows a cancellation that comes as the bytes go out, and costs a task for every command.
        arguments["socket_timeout"] = None
        self._commands = _client(arguments, settings.command_timeout_s)
        self._waits = _client(arguments, None)

    @classmethod
    async def open(cls, settings: StoreSettings) -> Self:
        """Make a store; it connects on first use."""
        return cls(settings)

    @property
    def url(self) -> str:
        """Address without credentials."""
        return self.settings.url

    async def run(self, operation: Operation[Result]) -> Result:
        """Carry an operation out and return its result.

        Raises:
            StoreUnavailable: The store gave no answer in time.
            StoreFull: Its memory is used up.
            StoreError: What the operation's own docstring names.
        """
        try:
            step = next(operation)
            while True:
                try:
                    outcome = await self._carry_out(step)
                except Exception as error:
                    step = operation.throw(error)
                else:
                    step = operation.send(outcome)
        except StopIteration as stop:
            result: Result = stop.value
            return result

    async def wait_for_events(
        self, cursors: Mapping[JobRef, int], block_ms: int
    ) -> dict[JobRef, list[event_pb2.JobEvent]]:
        """Wait until some job has events after its cursor, or `block_ms` are over; jobs with news only.

        At most 500 events a job. When a job's first event does not follow its cursor, the part between is in a
        segment: use `events.read_events` for that job.

        Raises:
            StoreUnavailable: The store gave no answer.
        """
        refs = {keys.events(ref).encode(): ref for ref in cursors}
        ids = [f"{cursor}-0" for cursor in cursors.values()]
        streams = await self._read_streams(list(refs), ids, _EVENTS_PER_JOB, block_ms)
        return {
            refs[key]: [parse_event(entry_id, fields) for entry_id, fields in entries]
            for key, entries in streams
        }

    async def wait_for_feed(self, tenant: str, cursor: str, block_ms: int) -> list[FeedEntry]:
        """Wait for entries of a tenant's feed after a cursor; none when `block_ms` are over.

        Raises:
            ValueError: The cursor is malformed.
            StoreUnavailable: The store gave no answer.
        """
        key = keys.feed(tenant).encode()
        streams = await self._read_streams([key], [checked_cursor(cursor)], _EVENTS_PER_JOB, block_ms)
        return [parse_entry(entry_id, fields) for _, entries in streams for entry_id, fields in entries]

    async def wait_for_work(self, cursor: str, block_ms: int) -> str:
        """Wait until a job began to wait or a worker became free, or `block_ms` are over; returns the new cursor.

        Begin with the cursor "": it answers at once, so that nothing from before is missed.

        Raises:
            StoreUnavailable: The store gave no answer.
        """
        if not cursor:
            newest = ("XREVRANGE", keys.WAKE, "+", "-", "COUNT", 1)
            (entries,) = await self._send(self._commands, [newest], self.settings.command_timeout_s)
            return entries[0][0].decode() if entries else "0-0"
        streams = await self._read_streams([keys.WAKE.encode()], [cursor], 100, block_ms)
        return streams[0][1][-1][0].decode() if streams else cursor

    async def close(self) -> None:
        """Close all connections. The store connects again when it is used again."""
        await self._commands.aclose()
        await self._waits.aclose()

    async def _carry_out(self, step: Step) -> Any:
        match step:
            case Pipeline(commands):
                return await self._send(self._commands, list(commands), self.settings.command_timeout_s)
            case Blocking(call):
                return await asyncio.to_thread(call)
            case ReadSettings():
                return self.settings

    async def _read_streams(
        self, stream_keys: Sequence[bytes], ids: Sequence[str], count: int, block_ms: int
    ) -> list[Any]:
        if not stream_keys:
            await asyncio.sleep(block_ms / 1000)
            return []
        # BLOCK 0 would wait for ever
        head = ("XREAD", "COUNT", count, "BLOCK", max(1, block_ms), "STREAMS")
        time_limit_s = block_ms / 1000 + _ANSWER_MARGIN_S
        (streams,) = await self._send(self._waits, [(*head, *stream_keys, *ids)], time_limit_s)
        return streams or []

    async def _send(
        self, client: redis.asyncio.Redis, commands: list[Command], time_limit_s: float | None
    ) -> list[Any]:
        patience = Patience(self.settings)
        while True:
            try:
                async with asyncio.timeout(time_limit_s):
                    replies = await _exchange(client, commands)
                    if lacks_script(replies):
                        checked(await _exchange(client, scripts.load_commands()), self.url)
                        replies = await _exchange(client, commands)
            except FAILURES as failure:
                await asyncio.sleep(patience.delay_after(failure))
            else:
                return checked(replies, self.url)


def _client(arguments: dict[str, Any], wait_s: float | None) -> redis.asyncio.Redis:
    pool_class = redis.asyncio.BlockingConnectionPool
    connection_class: type[redis.asyncio.Connection] = redis.asyncio.Connection
    arguments = dict(arguments)
    if "unix_socket_path" in arguments:
        arguments["path"] = arguments.pop("unix_socket_path")
        connection_class = redis.asyncio.UnixDomainSocketConnection  # type: ignore[assignment]
    elif arguments.pop("ssl", False):
        connection_class = redis.asyncio.SSLConnection
    pool = pool_class(
        max_connections=MAX_CONNECTIONS, timeout=wait_s, connection_class=connection_class, **arguments
    )
    return redis.asyncio.Redis.from_pool(pool)


async def _exchange(client: redis.asyncio.Redis, commands: list[Command]) -> list[Any]:
    pool: Any = client.connection_pool
    connection = await pool.get_connection()
    try:
        await connection.send_packed_command(packed(commands), check_health=False)
        return [await _reply(connection) for _ in commands]
    except BaseException:
        await connection.disconnect(nowait=True)  # replies may still come: nobody else must read them
        raise
    finally:
        await pool.release(connection)


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
