"""What is known of files: recorded once, found by digest, listed newest first in pages, forgotten with the last use."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gradsight.v1 import artifact_pb2
from gradsight.v1.artifact_pb2 import Artifact
from gradsight_store.artifact_records import forget_artifact, get_artifact, list_artifacts, record_artifact
from gradsight_store.embedded import start_embedded
from gradsight_store.errors import ArtifactNotFound
from gradsight_store.settings import StoreSettings
from gradsight_store.store import Store

DATASET = artifact_pb2.ARTIFACT_KIND_DATASET
CHECKPOINT = artifact_pb2.ARTIFACT_KIND_CHECKPOINT
RESULT = artifact_pb2.ARTIFACT_KIND_RESULT


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with start_embedded(tmp_path) as embedded:
        opened = Store.open(StoreSettings(url=embedded.url))
        yield opened
        opened.close()


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def file(
    number: int, kind: artifact_pb2.ArtifactKind.ValueType = DATASET, job_id: str = "", filename: str = ""
) -> Artifact:
    return Artifact(
        digest=digest(number),
        kind=kind,
        filename=filename or f"{number}.csv",
        size_bytes=number,
        job_id=job_id,
    )


def names(store: Store, job_id: str = "", kind: int = 0) -> list[str]:
    return [
        artifact.filename
        for artifact in store.run(list_artifacts("default", job_id=job_id, kind=kind)).artifacts
    ]


def test_a_recorded_file_is_found_by_its_digest_with_its_time(store: Store) -> None:
    recorded = store.run(record_artifact("default", file(7)))
    assert recorded.create_time.seconds > 1_600_000_000
    assert store.run(get_artifact("default", digest(7))) == recorded
    recorded.ClearField("create_time")
    assert recorded == file(7)


def test_recording_again_changes_nothing(store: Store) -> None:
    first = store.run(record_artifact("default", file(7)))
    again = file(7)
    again.create_time.FromSeconds(1)
    assert store.run(record_artifact("default", again)) == first
    assert names(store) == ["7.csv"]


def test_a_content_under_two_names_is_listed_twice_and_known_by_the_first(store: Store) -> None:
    store.run(record_artifact("default", file(7)))
    store.run(record_artifact("default", file(7, filename="renamed.csv")))
    assert sorted(names(store)) == ["7.csv", "renamed.csv"]
    assert store.run(get_artifact("default", digest(7))).filename == "7.csv"


def test_a_record_belongs_to_one_tenant(store: Store) -> None:
    store.run(record_artifact("shop", file(7)))
    with pytest.raises(ArtifactNotFound):
        store.run(get_artifact("default", digest(7)))
    assert names(store) == []


def test_files_are_listed_by_job_and_kind(store: Store) -> None:
    for artifact in (
        file(1),
        file(2, CHECKPOINT, "job-a"),
        file(3, RESULT, "job-a"),
        file(4, RESULT, "job-b"),
    ):
        store.run(record_artifact("default", artifact))
    assert names(store) == ["1.csv"]
    assert sorted(names(store, "job-a")) == ["2.csv", "3.csv"]
    assert names(store, "job-a", CHECKPOINT) == ["2.csv"]
    assert names(store, "job-b", CHECKPOINT) == []


def test_pages_show_every_file_once_newest_first(store: Store) -> None:
    recorded = [store.run(record_artifact("default", file(number))) for number in range(25)]
    shown: list[Artifact] = []
    token = ""
    for expected in (10, 10, 5):
        page = store.run(list_artifacts("default", page_size=10, page_token=token))
        assert len(page.artifacts) == expected
        shown += page.artifacts
        token = page.next_page_token
    assert token == ""
    assert sorted(artifact.digest for artifact in shown) == [artifact.digest for artifact in recorded]
    times = [artifact.create_time.ToNanoseconds() for artifact in shown]
    assert times == sorted(times, reverse=True)


def test_a_page_token_stays_good_when_its_file_is_forgotten(store: Store) -> None:
    for number in range(6):
        store.run(record_artifact("default", file(number)))
    page = store.run(list_artifacts("default", page_size=3))
    store.run(forget_artifact("default", page.artifacts[-1]))
    rest = store.run(list_artifacts("default", page_size=3, page_token=page.next_page_token))
    seen = [artifact.digest for artifact in (*page.artifacts, *rest.artifacts)]
    assert len(set(seen)) == 6


@pytest.mark.parametrize("token", ["%", "a", "ä"])
def test_a_malformed_page_token_is_refused(store: Store, token: str) -> None:
    with pytest.raises(ValueError, match="page_token: got"):
        store.run(list_artifacts("default", page_token=token))


def test_a_malformed_digest_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="digest: got"):
        store.run(get_artifact("default", "sha256:7"))


def test_bytes_may_go_when_the_last_record_of_a_content_is_forgotten(store: Store) -> None:
    first, second = file(7, CHECKPOINT, "job-a"), file(7, CHECKPOINT, "job-b")
    for artifact in (first, second):
        store.run(record_artifact("default", artifact))
    assert not store.run(forget_artifact("default", first))
    assert not store.run(forget_artifact("default", first))
    assert store.run(get_artifact("default", digest(7))).digest == digest(7)
    assert store.run(forget_artifact("default", second))
    assert names(store, "job-b") == []
    with pytest.raises(ArtifactNotFound):
        store.run(get_artifact("default", digest(7)))
