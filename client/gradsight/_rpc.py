"""The wire, for both clients: methods by name, channel options, and what gRPC's errors mean. Imports grpc."""

import functools
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from gradsight._errors import FieldViolation, GradsightError, error_for
from gradsight._reasons import DOMAIN
from gradsight.v1 import artifact_service_pb2, training_service_pb2

DEFAULT_ADDRESS = "127.0.0.1:7117"

CHANNEL_OPTIONS: list[tuple[str, int]] = [
    # gRPC's own pauses between connection attempts grow to two minutes, during which every call fails at once.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A machine that vanished without closing its connections is noticed by these pings, not by silence.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # A proxy that a machine sets for the web is none for a service on loopback or in the same cluster.
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # Clients in one process do not share a connection that one of them lost.
    ("grpc.use_local_subchannel_pool", 1),
]


@functools.cache
def method(name: str) -> tuple[str, Any]:
    """Returns a method's path on the wire and the reader of its responses."""
    for module in (training_service_pb2, artifact_service_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            if name in service.methods_by_name:
                response = message_factory.GetMessageClass(service.methods_by_name[name].output_type)
                return f"/{service.full_name}/{name}", response.FromString
    raise AssertionError(f"the contract has no method {name}")


def serialize(message: Any) -> bytes:
    """Returns the bytes of a request."""
    data: bytes = message.SerializeToString()
    return data


def translate(error: grpc.RpcError, address: str) -> GradsightError:
    """Returns the exception of ours that a gRPC error means; it hides the gRPC error from tracebacks."""
    code, text = error.code().name, error.details() or ""
    info, fields = error_details_pb2.ErrorInfo(), list[FieldViolation]()
    for detail in _details(error):
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            detail.Unpack(bad)
            fields += [FieldViolation(each.field, each.description) for each in bad.field_violations]
    reason = info.reason if info.domain == DOMAIN else None
    if code == "UNAVAILABLE" and not reason:
        # gRPC nests its causes; the last one is the one that says something.
        text = (
            f"no gradsight service answers at {address} ({text.rsplit(': ', 1)[-1].lower() or code.lower()})"
        )
    translated = error_for(code, reason, text or code, fields=fields, metadata=info.metadata)
    translated.__cause__ = None  # and so `raise … from None`, wherever it is raised
    return translated


def _details(error: grpc.RpcError) -> list[Any]:
    trailers: Any = error.trailing_metadata() or ()
    for key, value in trailers:
        if key == "grpc-status-details-bin":
            try:
                return list(status_pb2.Status.FromString(value).details)
            except DecodeError:
                return []
    return []
