"""Carries out operations over a blocking channel."""

import time
from collections.abc import Generator
from typing import Any, TypeVar

import grpc

from gradsight import _rpc
from gradsight._effects import Call, Compute, Effect, Emit, Open, Operation, Receive, Send, Sleep

T = TypeVar("T")


class Driver:
    """One channel to one service; safe to use from several threads."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = grpc.insecure_channel(address, options=_rpc.CHANNEL_OPTIONS)

    def run(self, operation: Operation[T]) -> T:
        """Returns what the operation returns; what it emits is dropped."""
        values = self.iterate(operation)
        while True:
            try:
                next(values)
            except StopIteration as stop:
                result: T = stop.value
                return result

    def iterate(self, operation: Operation[T]) -> Generator[Any, None, T]:
        """Yields what the operation emits; closing the iterator closes its stream."""
        stream = _Stream(self._channel)
        try:
            effect = operation.send(None)
            while True:
                if isinstance(effect, Emit):
                    yield effect.value
                    effect = operation.send(None)
                    continue
                try:
                    outcome = self._perform(effect, stream)
                except grpc.RpcError as error:
                    failure: Exception = _rpc.translate(error, self._address)
                except OSError as error:
                    failure = error
                else:
                    effect = operation.send(outcome)
                    continue
                effect = operation.throw(failure)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            operation.close()
            stream.close()

    def _perform(self, effect: Effect, stream: "_Stream") -> Any:
        match effect:
            case Call(name, request, timeout):
                path, read = _rpc.method(name)
                return self._channel.unary_unary(path, _rpc.serialize, read)(request, timeout=timeout)
            case Send(name, requests):
                path, read = _rpc.method(name)
                return self._channel.stream_unary(path, _rpc.serialize, read)(requests)
            case Open(name, request, timeout):
                stream.open(name, request, timeout)
            case Receive():
                return stream.receive()
            case Sleep(seconds):
                time.sleep(seconds)
            case Compute(function):
                return function()
            case Emit():
                raise AssertionError("emitted values go to the caller")
        return None

    def close(self) -> None:
        """Closes the connection; streams that are still read end with an error."""
        self._channel.close()


class _Stream:
    """The one stream that an operation has open."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._call: Any = None

    def open(self, name: str, request: Any, timeout: float | None) -> None:
        self.close()
        path, read = _rpc.method(name)
        self._call = self._channel.unary_stream(path, _rpc.serialize, read)(request, timeout=timeout)

    def receive(self) -> Any:
        return next(self._call, None)

    def close(self) -> None:
        if self._call is not None:
            self._call.cancel()
