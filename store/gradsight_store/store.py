"""The sync driver: runs operations over blocking sockets."""

import time
from typing import Any, Self

import redis
from redis.exceptions import ResponseError
from redis.retry import Retry

from gradsight_store import scripts
from gradsight_store.connections import (
    FAILURES,
    MAX_CONNECTIONS,
    Patience,
    checked,
    client_arguments,
    lacks_script,
    no_backoff,
)
from gradsight_store.operations import Blocking, Command, Operation, Pipeline, ReadSettings, Result, Step
from gradsight_store.settings import StoreSettings


class Store:
    """Runs operations for threads. May be shared between threads; after a fork the child opens its own."""

    def __init__(self, settings: StoreSettings) -> None:
        self.settings = settings
        arguments = client_arguments(settings, Retry(no_backoff(), 0))
        self._client = redis.Redis(max_connections=MAX_CONNECTIONS, **arguments)
        self._pool: Any = self._client.connection_pool

    @classmethod
    def open(cls, settings: StoreSettings) -> Self:
        """Make a store; it connects on first use."""
        return cls(settings)

    @property
    def url(self) -> str:
        """Address without credentials."""
        return self.settings.url

    def run(self, operation: Operation[Result]) -> Result:
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
                    outcome = self._carry_out(step)
                except Exception as error:
                    step = operation.throw(error)
                else:
                    step = operation.send(outcome)
        except StopIteration as stop:
            result: Result = stop.value
            return result

    def close(self) -> None:
        """Close all connections. The store connects again when it is used again."""
        self._client.close()
        self._pool.disconnect()

    def _carry_out(self, step: Step) -> Any:
        match step:
            case Pipeline(commands):
                return self._send(list(commands))
            case Blocking(call):
                return call()
            case ReadSettings():
                return self.settings

    def _send(self, commands: list[Command]) -> list[Any]:
        patience = Patience(self.settings)
        while True:
            try:
                replies = self._exchange(commands)
                if lacks_script(replies):
                    checked(self._exchange(scripts.load_commands()), self.url)
                    replies = self._exchange(commands)
            except FAILURES as failure:
                time.sleep(patience.delay_after(failure))
            else:
                return checked(replies, self.url)

    def _exchange(self, commands: list[Command]) -> list[Any]:
        connection = self._pool.get_connection()
        try:
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            return [_reply(connection) for _ in commands]
        except BaseException:
            connection.disconnect()  # replies may still come: nobody else must read them
            raise
        finally:
            self._pool.release(connection)


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error
