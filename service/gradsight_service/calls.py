"""What happens around every call: parsing, refusals, figures, logs. Handlers only see valid messages and raise.

Handlers never build a status themselves: they raise `CallError`, or let an error of the store pass. Anything else is
our own mistake; its text stays in the log under an id, and only the id leaves.
"""

from __future__ import annotations

import asyncio
import inspect
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from prometheus_client import CollectorRegistry, Counter, Histogram

from gradsight._reasons import Reason
from gradsight_service.errors import CallError, from_store
from gradsight_store.errors import StoreError

log = structlog.get_logger()

if TYPE_CHECKING:
    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
else:
    Context = grpc.aio.ServicerContext  # generic in its type stubs only

_Behaviour: TypeAlias = "Callable[[Any, Context], Awaitable[Any]]"

_DETAILS_KEY = "grpc-status-details-bin"
_LEAST_TIME_S = 0.01
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class CallFigures:
    """The ecosystem's own figures of a gRPC server, by type, service, method and code."""

    def __init__(self, registry: CollectorRegistry) -> None:
        names = ("grpc_type", "grpc_service", "grpc_method")
        self._handled = Counter(
            "grpc_server_handled_total",
            "RPCs completed on the server, regardless of success or failure.",
            (*names, "grpc_code"),
            registry=registry,
        )
        self._seconds = Histogram(
            "grpc_server_handling_seconds",
            "Time from the arrival of an RPC to its end on the server, in seconds.",
            names,
            buckets=_BUCKETS_S,
            registry=registry,
        )

    def record(self, kind: str, method: str, code: grpc.StatusCode, seconds: float) -> None:
        """Count one finished call of `/service/method`."""
        service, _, name = method.lstrip("/").partition("/")
        self._handled.labels(kind, service, name, _code_name(code)).inc()
        self._seconds.labels(kind, service, name).observe(seconds)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler once, when its method is first called."""

    def __init__(self, figures: CallFigures) -> None:
        self._figures = figures
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """The wrapped handler of the called method; an unknown method gets one that says so."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return self._wrap("/unknown/unknown", _unknown_method_handler())
            wrapped = self._wrapped[method] = self._wrap(method, handler)
        return wrapped

    async def wait_idle(self, timeout_s: float) -> bool:
        """Wait until no unary call and no upload is being answered; False when the time is over first."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def _wrap(self, method: str, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
        parse = _parser(method, handler.request_deserializer)
        answer = _serializer(handler.response_serializer)
        make: Any
        behaviour: _Behaviour
        match handler.request_streaming, handler.response_streaming:
            case False, False:
                kind, make, behaviour = (
                    "unary",
                    grpc.unary_unary_rpc_method_handler,
                    _on_one(handler.unary_unary, parse),
                )
            case True, False:
                kind, make = "client_stream", grpc.stream_unary_rpc_method_handler
                behaviour = _on_stream(handler.stream_unary, parse)
            case False, True:
                kind, make = "server_stream", grpc.unary_stream_rpc_method_handler
                behaviour = _on_one(_writing(handler.unary_stream), parse)
            case _:
                kind, make = "bidi_stream", grpc.stream_stream_rpc_method_handler
                behaviour = _on_stream(_writing(handler.stream_stream), parse)
        guarded = self._guard(kind, method, behaviour)
        return cast("grpc.RpcMethodHandler[Any, Any]", make(guarded, None, answer))

    def _guard(self, kind: str, method: str, behaviour: _Behaviour) -> _Behaviour:
        awaited = kind in ("unary", "client_stream")

        async def guarded(request: Any, context: Context) -> Any:
            started = time.perf_counter()
            code = grpc.StatusCode.OK
            self._enter(awaited)
            try:
                return await behaviour(request, context)
            except asyncio.CancelledError:
                # Swallowing it would leak the call inside gRPC.
                code = _cancelled_code(context)
                raise
            except grpc.aio.AbortError:
                code = context.code()
                raise
            except Exception as error:
                if context.cancelled() or context.done():
                    code = grpc.StatusCode.CANCELLED
                    raise
                refusal = _refusal(method, error)
                code = refusal.code
                await abort(context, refusal)
            finally:
                self._leave(awaited)
                self._figures.record(kind, method, code, time.perf_counter() - started)

        return guarded

    def _enter(self, awaited: bool) -> None:
        if awaited:
            self._in_flight += 1
            self._idle.clear()

    def _leave(self, awaited: bool) -> None:
        if awaited:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()


def time_left(context: Context) -> float | None:
    """Seconds until the caller's deadline; None without one.

    Raises:
        CallError: There is not enough left to do anything.
    """
    left = context.time_remaining()
    if left is not None and left < _LEAST_TIME_S:
        raise CallError(Reason.DEADLINE_EXCEEDED, "no time left before the caller's deadline; allow more")
    return cast("float | None", left)


async def abort(context: Context, refusal: CallError) -> None:
    """End the call with a rich status. Raises always."""
    status = refusal.status()
    trailers = ((_DETAILS_KEY, status.SerializeToString()),)
    await context.abort(refusal.code, refusal.message, trailing_metadata=trailers)


def _refusal(method: str, error: Exception) -> CallError:
    if isinstance(error, CallError):
        return error
    if isinstance(error, StoreError) and type(error) is not StoreError:
        return from_store(error)
    reference = secrets.token_hex(4)
    log.error("call failed", method=method, error_id=reference, exc_info=error)
    return CallError(Reason.INTERNAL, f"internal error, id {reference}", metadata={"error_id": reference})


def _parser(method: str, deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    # gRPC's own answer to unparsable bytes is UNKNOWN with the name of a Python class in it.
    name = f"{method.rpartition('/')[2]}Request"

    def parse(data: bytes) -> Any:
        try:
            return deserialize(data) if deserialize else data
        except DecodeError as error:
            raise CallError(Reason.INVALID_REQUEST, f"the request is not a valid {name}") from error

    return parse


def _serializer(serialize: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
    # A watched event is serialized once for all who watch it, and then passes here as bytes.
    def answer(message: Message | bytes) -> bytes:
        if isinstance(message, bytes):
            return message
        return serialize(message) if serialize else message.SerializeToString()

    return answer


def _on_one(behaviour: _Behaviour, parse: Callable[[bytes], Any]) -> _Behaviour:
    async def run(data: bytes, context: Context) -> Any:
        request = parse(data)
        time_left(context)
        return await behaviour(request, context)

    return run


def _on_stream(behaviour: _Behaviour, parse: Callable[[bytes], Any]) -> _Behaviour:
    async def run(stream: AsyncIterator[bytes], context: Context) -> Any:
        async def parsed() -> AsyncIterator[Any]:
            async for data in stream:
                yield parse(data)

        time_left(context)
        return await behaviour(parsed(), context)

    return run


def _writing(behaviour: Any) -> _Behaviour:
    """The streaming handler as one that writes; a generator's own clean-up would wait for the garbage collector."""
    if not inspect.isasyncgenfunction(behaviour):
        return cast("_Behaviour", behaviour)

    async def run(request: Any, context: Context) -> None:
        responses = behaviour(request, context)
        try:
            async for response in responses:
                await context.write(response)
        finally:
            await responses.aclose()

    return run


def _unknown_method_handler() -> grpc.RpcMethodHandler[Any, Any]:
    async def refuse(_requests: AsyncIterator[bytes], _context: Context) -> None:
        raise CallError(
            Reason.UNKNOWN_METHOD,
            "the service does not know this method; it is older than the client",
        )

    return grpc.stream_stream_rpc_method_handler(refuse)


def _cancelled_code(context: Context) -> grpc.StatusCode:
    left = context.time_remaining()
    return grpc.StatusCode.DEADLINE_EXCEEDED if left is not None and left <= 0 else grpc.StatusCode.CANCELLED


def _code_name(code: grpc.StatusCode) -> str:
    # The ecosystem writes OK as it is and the others in camel case: InvalidArgument.
    return "OK" if code is grpc.StatusCode.OK else code.name.title().replace("_", "")
