"""A client that has nothing of gradsight but an address: the contract comes from the reflection service.

Called with an address, a file and the names of a text and a target column. Uploads, trains, watches, and prints the
state that the job ended in.
"""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


class Service:
    """The methods of one service, made from its descriptor; messages are given as keyword arguments."""

    def __init__(self, channel: grpc.Channel, pool: descriptor_pool.DescriptorPool, name: str) -> None:
        self._channel = channel
        self._service = pool.FindServiceByName(name)

    def call(self, name: str, **fields: Any) -> Any:
        """One request, one response."""
        method, path, request = self._prepare(name, fields)
        answer = message_factory.GetMessageClass(method.output_type)
        return self._channel.unary_unary(path, _serialize, answer.FromString)(request, timeout=20)

    def send(self, name: str, chunks: Iterator[dict[str, Any]]) -> Any:
        """A stream of requests, one response."""
        method, path, _ = self._prepare(name, {})
        request = message_factory.GetMessageClass(method.input_type)
        answer = message_factory.GetMessageClass(method.output_type)
        send = self._channel.stream_unary(path, _serialize, answer.FromString)
        return send((request(**chunk) for chunk in chunks), timeout=20)

    def watch(self, name: str, **fields: Any) -> Any:
        """One request, a stream of responses."""
        method, path, request = self._prepare(name, fields)
        answer = message_factory.GetMessageClass(method.output_type)
        return self._channel.unary_stream(path, _serialize, answer.FromString)(request, timeout=90)

    def _prepare(self, name: str, fields: dict[str, Any]) -> tuple[Any, str, Any]:
        method = self._service.methods_by_name[name]
        request = message_factory.GetMessageClass(method.input_type)(**fields)
        return method, f"/{self._service.full_name}/{name}", request


def main(address: str, file: str, text: str, target: str) -> None:
    """Train on the file."""
    content = Path(file).read_bytes()
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {"gradsight.v1.TrainingService", "gradsight.v1.ArtifactService"} <= set(
            database.get_services()
        )
        pool = descriptor_pool.DescriptorPool(database)
        training, files = (
            Service(channel, pool, f"gradsight.v1.{name}") for name in ("TrainingService", "ArtifactService")
        )
        digest = upload(files, content, Path(file).name)
        spec = {
            "model": {"builtin": {"text_classifier": {}}},
            "data": {"train": {"artifact": digest}, "input_columns": [text], "target_column": target},
            "budget": {"steps": 50},
        }
        job = training.call("CreateJob", spec=spec).job
        frames = training.watch("WatchJob", job_id=job.job_id)
        sequences = [frame.event.sequence for frame in frames if frame.WhichOneof("frame") == "event"]
        assert sequences == list(range(1, len(sequences) + 1))
        job = training.call("GetJob", job_id=job.job_id).job
        states = job.DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number
        print(states[job.state].name, len(sequences), round(job.summary.test.error_ratio, 3))
    assert "gradsight" not in sys.modules


def upload(files: Service, content: bytes, name: str) -> str:
    """Make the service hold the content; returns its digest."""
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    kind = 1  # ARTIFACT_KIND_DATASET
    begun = files.call("CreateUpload", digest=digest, size_bytes=len(content), filename=name, kind=kind)
    if begun.upload_id:
        chunks = ({"upload_id": begun.upload_id, "offset": 0, "data": content} for _ in range(1))
        files.send("WriteUpload", chunks)
    return digest


def _serialize(message: Any) -> bytes:
    return bytes(message.SerializeToString())


if __name__ == "__main__":
    main(*sys.argv[1:])
