"""Files are stored once by content, whole or not at all, in a directory as behind an fsspec URL."""

import hashlib
import os
import secrets
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gradsight_store.artifacts import Artifacts, StoredFile
from gradsight_store.errors import ArtifactDamaged, ArtifactNotFound

CONTENT = b"text,category\nwhere is my parcel,delivery\n" * 40_000


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture(params=["directory", "file-url", "memory"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> Artifacts:
    roots = {
        "directory": str(tmp_path / "artifacts"),
        "file-url": f"file://{tmp_path}/artifacts",
        "memory": f"memory://{secrets.token_hex(8)}",
    }
    return Artifacts(roots[request.param], spool=tmp_path / "spool" if request.param == "memory" else None)


@pytest.fixture
def local(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "artifacts")


def files_under(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("immutable", [False, True])
def test_a_stored_file_is_read_back_by_its_digest(
    artifacts: Artifacts, tmp_path: Path, immutable: bool
) -> None:
    source = tmp_path / "rows.csv"
    source.write_bytes(CONTENT)
    stored = artifacts.put_file("default", source, immutable=immutable)
    assert stored == StoredFile(digest(CONTENT), len(CONTENT))
    assert artifacts.exists("default", stored.digest)
    assert artifacts.size("default", stored.digest) == len(CONTENT)
    with artifacts.open("default", stored.digest) as file:
        file.seek(5)
        assert file.read() == CONTENT[5:]
    assert artifacts.verify("default", stored.digest) == stored
    assert source.read_bytes() == CONTENT


def test_bytes_are_stored_like_files_and_the_empty_content_is_a_content(artifacts: Artifacts) -> None:
    assert artifacts.put_bytes("default", b"x") == artifacts.put_bytes("default", b"x")
    assert artifacts.put_bytes("default", b"") == StoredFile(digest(b""), 0)
    assert artifacts.size("default", digest(b"")) == 0


def test_nothing_is_left_among_the_incoming_files(artifacts: Artifacts, tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_bytes(CONTENT)
    for immutable in (False, True, False):
        artifacts.put_file("default", source, immutable=immutable)
    artifacts.put_bytes("default", b"x")
    assert files_under(artifacts.incoming("default")) == []


def test_a_file_belongs_to_one_tenant(artifacts: Artifacts) -> None:
    stored = artifacts.put_bytes("shop", b"secret rows")
    assert not artifacts.exists("other", stored.digest)
    for look in (artifacts.open, artifacts.size, artifacts.verify):
        with pytest.raises(ArtifactNotFound, match=stored.digest):
            look("other", stored.digest)


def test_fetch_copies_and_verifies(artifacts: Artifacts, tmp_path: Path) -> None:
    stored = artifacts.put_bytes("default", CONTENT)
    assert artifacts.fetch("default", stored.digest, tmp_path / "copy.csv") == stored
    assert (tmp_path / "copy.csv").read_bytes() == CONTENT


def test_delete_removes_the_content_once(artifacts: Artifacts) -> None:
    stored = artifacts.put_bytes("default", b"x")
    assert artifacts.delete("default", stored.digest)
    assert not artifacts.delete("default", stored.digest)
    assert not artifacts.exists("default", stored.digest)


@pytest.mark.parametrize("tenant", ["", "../shop", "a/b", "A", "a_b", "x" * 65, ".hidden"])
def test_a_malformed_tenant_is_refused(artifacts: Artifacts, tenant: str) -> None:
    with pytest.raises(ValueError, match="tenant: got"):
        artifacts.put_bytes(tenant, b"x")


@pytest.mark.parametrize(
    "bad", ["", "sha256:", "sha256:" + "A" * 64, "sha256:../../../etc/passwd", "md5:" + "0" * 64]
)
def test_a_malformed_digest_is_refused(artifacts: Artifacts, bad: str) -> None:
    with pytest.raises(ValueError, match="digest: got"):
        artifacts.open("default", bad)


def test_a_local_file_is_used_in_place_and_is_read_only(local: Artifacts) -> None:
    stored = local.put_bytes("default", CONTENT)
    path = local.local_path("default", stored.digest)
    assert path is not None
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o222 == 0
    with pytest.raises(ArtifactNotFound):
        local.local_path("default", digest(b"never stored"))


def test_a_remote_file_has_no_local_path(tmp_path: Path) -> None:
    remote = Artifacts("memory://no-local-path", spool=tmp_path)
    assert remote.local_path("default", remote.put_bytes("default", b"x").digest) is None


def test_an_immutable_file_is_linked_and_any_other_is_copied(local: Artifacts, tmp_path: Path) -> None:
    source = tmp_path / "checkpoint.safetensors"
    source.write_bytes(CONTENT)
    copied = local.local_path("copying", local.put_file("copying", source).digest)
    linked = local.local_path("linking", local.put_file("linking", source, immutable=True).digest)
    assert copied is not None
    assert linked is not None
    assert not copied.samefile(source)
    assert linked.samefile(source)


def test_a_file_of_another_file_system_is_copied(tmp_path: Path) -> None:
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs two file systems")
    source = shared_memory / f"gradsight-test-{secrets.token_hex(8)}"
    source.write_bytes(CONTENT)
    try:
        local = Artifacts(tmp_path / "artifacts")
        stored = local.put_file("default", source, immutable=True)
        assert local.verify("default", stored.digest).size_bytes == len(CONTENT)
    finally:
        source.unlink()


def test_a_damaged_file_is_reported_set_aside_and_can_be_stored_again(
    local: Artifacts, tmp_path: Path
) -> None:
    stored = local.put_bytes("default", CONTENT)
    path = local.local_path("default", stored.digest)
    assert path is not None
    path.chmod(0o600)
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(ArtifactDamaged, match="is damaged"):
        local.fetch("default", stored.digest, tmp_path / "copy.csv")
    assert not (tmp_path / "copy.csv").exists()
    assert list(tmp_path.glob("*.partial")) == []
    assert not local.exists("default", stored.digest)
    local.put_bytes("default", CONTENT)
    assert local.verify("default", stored.digest) == stored


def test_a_damaged_remote_file_is_set_aside_too(tmp_path: Path) -> None:
    import fsspec

    remote = Artifacts("memory://damaged", spool=tmp_path)
    stored = remote.put_bytes("default", CONTENT)
    files = fsspec.filesystem("memory")
    (blob,) = files.find("/damaged")
    files.pipe_file(blob, b"something else")
    with pytest.raises(ArtifactDamaged):
        remote.verify("default", stored.digest)
    assert not remote.exists("default", stored.digest)


def test_a_fetch_does_not_disturb_what_stands_at_the_destination_until_it_is_whole(
    local: Artifacts, tmp_path: Path
) -> None:
    destination = tmp_path / "weights"
    destination.write_bytes(b"old")
    with pytest.raises(ArtifactNotFound):
        local.fetch("default", digest(b"never stored"), destination)
    assert destination.read_bytes() == b"old"


def test_many_writers_of_one_content_store_it_once(local: Artifacts, tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_bytes(CONTENT)
    failures: list[BaseException] = []

    def put(immutable: bool) -> None:
        try:
            local.put_file("default", source, immutable=immutable)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=put, args=(n % 2 == 0,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(files_under(tmp_path / "artifacts")) == 1
    assert local.verify("default", digest(CONTENT)).size_bytes == len(CONTENT)


FILL_THE_DISK = """
import resource, sys
from pathlib import Path
from gradsight_store.artifacts import Artifacts
from gradsight_store.errors import StorageFull
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
artifacts = Artifacts(sys.argv[1])
for put in (lambda: artifacts.put_file("default", Path(sys.argv[2])),
            lambda: artifacts.put_bytes("default", b"x" * 1_000_000)):
    try:
        put()
    except StorageFull as error:
        print(error.needed_bytes)
"""


def test_without_space_nothing_is_half_written(tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_bytes(CONTENT)
    child = subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK, str(tmp_path / "artifacts"), str(source)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert child.stdout.split() == [str(len(CONTENT)), "1000000"]
    assert files_under(tmp_path / "artifacts") == []


@pytest.mark.parametrize(
    ("root", "message"), [("", "empty address"), ("no-such-protocol://x", "no-such-protocol://")]
)
def test_an_unusable_root_is_refused(root: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Artifacts(root)


def test_a_url_without_a_spool_takes_a_directory_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = Artifacts("memory://one"), Artifacts("memory://one")
    assert first.incoming("default") == second.incoming("default")
    assert tmp_path in first.incoming("default").parents
    assert first.incoming("default") != Artifacts("memory://two").incoming("default")


def test_local_artifacts_do_not_import_fsspec() -> None:
    code = "import sys, gradsight_store.artifacts as a; a.Artifacts('x'); sys.exit('fsspec' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=os.sep)
