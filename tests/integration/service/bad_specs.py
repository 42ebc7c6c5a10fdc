"""Specs that are wrong in one place: made of sound ones, of files and of graphs."""

import copy
import hashlib
import io
import itertools
import json
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gradsight._graph_operators import operators
from gradsight.v1 import artifact_service_pb2 as files_pb
from gradsight.v1 import spec_pb2

Service = Any
Builder = Callable[[Service], spec_pb2.JobSpec]

LINEAR = "aten.linear.default"
NODE: dict[str, Any] = {
    "name": "linear",
    "operator": LINEAR,
    "arguments": [{"input": "x"}, {"parameter": "fc.weight"}, {"parameter": "fc.bias"}],
}
PROCEDURE = {"nodes": [NODE], "scores": {"node": "linear"}}
GRAPH: dict[str, Any] = {
    "format": "gradsight.graph",
    "version": 1,
    "torch": "2.13.0",
    "operators": {LINEAR: operators()[LINEAR].schema},
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 2]}],
    "parameters": [
        {"name": name, "dtype": "float32", "shape": shape, "trainable": True, "tied_to": ""}
        for name, shape in (("fc.weight", [2, 2]), ("fc.bias", [2]))
    ],
    "buffers": [],
    "kinds": {"fc": "Linear"},
    "scores": {"name": "scores", "dtype": "float32", "shape": ["batch", 2]},
    "training": PROCEDURE,
    "evaluation": PROCEDURE,
}
WEIGHTS = {"fc.weight": [2, 2], "fc.bias": [2]}


def said(text: str) -> Builder:
    """A sound spec with parts in protobuf's text format."""
    return lambda service: service.spec(text)


def rows(content: bytes, filename: str) -> Builder:
    """A sound spec over this file."""

    def build(service: Service) -> spec_pb2.JobSpec:
        spec: spec_pb2.JobSpec = service.spec()
        spec.data.train.artifact = stored(service, content, filename)
        return spec

    return build


def program(
    weights: bytes | None = None, columns: Sequence[str] = ("width", "height"), **changes: Any
) -> Builder:
    """A spec of a program whose graph has these members in place of sound ones."""
    graph = json.dumps(GRAPH | changes).encode()
    return program_of(graph, safetensors(WEIGHTS) if weights is None else weights, columns)


def program_of(graph: bytes, weights: bytes, columns: Sequence[str] = ("width", "height")) -> Builder:
    """A spec of a program with these two files."""

    def build(service: Service) -> spec_pb2.JobSpec:
        spec: spec_pb2.JobSpec = service.spec()
        spec.data.input_columns.extend(columns)
        spec.model.program.graph = stored(service, graph, "graph.json")
        spec.model.program.weights = stored(service, weights, "weights.safetensors")
        return spec

    return build


def stored(service: Service, content: bytes, filename: str) -> str:
    """A file that the service holds, however it came there: a first chunk of few bytes hides what it is."""
    digest = digest_of(content)
    created = service.files.CreateUpload(
        files_pb.CreateUploadRequest(digest=digest, size_bytes=len(content), filename=filename)
    )
    if created.upload_id:
        bounds = [0, 1, *range(1 << 19, len(content), 1 << 19), len(content)]
        parts = [(start, content[start:end]) for start, end in itertools.pairwise(bounds)]
        service.files.WriteUpload(
            iter(
                files_pb.WriteUploadRequest(upload_id=created.upload_id, offset=start, data=data)
                for start, data in parts
                if data
            )
        )
    return digest


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def nodes(*entries: dict[str, Any]) -> dict[str, Any]:
    """A procedure of these nodes, each a change of a sound one."""
    return {
        "nodes": [NODE | entry for entry in entries],
        "scores": {"node": entries[-1].get("name", "linear")},
    }


def parameters(shape: list[int]) -> list[dict[str, Any]]:
    changed = copy.deepcopy(GRAPH["parameters"])
    changed[0]["shape"] = shape
    return changed  # type: ignore[no-any-return]


def safetensors(shapes: dict[str, list[int]], **entry: Any) -> bytes:
    """A file of float32 zeros; `entry` changes what the header says of the last tensor."""
    header: dict[str, Any] = {}
    place = 0
    for name, shape in shapes.items():
        stop = place + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [place, stop]}
        place = stop
    header[list(shapes)[-1]] |= entry
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(place)


def tar(name: str, kind: bytes = tarfile.REGTYPE) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    return file.getvalue()


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return file.getvalue()


def npy(shape: str, descr: str) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(128)


def long_header() -> bytes:
    return (27 << 20).to_bytes(8, "little") + bytes(1 << 16)


def chain(count: int) -> dict[str, Any]:
    """A procedure of so many nodes, each reading the one before."""
    entries = [NODE | {"name": "n0"}]
    for number in range(1, count):
        arguments = [{"node": f"n{number - 1}"}, *NODE["arguments"][1:]]
        entries.append(NODE | {"name": f"n{number}", "arguments": arguments})
    return {"nodes": entries, "scores": {"node": f"n{count - 1}"}}
