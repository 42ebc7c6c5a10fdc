"""Files arrive whole, once, and go on where a broken connection left them."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

import gradsight
from gradsight import ArtifactKind, Patience

if TYPE_CHECKING:
    from tests.unit.client.conftest import LittleService, Relay

QUICK = Patience(first_pause=0.02, longest_pause=0.2, reconnect=10.0)


@pytest.fixture
def client(service: "LittleService") -> Iterator[gradsight.Client]:
    with gradsight.Client(service.address, patience=QUICK) as client:
        yield client


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"".join(b"row %d\n" % number for number in range(700_000)))
    return path


def test_a_file_arrives_in_chunks_and_is_sent_once(
    service: "LittleService", client: gradsight.Client, large: Path
) -> None:
    artifact = client.upload(large)
    assert artifact.digest == f"sha256:{hashlib.sha256(large.read_bytes()).hexdigest()}"
    assert service.blobs[artifact.digest][1] == large.read_bytes()
    chunks = service.calls.count("WriteUpload")
    assert chunks > 10
    assert client.upload(large).digest == artifact.digest
    assert service.calls.count("WriteUpload") == chunks


def test_an_upload_goes_on_where_a_cut_connection_left_it(
    service: "LittleService", relay: "Relay", large: Path
) -> None:
    relay.cut_after = 3_000_000
    with gradsight.Client(relay.address, patience=QUICK) as client:
        artifact = client.upload(large)
    assert service.blobs[artifact.digest][1] == large.read_bytes()
    sent = service.calls.count("WriteUpload") * 512 * 1024
    assert sent < 1.5 * artifact.size_bytes
    assert service.calls.count("GetUpload") == 2


def test_an_upload_that_the_service_forgot_begins_again(
    service: "LittleService", client: gradsight.Client, large: Path
) -> None:
    service.refuse("GetUpload", grpc.StatusCode.NOT_FOUND, "UPLOAD_NOT_FOUND", "expired")
    artifact = client.upload(large)
    assert artifact.digest in service.blobs
    assert service.calls.count("CreateUpload") == 2


def test_a_file_that_changes_meanwhile_is_refused(
    service: "LittleService", client: gradsight.Client, large: Path
) -> None:
    create = service.CreateUpload

    def change_then_create(request: Any, context: Any) -> Any:
        large.write_bytes(large.read_bytes().replace(b"row 1\n", b"row X\n"))
        return create(request, context)

    service.CreateUpload = change_then_create  # type: ignore[method-assign]
    service.stop()
    service.start()
    with pytest.raises(gradsight.DigestMismatch):
        client.upload(large)


def test_a_file_that_shrinks_meanwhile_is_refused_and_does_not_hang(
    service: "LittleService", client: gradsight.Client, large: Path
) -> None:
    create = service.CreateUpload

    def shrink_then_create(request: Any, context: Any) -> Any:
        large.write_bytes(b"short\n")
        return create(request, context)

    service.CreateUpload = shrink_then_create  # type: ignore[method-assign]
    service.stop()
    service.start()
    with pytest.raises(gradsight.DigestMismatch, match="changed while it was sent"):
        client.upload(large)


def test_an_empty_file_is_refused_before_the_call(
    service: "LittleService", client: gradsight.Client, tmp_path: Path
) -> None:
    (tmp_path / "empty.csv").touch()
    with pytest.raises(gradsight.InvalidRequest, match="is empty"):
        client.upload(tmp_path / "empty.csv")
    assert service.calls == []


def test_a_download_is_verified_and_what_is_there_is_not_fetched_again(
    service: "LittleService", client: gradsight.Client, tmp_path: Path
) -> None:
    digest = service.add_blob(b"0123456789", "weights.safetensors").digest
    [path] = client.download([client.artifact(digest)], tmp_path / "deep" / "down")
    assert path == tmp_path / "deep" / "down" / "weights.safetensors"
    assert path.read_bytes() == b"0123456789"
    fetched = service.calls.count("DownloadArtifact")
    client.download([client.artifact(digest)], tmp_path / "deep" / "down")
    assert service.calls.count("DownloadArtifact") == fetched
    assert list(path.parent.iterdir()) == [path]


def test_a_download_goes_on_where_it_broke(
    service: "LittleService", client: gradsight.Client, tmp_path: Path
) -> None:
    digest = service.add_blob(bytes(range(250)), "a.bin").digest
    original = service.DownloadArtifact
    offsets: list[int] = []

    def breaking(request: Any, context: Any) -> Iterator[Any]:
        offsets.append(request.offset)
        for place, chunk in enumerate(original(request, context)):
            if place == 20 and len(offsets) < 4:
                context.abort(grpc.StatusCode.UNAVAILABLE, "broken")
            yield chunk

    service.DownloadArtifact = breaking  # type: ignore[method-assign]
    service.stop()
    service.start()
    [path] = client.download([client.artifact(digest)], tmp_path)
    assert path.read_bytes() == bytes(range(250))
    assert offsets == [0, 60, 120, 180]


def test_damaged_content_is_refused_and_leaves_no_file(
    service: "LittleService", client: gradsight.Client, tmp_path: Path
) -> None:
    artifact = service.add_blob(b"good bytes", "a.bin")
    service.blobs[artifact.digest] = artifact, b"evil bytes"
    with pytest.raises(gradsight.DigestMismatch, match=r"a\.bin arrived damaged"):
        client.download([client.artifact(artifact.digest)], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("filename", ["../../evil", "/etc/evil", "..\\evil"])
def test_a_download_stays_in_its_directory(
    service: "LittleService", client: gradsight.Client, tmp_path: Path, filename: str
) -> None:
    digest = service.add_blob(b"data", filename).digest
    [path] = client.download([client.artifact(digest)], tmp_path / "in")
    assert path == tmp_path / "in" / "evil"


def test_files_of_one_name_stand_side_by_side(
    service: "LittleService", client: gradsight.Client, tmp_path: Path
) -> None:
    service.add_job()
    for number in range(3):
        service.add_blob(b"state %d" % number, "checkpoint.safetensors", job_id="job1", kind=2, step=number)
    paths = client.job("job1").download(tmp_path, kinds=[ArtifactKind.CHECKPOINT])
    assert {path.read_bytes() for path in paths} == {b"state 0", b"state 1", b"state 2"}


def test_several_threads_may_share_a_client(
    service: "LittleService", client: gradsight.Client, large: Path
) -> None:
    digests: list[str] = []
    threads = [threading.Thread(target=lambda: digests.append(client.upload(large).digest)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 4
    assert len(set(digests)) == 1
