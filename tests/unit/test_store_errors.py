"""Every error of the store survives pickling with its fields, and stands in the tree that the docstring draws."""

import pickle

import pytest

from gradsight_store import errors

RAISED = [
    errors.StoreUnavailable("redis://h:1", "connection refused"),
    errors.StoreFull("redis://h:1"),
    errors.StoreUnfit("the append-only file is off", "set appendonly to yes"),
    errors.SchemaTooNew(2, 1),
    errors.EmbeddedStoreFailed("no server", "install one"),
    errors.JobNotFound("abc"),
    errors.RequestIdReused("request", "abc"),
    errors.TransitionRefused(3, "job abc has ended"),
    errors.ArtifactNotFound("sha256:00"),
    errors.ArtifactDamaged("sha256:00", "sha256:11"),
    errors.UploadNotFound("0123"),
    errors.UploadConflict(7),
    errors.DigestMismatch("sha256:00", "sha256:11"),
    errors.StorageFull(12),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling(error: errors.StoreError) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 -- our own bytes
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_the_tree_in_the_docstring_names_every_error_and_no_other() -> None:
    drawn = {line.split()[1] for line in (errors.__doc__ or "").splitlines() if line[:1] in "├└" and line}
    assert drawn == {kind.__name__ for kind in errors.StoreError.__subclasses__()}
    assert drawn == {type(error).__name__ for error in RAISED}
