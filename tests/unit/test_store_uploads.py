"""Uploads go on after any interruption, and end with the announced content or with nothing."""

import hashlib
import os
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gradsight.v1 import artifact_pb2
from gradsight_store.artifacts import Artifacts
from gradsight_store.errors import DigestMismatch, StorageFull, UploadConflict, UploadNotFound
from gradsight_store.uploads import Upload, Uploads

CONTENT = b"".join(f"row {n}\n".encode() for n in range(50_000))
CHUNK = 100_000


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture(params=["directory", "memory"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> Artifacts:
    if request.param == "memory":
        return Artifacts(f"memory://{secrets.token_hex(8)}", spool=tmp_path / "spool")
    return Artifacts(tmp_path / "artifacts")


@pytest.fixture
def uploads(artifacts: Artifacts) -> Uploads:
    return Uploads(artifacts, reserve_bytes=0)


def announce(uploads: Uploads, data: bytes = CONTENT, tenant: str = "default") -> Upload:
    return uploads.create_upload(
        tenant,
        digest=digest(data),
        size_bytes=len(data),
        filename="rows.csv",
        kind=artifact_pb2.ARTIFACT_KIND_DATASET,
    )


def send(uploads: Uploads, upload_id: str, start: int = 0, end: int = len(CONTENT)) -> Upload:
    upload = uploads.upload_status("default", upload_id)
    for offset in range(start, end, CHUNK):
        upload = uploads.append("default", upload_id, offset, CONTENT[offset : min(offset + CHUNK, end)])
    return upload


def test_an_upload_in_chunks_ends_as_a_stored_file(uploads: Uploads, artifacts: Artifacts) -> None:
    upload = announce(uploads)
    assert (upload.committed_bytes, upload.finished) == (0, False)
    assert send(uploads, upload.upload_id).committed_bytes == len(CONTENT)
    assert not artifacts.exists("default", digest(CONTENT))
    finished = uploads.finish("default", upload.upload_id)
    assert finished.finished
    assert (finished.filename, finished.kind) == ("rows.csv", artifact_pb2.ARTIFACT_KIND_DATASET)
    with artifacts.open("default", digest(CONTENT)) as file:
        assert file.read() == CONTENT


def test_a_content_that_is_there_needs_no_sending(uploads: Uploads, artifacts: Artifacts) -> None:
    artifacts.put_bytes("default", CONTENT)
    upload = announce(uploads)
    assert (upload.upload_id, upload.finished, upload.committed_bytes) == ("", True, len(CONTENT))
    assert not announce(uploads, tenant="other").finished


def test_a_wrong_size_of_a_known_content_is_refused(uploads: Uploads, artifacts: Artifacts) -> None:
    artifacts.put_bytes("default", CONTENT)
    with pytest.raises(ValueError, match=r"size_bytes: got 3, but .* has \d+ bytes"):
        uploads.create_upload("default", digest=digest(CONTENT), size_bytes=3, filename="rows.csv", kind=1)


def test_an_upload_goes_on_after_a_restart(uploads: Uploads, artifacts: Artifacts) -> None:
    upload_id = announce(uploads).upload_id
    send(uploads, upload_id, end=250_000)
    restarted = Uploads(artifacts, reserve_bytes=0)
    committed = restarted.upload_status("default", upload_id).committed_bytes
    assert committed == 250_000
    send(restarted, upload_id, start=committed)
    assert restarted.finish("default", upload_id).finished


def test_a_repeated_chunk_is_accepted_and_an_overlapping_one_goes_on(uploads: Uploads) -> None:
    upload_id = announce(uploads).upload_id
    uploads.append("default", upload_id, 0, CONTENT[:1000])
    assert uploads.append("default", upload_id, 0, CONTENT[:1000]).committed_bytes == 1000
    assert uploads.append("default", upload_id, 500, CONTENT[500:600]).committed_bytes == 1000
    assert uploads.append("default", upload_id, 900, CONTENT[900:1100]).committed_bytes == 1100
    send(uploads, upload_id, start=1100)
    assert uploads.finish("default", upload_id).finished


def test_a_gap_is_refused_with_the_expected_offset(uploads: Uploads) -> None:
    upload_id = announce(uploads).upload_id
    uploads.append("default", upload_id, 0, CONTENT[:1000])
    with pytest.raises(UploadConflict, match="starts at byte 2000: 1000 bytes are stored") as refused:
        uploads.append("default", upload_id, 2000, CONTENT[2000:3000])
    assert refused.value.expected_offset == 1000
    with pytest.raises(UploadConflict):
        uploads.append("default", upload_id, -1, b"x")
    assert uploads.upload_status("default", upload_id).committed_bytes == 1000


def test_a_repeated_chunk_with_other_bytes_is_refused_and_changes_nothing(uploads: Uploads) -> None:
    upload_id = announce(uploads).upload_id
    uploads.append("default", upload_id, 0, CONTENT[:1000])
    with pytest.raises(UploadConflict, match="differs"):
        uploads.append("default", upload_id, 990, b"?" * 20)
    send(uploads, upload_id)
    assert uploads.finish("default", upload_id).finished


def test_a_wrong_content_is_discarded(uploads: Uploads, artifacts: Artifacts) -> None:
    upload_id = announce(uploads).upload_id
    wrong = b"?" + CONTENT[1:]
    uploads.append("default", upload_id, 0, wrong)
    with pytest.raises(DigestMismatch) as refused:
        uploads.finish("default", upload_id)
    assert (refused.value.announced, refused.value.found) == (digest(CONTENT), digest(wrong))
    assert list(artifacts.incoming("default").iterdir()) == []
    with pytest.raises(UploadNotFound):
        uploads.upload_status("default", upload_id)


def test_more_bytes_than_announced_end_the_upload(uploads: Uploads, artifacts: Artifacts) -> None:
    upload_id = announce(uploads).upload_id
    send(uploads, upload_id)
    with pytest.raises(DigestMismatch):
        uploads.append("default", upload_id, len(CONTENT), b"x")
    assert list(artifacts.incoming("default").iterdir()) == []


def test_an_upload_with_missing_bytes_cannot_be_finished(uploads: Uploads) -> None:
    upload_id = announce(uploads).upload_id
    send(uploads, upload_id, end=1000)
    with pytest.raises(UploadConflict) as refused:
        uploads.finish("default", upload_id)
    assert refused.value.expected_offset == 1000


def test_a_client_that_missed_the_end_can_ask_send_and_finish_again(uploads: Uploads) -> None:
    upload_id = announce(uploads).upload_id
    send(uploads, upload_id)
    uploads.finish("default", upload_id)
    assert uploads.upload_status("default", upload_id).finished
    assert uploads.append("default", upload_id, len(CONTENT) - 10, CONTENT[-10:]).finished
    assert uploads.finish("default", upload_id).finished
    with pytest.raises(UploadConflict):
        uploads.append("default", upload_id, 0, b"?")


@pytest.mark.parametrize("upload_id", ["", "../../etc/passwd", "0" * 32, "x" * 32, "0" * 33])
def test_an_unknown_upload_is_not_found(uploads: Uploads, upload_id: str) -> None:
    with pytest.raises(UploadNotFound):
        uploads.upload_status("default", upload_id)
    with pytest.raises(UploadNotFound):
        uploads.append("default", upload_id, 0, b"x")
    with pytest.raises(UploadNotFound):
        uploads.finish("default", upload_id)


def test_the_upload_of_another_tenant_is_not_found(uploads: Uploads) -> None:
    upload_id = announce(uploads).upload_id
    with pytest.raises(UploadNotFound):
        uploads.append("other", upload_id, 0, CONTENT[:10])


def test_two_uploads_of_one_content_both_end_well(uploads: Uploads) -> None:
    first, second = announce(uploads).upload_id, announce(uploads).upload_id
    for upload_id in (first, second):
        send(uploads, upload_id)
    assert uploads.finish("default", first).finished
    assert uploads.finish("default", second).finished


def test_concurrent_writers_of_one_upload_cannot_damage_it(uploads: Uploads, artifacts: Artifacts) -> None:
    upload_id = announce(uploads).upload_id
    failures: list[BaseException] = []
    deadline = time.monotonic() + 60

    def write(step: int) -> None:
        service = Uploads(artifacts, reserve_bytes=0)
        try:
            while not (upload := service.upload_status("default", upload_id)).finished:
                assert time.monotonic() < deadline
                offset = upload.committed_bytes
                if offset == len(CONTENT):
                    service.finish("default", upload_id)
                else:
                    service.append("default", upload_id, offset, CONTENT[offset : offset + step])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(step,)) for step in (977, 1013, 2048, 4999)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with artifacts.open("default", digest(CONTENT)) as file:
        assert file.read() == CONTENT


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_abandoned_uploads_are_collected_and_living_ones_are_not(
    uploads: Uploads, artifacts: Artifacts
) -> None:
    abandoned, living = announce(uploads).upload_id, announce(uploads).upload_id
    incoming = artifacts.incoming("default")
    for path in (*incoming.glob(f"{abandoned}.*"), incoming / f"{living}.json"):
        age(path, 3601)
    left_by_a_crash = incoming / f"{secrets.token_hex(16)}.tmp"
    left_by_a_crash.write_bytes(b"x")
    age(left_by_a_crash, 3601)
    assert uploads.collect_abandoned() == 1
    assert sorted(path.name for path in incoming.iterdir()) == [f"{living}.json", f"{living}.part"]
    assert send(uploads, living).committed_bytes == len(CONTENT)
    with pytest.raises(UploadNotFound):
        uploads.upload_status("default", abandoned)
    assert uploads.collect_abandoned() == 0


def test_an_upload_that_cannot_fit_is_refused_at_the_start(uploads: Uploads, artifacts: Artifacts) -> None:
    with pytest.raises(StorageFull) as refused:
        uploads.create_upload("default", digest=digest(b""), size_bytes=1 << 60, filename="rows.csv", kind=1)
    assert refused.value.needed_bytes == 1 << 60
    assert list(artifacts.incoming("default").iterdir()) == []


FILL_THE_DISK = """
import resource, sys
from gradsight_store.artifacts import Artifacts
from gradsight_store.errors import StorageFull
from gradsight_store.uploads import Uploads
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
try:
    Uploads(Artifacts(sys.argv[1])).append("default", sys.argv[2], 100_000, b"x" * 100_000)
except StorageFull as error:
    print(error.needed_bytes)
"""


def test_a_chunk_without_space_leaves_the_upload_where_it_stood(tmp_path: Path) -> None:
    uploads = Uploads(Artifacts(tmp_path / "artifacts"), reserve_bytes=0)
    upload_id = announce(uploads).upload_id
    send(uploads, upload_id, end=100_000)
    child = subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK, str(tmp_path / "artifacts"), upload_id],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert child.stdout.strip() == "100000"
    assert uploads.upload_status("default", upload_id).committed_bytes == 100_000
    send(uploads, upload_id, start=100_000)
    assert uploads.finish("default", upload_id).finished
