"""Events: one fact each about one job, in a log without gaps. `JobEvent.detail` is one of the classes below it."""

import dataclasses
import datetime

from gradsight._enums import Fault, JobErrorReason, JobState, MitigationAction, Severity
from gradsight._insight import Comparison, Evidence, Finding, RunVerdict
from gradsight._measurements import DataPrepared, EvaluationCompleted, ModelBuilt, StepsRecorded
from gradsight._records import Artifact, Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobEvent(Record):
    """One fact about one job.

    Attributes:
        sequence: Place in the job's log, from 1 and without gaps; also the cursor to resume a watch from.
        record_time: When the store recorded it, on the store's clock.
        attempt: The attempt that it belongs to, from 1; 0 before the first.
        kind: Name of the kind, `steps_recorded` say.
        detail: What happened; one class per kind.
    """

    sequence: int
    record_time: datetime.datetime | None
    attempt: int
    kind: str
    detail: "EventDetail"


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobError(Record):
    """Why a job or an attempt failed. Branch on the reason, show the message.

    Attributes:
        reason: What happened, in a word.
        fault: Whose fault it is.
        message: What happened, what was got, what is allowed, what to do.
        field: Path of the spec's field that is at fault; None when none is.
        row: Row of the file that is at fault, from 1 without the header; None when none is.
        retryable: True when the same job may succeed if it is tried again.
    """

    reason: JobErrorReason
    fault: Fault
    message: str
    field: str | None
    row: int | None
    retryable: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateChanged(Record):
    """The job's state changed; `previous_state` is None in the first event."""

    previous_state: JobState | None
    state: JobState
    message: str | None
    error: JobError | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttemptStarted(Record):
    """An attempt began on a worker, after `resumed_at_step` optimizer steps that were already done."""

    worker_id: str
    device: str
    resumed_at_step: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class FindingOpened(Record):
    """A finding was opened."""

    finding: Finding


@dataclasses.dataclass(frozen=True, kw_only=True)
class FindingUpdated(Record):
    """A finding changed: its severity, its cause, or its evidence by much. The finding is whole."""

    finding: Finding


@dataclasses.dataclass(frozen=True, kw_only=True)
class FindingClosed(Record):
    """A finding was closed: what it tells of is over. The finding is whole."""

    finding: Finding


@dataclasses.dataclass(frozen=True, kw_only=True)
class MitigationApplied(Record):
    """A repair was applied.

    Attributes:
        mitigation_id: Identity within the job, `mitigation-1` say.
        finding_id: Finding that it answers.
        action: What it does.
        description: The same for people, with its numbers.
        step: Step after which it holds.
        trial: True: it is on trial until a MitigationKept or MitigationReverted with its identity.
        learning_rate_factor: What the schedule's learning rate is multiplied by from now on.
        gradient_norm_limit: Largest norm of the gradient from now on.
        restored_step: Step whose weights and optimizer state were restored.
        layers: Paths of the layers that begin anew.
    """

    mitigation_id: str
    finding_id: str
    action: MitigationAction
    description: str
    step: int
    trial: bool
    learning_rate_factor: float | None
    gradient_norm_limit: float | None
    restored_step: int | None
    layers: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MitigationKept(Record):
    """A repair passed its trial, judged after `step`, and stays; `evidence` is what the trial showed."""

    mitigation_id: str
    evidence: tuple[Evidence, ...]
    step: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class MitigationReverted(Record):
    """A repair failed its trial and no longer holds after `step`: weights and settings are those from before it."""

    mitigation_id: str
    message: str
    evidence: tuple[Evidence, ...]
    step: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerdictReached(Record):
    """The run was judged: at evaluations when the judgement changes, and at its end."""

    verdict: RunVerdict


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonCompleted(Record):
    """The new model was compared with the baseline's on the same test rows."""

    comparison: Comparison


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointSaved(Record):
    """The training state was saved after `step` steps; it took `seconds` from the training."""

    step: int
    artifact: Artifact
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArtifactReady(Record):
    """A file can be downloaded."""

    artifact: Artifact


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogLine(Record):
    """A line for people."""

    severity: Severity
    message: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class MicroBatchReduced(Record):
    """A step did not fit into memory and was repeated in smaller parts; its result is the same up to rounding.

    Attributes:
        step: The step.
        micro_batch_size: Rows in one part from now on.
        accumulation_steps: Parts of a step from now on.
        peak_bytes: Most memory that the run had held on its device; None when unknown.
    """

    step: int
    micro_batch_size: int
    accumulation_steps: int
    peak_bytes: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingStopped(Record):
    """Training stopped after `step` steps, before the end of its budget; `message` says why."""

    step: int
    message: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttemptRewound(Record):
    """The attempt could not use its newest checkpoint: it begins after `resumed_at_step` steps instead."""

    resumed_at_step: int
    message: str


EventDetail = (
    StateChanged
    | AttemptStarted
    | DataPrepared
    | ModelBuilt
    | StepsRecorded
    | EvaluationCompleted
    | FindingOpened
    | FindingUpdated
    | FindingClosed
    | MitigationApplied
    | MitigationKept
    | MitigationReverted
    | VerdictReached
    | ComparisonCompleted
    | CheckpointSaved
    | ArtifactReady
    | LogLine
    | MicroBatchReduced
    | TrainingStopped
    | AttemptRewound
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gap(Record):
    """Events that a watch does not bring.

    Attributes:
        first_sequence: First sequence that is left out.
        last_sequence: Last sequence that is left out.
        conflated: True when mode `latest` left them out and they can still be listed; False when retention
            deleted them.
    """

    first_sequence: int
    last_sequence: int
    conflated: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeedEvent(Record):
    """A state event of one of many jobs, from `Client.watch_jobs`.

    Attributes:
        cursor: Watch again after this cursor to go on behind this event.
        job_id: The job.
        name: Name of the job.
        event: What happened.
    """

    cursor: str
    job_id: str
    name: str
    event: JobEvent
