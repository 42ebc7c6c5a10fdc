"""Files of an attempt, on their way into the artifacts: checkpoints, the result, the job's history.

Bytes move in children (`errand.py`), each with an `Artifacts` of its own: what reaches object stores has threads and
must not be carried through a fork. What the store has to know of the files goes through the outbox, in order.
"""

import logging
import selectors
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gradsight.v1 import artifact_pb2, event_pb2, state_pb2
from gradsight_store import artifact_records, attempts
from gradsight_store.artifacts import Artifacts
from gradsight_store.errors import StorageFull
from gradsight_store.operations import JobRef, new_operation_id
from gradsight_store.records import Changed
from gradsight_store.settings import StoreSettings
from gradsight_store.store import Store
from gradsight_worker import history
from gradsight_worker.errand import Errand, ErrandFailed, Errands
from gradsight_worker.outbox import Outbox, Write
from gradsight_worker.training.channel import CheckpointMessage, ResultFile

_TRIES = 3
_PAUSE_S = 0.5
_DELETIONS_PATIENCE_S = 10.0

_log = logging.getLogger(__name__)


class Deliveries:
    """The files of one attempt.

    Args:
        address: Of the artifacts, a directory or an fsspec URL.
        ref: The job.
        term: The attempt's term.
        selector: The loop that waits for transfers.
        outbox: Takes what the store has to know.
    """

    def __init__(
        self, address: str, ref: JobRef, term: int, selector: selectors.BaseSelector, outbox: Outbox
    ) -> None:
        self._address, self._ref, self._term, self._outbox = address, ref, term, outbox
        self.transfers = Errands(selector)
        self._deletions = Errands(selector)

    def checkpoint(self, message: CheckpointMessage) -> None:
        """Store a checkpoint, make it the one to resume from, let go of those beyond the kept."""
        self.transfers.add(
            lambda: _store_checkpoint(self._address, self._ref.tenant, message.path),
            lambda errand: self._checkpoint_stored(errand, message),
        )

    def result(
        self,
        files: Sequence[ResultFile],
        stored: Callable[[list[artifact_pb2.Artifact]], None],
        failed: Callable[[str], None],
    ) -> None:
        """Store the files of a result and tell of each; then call `stored`, or `failed` with the problem."""

        def done(errand: Errand) -> None:
            try:
                stored(self._tell_of(errand.result()))
            except ErrandFailed as error:
                failed(str(error))

        self.transfers.add(lambda: _store_result(self._address, self._ref.tenant, files), done)

    def history(
        self,
        settings: StoreSettings,
        directory: Path,
        stored: Callable[[list[artifact_pb2.Artifact]], None],
    ) -> None:
        """Write and store the job's curves, once the log has all that waits; then call `stored`.

        A history that cannot be written costs a line in the job's log, not the job.
        """
        operation = partial(_store_history, settings, self._address, self._ref, directory)

        def done(errand: Errand) -> None:
            try:
                answer = errand.result()
            except ErrandFailed as error:
                self._warn(f"the history was not written: {error}")
                answer = []
            stored(self._tell_of(answer))

        # Nothing of the log is missing in the store once this has its turn.
        barrier = Write(
            operation=lambda: attempts.renew_lease(self._ref, self._term),
            applied=lambda _: self.transfers.add(operation, done),
        )
        self._outbox.add(barrier)

    def rewind(self, step: int, reason: str, unusable: Collection[str]) -> None:
        """Say that the attempt begins at another step, and forget the checkpoints that it could not use."""
        operation_id = new_operation_id()
        rewound = event_pb2.AttemptRewound(resumed_at_step=step, message=reason)

        def applied(changed: Changed) -> None:
            self._outbox.fold(event_pb2.JobEvent(attempt_rewound=rewound))  # the store has told of it
            self.let_go(changed)

        self._outbox.add(
            Write(
                operation=lambda: attempts.rewind(
                    self._ref,
                    self._term,
                    step=step,
                    reason=reason,
                    unusable=unusable,
                    operation_id=operation_id,
                ),
                applied=applied,
            )
        )

    def let_go(self, changed: Changed) -> None:
        """Forget the checkpoints that a change dropped, and delete what nothing else refers to."""
        for artifact in changed.dropped:
            self._outbox.add(self._forgetting(artifact))

    def close(self) -> None:
        """Give up what is on its way, finish what is being deleted."""
        self.transfers.drop()
        self._deletions.finish(_DELETIONS_PATIENCE_S)

    def _checkpoint_stored(self, errand: Errand, message: CheckpointMessage) -> None:
        try:
            stored = errand.result()
        except ErrandFailed as error:
            self._warn(f"the checkpoint of step {message.step} was not stored: {error}; the training goes on")
            return
        artifact = artifact_pb2.Artifact(
            kind=artifact_pb2.ARTIFACT_KIND_CHECKPOINT,
            filename=f"step-{message.step}.safetensors",
            job_id=self._ref.job_id,
            step=message.step,
            **stored,
        )
        operation_id = new_operation_id()
        self._outbox.add(self._recording(artifact))
        self._outbox.add(
            Write(
                operation=lambda: attempts.record_checkpoint(
                    self._ref, self._term, artifact, message.seconds, operation_id=operation_id
                ),
                applied=self.let_go,
            )
        )

    def _tell_of(self, stored: Sequence[dict[str, Any]]) -> list[artifact_pb2.Artifact]:
        """Record files that the artifacts have, and say so in the job's log."""
        artifacts = [artifact_pb2.Artifact(job_id=self._ref.job_id, **fields) for fields in stored]
        for artifact in artifacts:
            ready = event_pb2.ArtifactReady(artifact=artifact)
            self._outbox.add(self._recording(artifact))
            self._outbox.add(event_pb2.JobEvent(artifact_ready=ready))
        return artifacts

    def _warn(self, message: str) -> None:
        line = event_pb2.LogLine(severity=state_pb2.SEVERITY_WARNING, message=message)
        self._outbox.add(event_pb2.JobEvent(log_line=line))

    def _forgetting(self, artifact: artifact_pb2.Artifact) -> Write:
        def delete(unused: bool) -> None:
            if unused:  # another job may have made, and need, the same content
                tenant = self._ref.tenant
                self._deletions.add(
                    lambda: Artifacts(self._address).delete(tenant, artifact.digest), _deleted
                )

        return Write(
            operation=lambda: artifact_records.forget_artifact(self._ref.tenant, artifact), applied=delete
        )

    def _recording(self, artifact: artifact_pb2.Artifact) -> Write:
        return Write(
            operation=lambda: artifact_records.record_artifact(self._ref.tenant, artifact),
            applied=lambda _: None,
        )


def _deleted(errand: Errand) -> None:
    try:
        errand.result()
    except ErrandFailed as error:
        _log.warning("an old checkpoint was not deleted: %s", error)


def _store_checkpoint(address: str, tenant: str, path: Path) -> dict[str, Any]:
    stored = Artifacts(address).put_file(tenant, path, immutable=True)
    path.unlink()
    return stored._asdict()


def _store_result(address: str, tenant: str, files: Sequence[ResultFile]) -> list[dict[str, Any]]:
    artifacts = Artifacts(address)
    return [_store_patiently(artifacts, tenant, file) for file in files]


def _store_history(
    settings: StoreSettings, address: str, ref: JobRef, directory: Path
) -> list[dict[str, Any]]:
    path = directory / history.FILENAME
    history.write_history(Store.open(settings), ref, Artifacts(address), path)
    file = ResultFile(path=path, filename=path.name, kind=artifact_pb2.ARTIFACT_KIND_HISTORY)
    return _store_result(address, ref.tenant, [file])


def _store_patiently(artifacts: Artifacts, tenant: str, file: ResultFile) -> dict[str, Any]:
    """A result is the fruit of hours: a storage that fails once is asked again."""
    for tries_left in reversed(range(_TRIES)):
        try:
            stored = artifacts.put_file(tenant, file.path, immutable=True)
            break
        except (OSError, StorageFull):
            if tries_left == 0:
                raise
            time.sleep(_PAUSE_S)
    return {**stored._asdict(), "filename": file.filename, "kind": file.kind}
