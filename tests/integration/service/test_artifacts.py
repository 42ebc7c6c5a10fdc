"""Files go in by content, whole and verified, go on after a break, and come out as they went in."""

import hashlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
import pytest

from gradsight.v1 import artifact_pb2
from gradsight.v1 import artifact_service_pb2 as pb

Service = Any
Refused = Callable[[Callable[[], Any]], Any]

CODE = grpc.StatusCode
CHUNK = 1 << 20


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def begin(service: Service, content: bytes, filename: str = "rows.csv", **fields: Any) -> Any:
    announced = {"digest": digest_of(content), "size_bytes": len(content), "filename": filename, **fields}
    return service.files.CreateUpload(pb.CreateUploadRequest(**announced))


def chunks(upload_id: str, content: bytes, start: int = 0) -> list[pb.WriteUploadRequest]:
    return [
        pb.WriteUploadRequest(upload_id=upload_id, offset=at, data=content[at : at + CHUNK])
        for at in range(start, len(content), CHUNK)
    ]


def download(service: Service, digest: str, offset: int = 0) -> bytes:
    parts: list[bytes] = []
    for part in service.files.DownloadArtifact(pb.DownloadArtifactRequest(digest=digest, offset=offset)):
        assert part.offset == offset + sum(len(known) for known in parts)
        assert 0 < len(part.data) <= CHUNK
        parts.append(part.data)
    return b"".join(parts)


def test_a_file_comes_out_as_it_went_in_and_goes_in_once(service: Service) -> None:
    content = os.urandom(3 * CHUNK + 5)
    upload = begin(service, content)
    written = service.files.WriteUpload(iter(chunks(upload.upload_id, content)))
    assert written.committed_bytes == len(content)
    assert written.artifact.kind == artifact_pb2.ARTIFACT_KIND_DATASET
    assert written.artifact.HasField("create_time")
    assert download(service, digest_of(content)) == content
    assert download(service, digest_of(content), offset=3 * CHUNK) == content[3 * CHUNK :]
    again = begin(service, content)
    assert (again.upload_id, again.artifact) == ("", written.artifact)
    got = service.files.GetArtifact(pb.GetArtifactRequest(digest=digest_of(content))).artifact
    assert got == written.artifact


def test_an_upload_goes_on_where_it_broke_off(service: Service) -> None:
    content = os.urandom(2 * CHUNK + 100)
    upload_id = begin(service, content).upload_id
    first = service.files.WriteUpload(iter(chunks(upload_id, content)[:1]))
    assert (first.committed_bytes, first.HasField("artifact")) == (CHUNK, False)
    stand = service.files.GetUpload(pb.GetUploadRequest(upload_id=upload_id))
    assert stand.committed_bytes == CHUNK
    rest = service.files.WriteUpload(iter(chunks(upload_id, content)))  # the first chunk again is accepted
    assert rest.artifact.digest == digest_of(content)
    ended = service.files.GetUpload(pb.GetUploadRequest(upload_id=upload_id))
    assert ended.artifact == rest.artifact


def test_a_chunk_that_leaves_a_gap_is_refused_with_the_right_place(
    service: Service, refusal: Refused
) -> None:
    content = os.urandom(2 * CHUNK)
    upload_id = begin(service, content).upload_id
    refused = refusal(lambda: service.files.WriteUpload(iter(chunks(upload_id, content)[1:])))
    assert (refused.code, refused.reason) == (CODE.ABORTED, "UPLOAD_OFFSET_CONFLICT")
    assert refused.metadata == {"expected_offset": "0"}


def test_other_bytes_than_announced_are_refused_and_discarded(service: Service, refusal: Refused) -> None:
    content = os.urandom(100)
    upload_id = begin(service, content).upload_id
    refused = refusal(lambda: service.files.WriteUpload(iter(chunks(upload_id, os.urandom(100)))))
    assert (refused.code, refused.reason) == (CODE.INVALID_ARGUMENT, "DIGEST_MISMATCH")
    refused = refusal(lambda: service.files.GetUpload(pb.GetUploadRequest(upload_id=upload_id)))
    assert (refused.code, refused.reason) == (CODE.NOT_FOUND, "UPLOAD_NOT_FOUND")


@pytest.mark.parametrize(
    ("fields", "path", "reason"),
    [
        ({"digest": "sha256:xyz"}, "digest", "INVALID_REQUEST"),
        ({"size_bytes": 0}, "size_bytes", "INVALID_REQUEST"),
        ({"size_bytes": -4}, "size_bytes", "INVALID_REQUEST"),
        ({"size_bytes": 1 << 50}, "size_bytes", "UPLOAD_TOO_LARGE"),
        ({"filename": ""}, "filename", "INVALID_REQUEST"),
        ({"filename": "../../etc/passwd"}, "filename", "INVALID_REQUEST"),
        ({"filename": "a\\b"}, "filename", "INVALID_REQUEST"),
        ({"filename": "a\u202eb"}, "filename", "INVALID_REQUEST"),
        ({"filename": "x" * 129}, "filename", "INVALID_REQUEST"),
        ({"kind": artifact_pb2.ARTIFACT_KIND_RESULT}, "kind", "INVALID_REQUEST"),
        (
            {"kind": artifact_pb2.ARTIFACT_KIND_GRAPH, "size_bytes": 17 << 20},
            "size_bytes",
            "UPLOAD_TOO_LARGE",
        ),
    ],
)
def test_a_malformed_announcement_is_refused(
    service: Service, refusal: Refused, fields: dict[str, Any], path: str, reason: str
) -> None:
    refused = refusal(lambda: begin(service, b"content", **fields))
    assert (refused.code, refused.reason) == (CODE.INVALID_ARGUMENT, reason)
    assert list(refused.fields) == [path]


def test_a_chunk_beyond_the_limit_is_refused(service: Service, refusal: Refused) -> None:
    content = os.urandom(2 * CHUNK)
    chunk = pb.WriteUploadRequest(upload_id=begin(service, content).upload_id, data=content)
    refused = refusal(lambda: service.files.WriteUpload(iter([chunk])))
    assert (refused.code, refused.reason) == (CODE.INVALID_ARGUMENT, "UPLOAD_TOO_LARGE")


def test_an_upload_that_is_none_is_not_found(service: Service, refusal: Refused) -> None:
    for upload_id, reason in (("0" * 32, "UPLOAD_NOT_FOUND"), ("../x", "INVALID_REQUEST")):
        request = pb.WriteUploadRequest(upload_id=upload_id, data=b"x")
        assert refusal(partial(service.files.WriteUpload, iter([request]))).reason == reason
    assert refusal(lambda: service.files.WriteUpload(iter([]))).reason == "INVALID_REQUEST"


def test_a_file_that_is_none_is_not_found(service: Service, refusal: Refused) -> None:
    digest = "sha256:" + "f" * 64
    for call in (
        lambda: service.files.GetArtifact(pb.GetArtifactRequest(digest=digest)),
        lambda: list(service.files.DownloadArtifact(pb.DownloadArtifactRequest(digest=digest))),
    ):
        refused = refusal(call)
        assert (refused.code, refused.reason) == (CODE.NOT_FOUND, "ARTIFACT_NOT_FOUND")
    digest = service.upload(b"a,b\n1,2\n", "small.csv")
    beyond = pb.DownloadArtifactRequest(digest=digest, offset=100)
    assert refusal(lambda: list(service.files.DownloadArtifact(beyond))).fields == {
        "offset": "got 100, allowed 0 to 8"
    }


def test_uploads_are_listed_in_pages(service: Service, refusal: Refused) -> None:
    made = {(service.upload(b"a,b\n%d,2\n" % n, f"listed-{n}.csv"), f"listed-{n}.csv") for n in range(5)}
    token, seen = "", []
    while True:
        page = service.files.ListArtifacts(pb.ListArtifactsRequest(page_size=2, page_token=token))
        seen += [(artifact.digest, artifact.filename) for artifact in page.artifacts]
        token = page.next_page_token
        if not token:
            break
    assert made <= set(seen)
    assert len(seen) == len(set(seen))
    refused = refusal(lambda: service.files.ListArtifacts(pb.ListArtifactsRequest(page_token="!")))
    assert list(refused.fields) == ["page_token"]
