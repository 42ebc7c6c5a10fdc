"""The gRPC server: its options, its services, its health. What it serves is put together in `serve.py`."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from gradsight.v1 import (
    artifact_service_pb2,
    artifact_service_pb2_grpc,
    training_service_pb2,
    training_service_pb2_grpc,
)
from gradsight_service.artifact_servicer import ArtifactServicer
from gradsight_service.calls import CallInterceptor
from gradsight_service.servicer import TrainingServicer

SERVICES = (
    training_service_pb2.DESCRIPTOR.services_by_name["TrainingService"].full_name,
    artifact_service_pb2.DESCRIPTOR.services_by_name["ArtifactService"].full_name,
)

_MOST_CONCURRENT_CALLS_BESIDE_WATCHERS = 1000

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),  # else a second server on the port takes half the calls instead of failing
    ("grpc.max_receive_message_length", 4 << 20),  # uploads come in chunks
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients may ping through idle streams: gRPC's own limit of one ping in five minutes cuts them off.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 9_000),
    ("grpc.http2.max_ping_strikes", 5),
    ("grpc.max_connection_age_grace_ms", 60_000),
)


class CannotListen(Exception):
    """The address is taken or is none of this machine's."""


class Server:
    """A server that is not started yet.

    Args:
        address: `host:port` or `unix:/path`; port 0 takes a free one.
        training: Implementation of the TrainingService.
        artifacts: Implementation of the ArtifactService.
        interceptor: What happens around every call.
        reflection: True: clients may ask for the contract.
        most_watchers: Streams that must fit beside the other calls.

    Raises:
        CannotListen: The address cannot be listened on.
    """

    def __init__(
        self,
        address: str,
        *,
        training: TrainingServicer,
        artifacts: ArtifactServicer,
        interceptor: CallInterceptor,
        reflection: bool,
        most_watchers: int,
    ) -> None:
        self._interceptor = interceptor
        self._health = health_aio.HealthServicer()
        self._serving = True
        self._server = grpc.aio.server(
            interceptors=[interceptor],
            options=_OPTIONS,
            maximum_concurrent_rpcs=most_watchers + _MOST_CONCURRENT_CALLS_BESIDE_WATCHERS,
        )
        training_service_pb2_grpc.add_TrainingServiceServicer_to_server(training, self._server)
        artifact_service_pb2_grpc.add_ArtifactServiceServicer_to_server(artifacts, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if reflection:
            _add_reflection(self._server)
        self.address = _listen(self._server, address)

    async def start(self) -> None:
        """Take calls."""
        await self.set_serving(True)
        await self._server.start()

    async def set_serving(self, serving: bool) -> None:
        """Say on the health service whether calls are welcome."""
        self._serving = serving
        status = health_pb2.HealthCheckResponse
        for service in ("", *SERVICES):
            await self._health.set(service, status.SERVING if serving else status.NOT_SERVING)

    async def leave_service(self) -> None:
        """Say NOT_SERVING for good."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """Let the calls in progress end, for at most `grace_s` seconds, then refuse and cut."""
        await self._interceptor.wait_idle(grace_s)
        # What is left are streams of others, health watches say, that never end by themselves.
        await self._server.stop(0.1)


def is_local(address: str) -> bool:
    """Whether only this machine can reach the address."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")


def _listen(server: grpc.aio.Server, address: str) -> str:
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise CannotListen(
            f"cannot listen on {address}: the port is taken or the address is not this machine's; "
            "end what uses it, or choose another with --address (GRADSIGHT_ADDRESS)"
        ) from error
    return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


def _add_reflection(server: grpc.aio.Server) -> None:
    names = (*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
