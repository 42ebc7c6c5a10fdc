"""Closed-loop clients: each makes one call after the other, all of them in one process of their own."""

import asyncio
import multiprocessing
import secrets
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc

from gradsight.v1 import training_service_pb2 as pb

CREATE_JOB = "/gradsight.v1.TrainingService/CreateJob"
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)
_WARM_UP_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the clients call. `request` is sent as it is; to creates, a request id of their own is added."""

    address: str
    method: str
    request: bytes
    clients: int
    seconds: float


@dataclass(frozen=True)
class Calls:
    """What was measured after the warm-up."""

    per_second: float
    seconds: list[float]
    """Latency of each call."""
    made: int
    """Calls in all, the warm-up's included."""


class ClientProcess:
    """A process that lives for the whole benchmark, so that its start costs no measurement."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    def start(self, load: Load) -> "Future[Calls]":
        """Begin to call; the future has the measurement."""
        return self._pool.submit(_measure, load)

    def run(self, load: Load) -> Calls:
        """Call and measure."""
        return self.start(load).result()

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def _measure(load: Load) -> Calls:
    return asyncio.run(_all_clients(load))


async def _all_clients(load: Load) -> Calls:
    begin = time.perf_counter() + _WARM_UP_S
    clients = [_one_client(load, begin, begin + load.seconds) for _ in range(load.clients)]
    measured = await asyncio.gather(*clients)
    latencies = [seconds for client, _ in measured for seconds in client]
    return Calls(len(latencies) / load.seconds, latencies, made=sum(made for _, made in measured))


async def _one_client(load: Load, begin: float, end: float) -> tuple[list[float], int]:
    """Latencies of the calls that ended within the time, and how many were made, over a connection of its own."""
    latencies, made = [], 0
    next_request = _requests(load)
    async with grpc.aio.insecure_channel(load.address, options=_OWN_CONNECTION) as channel:
        call: Any = channel.unary_unary(load.method)
        sent = time.perf_counter()
        while sent < end:
            await call(next_request())
            made += 1
            answered = time.perf_counter()
            if begin <= answered < end:
                latencies.append(answered - sent)
            sent = answered
    return latencies, made


def _requests(load: Load) -> Callable[[], bytes]:
    if load.method != CREATE_JOB:
        return lambda: load.request

    def next_request() -> bytes:
        # Serialized messages one after the other are one message.
        return load.request + pb.CreateJobRequest(request_id=secrets.token_hex(8)).SerializeToString()

    return next_request
