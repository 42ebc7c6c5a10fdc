"""Events: one fact each about one job, in a log without gaps. `JobEvent.detail` is one of the classes below it."""

import dataclasses
import datetime
from collections.abc import Mapping

from gradsight._enums import Fault, JobErrorReason, JobState, Severity, Split
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
class SplitRows(Record):
    """Rows of one split."""

    split: Split
    rows: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class CategoryRows(Record):
    """Rows of one category, by split."""

    category: str
    splits: tuple[SplitRows, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColumnRemark(Record):
    """What stands out in a column.

    Attributes:
        column: Name of the column.
        missing_rows: Cells without a value, over all splits.
        constant: True when every training row has the same value: the column says nothing.
        unseen_rows: Held-out cells with a word that train does not have.
    """

    column: str
    missing_rows: int
    constant: bool
    unseen_rows: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataPrepared(Record):
    """The rows were read, checked and split.

    Attributes:
        splits: Rows per split.
        classes: Names of the target's classes, in the order of the model's outputs; empty where it has none.
        categories: Categories with their rows, most frequent first; empty without a category column.
        duplicate_rows: Rows whose content occurs again within the same split.
        leaked_rows: Held-out rows whose content also occurs in train.
        split_digest: Equal digests, equal splits.
        input_columns: Columns that the model reads, in order.
        prior_error_ratio: Validation error of always giving train's commonest answer, 0 to 1; None where answers are
            not right or wrong.
        prior_loss: Validation loss of always giving the same answer, the best by train, in the objective's unit.
        column_remarks: Columns with something to say, in the file's order.
    """

    splits: tuple[SplitRows, ...]
    classes: tuple[str, ...]
    categories: tuple[CategoryRows, ...]
    duplicate_rows: int
    leaked_rows: int
    split_digest: str
    input_columns: tuple[str, ...]
    prior_error_ratio: float | None
    prior_loss: float
    column_remarks: tuple[ColumnRemark, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer(Record):
    """A module that owns parameters: place in forward order from 0, path, kind, number of parameters."""

    index: int
    path: str
    kind: str
    parameters: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelBuilt(Record):
    """The model was built; `layers` in forward order, at most 32; steps are optimizer steps."""

    architecture: str
    parameters: int
    layers: tuple[Layer, ...]
    total_steps: int
    steps_per_epoch: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe(Record):
    """A step measured more richly; tuples hold one value per layer, in the order of `ModelBuilt.layers`.

    Attributes:
        step: Number of the step.
        layer_gradient_norm: Gradient norm before clipping.
        layer_gradient_rms: Gradient root mean square before clipping.
        layer_weight_norm: Weight norm before the update.
        layer_update_ratio: Norm of the update over norm of the weights.
        layer_activation_deviation: Standard deviation of the layer's output over the batch.
        layer_zero_ratio: Share of exact zeros in the layer's output over the batch, 0 to 1.
        predicted_decrease: Decrease of this batch's loss that the gradient promised of the update.
        actual_decrease: Decrease of this batch's loss that the update brought.
        gain_ratio: Sum of actual over sum of predicted decrease in the window of probes that ends here.
    """

    step: int
    layer_gradient_norm: tuple[float, ...]
    layer_gradient_rms: tuple[float, ...]
    layer_weight_norm: tuple[float, ...]
    layer_update_ratio: tuple[float, ...]
    layer_activation_deviation: tuple[float, ...]
    layer_zero_ratio: tuple[float, ...]
    predicted_decrease: float | None
    actual_decrease: float | None
    gain_ratio: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepsRecorded(Record):
    """A batch of consecutive optimizer steps, in columns of equal length.

    Attributes:
        first_step: Number of the first step in the batch, from 1; the others follow without gaps.
        loss: Training loss of each step; may be non-finite.
        gradient_norm: Global gradient norm of each step before clipping; may be non-finite.
        learning_rate: Learning rate of each step.
        clip_factor: Factor that clipping left of each step's gradient, 0 to 1.
        nonfinite_steps: Steps of this batch that were not finite and therefore changed nothing.
        probes: Steps of this batch that were measured more richly.
        samples_total: Training rows consumed by the run up to the end of this batch.
        training_seconds: Seconds of training up to the end of this batch, over all attempts.
        last_step_time: When the last step of the batch ended, on the worker's clock.
        first_step_time: When the attempt's first step ended; only in the attempt's first batch.
        telemetry_ratio: Share of the attempt's training time spent on telemetry so far, 0 to 1.
    """

    first_step: int
    loss: tuple[float, ...]
    gradient_norm: tuple[float, ...]
    learning_rate: tuple[float, ...]
    clip_factor: tuple[float, ...]
    nonfinite_steps: tuple[int, ...]
    probes: tuple[Probe, ...]
    samples_total: int
    training_seconds: float
    last_step_time: datetime.datetime | None
    first_step_time: datetime.datetime | None
    telemetry_ratio: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class CategoryEvaluation(Record):
    """Held-out error in one category: rows, wrong answers, their share (0 to 1) and the mean loss.

    Errors are None where answers are not right or wrong.
    """

    category: str
    examples: int
    errors: int | None
    error_ratio: float | None
    loss: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationCompleted(Record):
    """Held-out rows were evaluated.

    Attributes:
        split: The rows.
        step: Optimizer steps done.
        epoch: Passes over the training rows done, fractional.
        examples: Number of rows.
        loss: Mean loss in the objective's unit, without smoothing.
        error_ratio: Share of wrong answers, 0 to 1: of rows, or of a language model's tokens. None where answers are
            not right or wrong.
        weighted_error_ratio: The same weighted by category impact; equals `error_ratio` without impacts.
        categories: By category, most frequent first; empty without a category column.
        kept: True when this is the best evaluation on validation so far and its weights were kept.
        baseline_job_id: Job whose weights were evaluated, when they are a baseline's.
        macro_f1: Mean F1 of the classes or labels that occur, 0 to 1; None for other answers.
        root_mean_square_error: In units of the target; None but for numbers.
        mean_absolute_error: In units of the target; None but for numbers.
        perplexity: Exponential of the loss per token, at least 1; None but for language models.
        selection_figure: What chooses the checkpoint, smaller is better: the weighted error of classes and labels, the
            loss (weighted likewise) of numbers and language models.
    """

    split: Split
    step: int
    epoch: float
    examples: int
    loss: float
    error_ratio: float | None
    weighted_error_ratio: float | None
    categories: tuple[CategoryEvaluation, ...]
    kept: bool
    baseline_job_id: str | None
    macro_f1: float | None
    root_mean_square_error: float | None
    mean_absolute_error: float | None
    perplexity: float | None
    selection_figure: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding(Record):
    """Something about the run that a person should know.

    Attributes:
        finding_id: Identity within the job.
        kind: `vanishing_gradient` say.
        severity: How bad it is.
        subject: Layer, split, category or batch that it is about.
        first_step: First step at which it was seen.
        last_step: Last step at which it was seen.
        evidence: What was observed, against which threshold, over which window; by name.
        confidence: How sure the detector is, 0 to 1.
        explanation: What it means, from mechanism to model behaviour.
        actions: What could be done, best first.
        open: True until it was closed.
    """

    finding_id: str
    kind: str
    severity: Severity
    subject: str
    first_step: int
    last_step: int
    evidence: Mapping[str, float]
    confidence: float
    explanation: str
    actions: tuple[str, ...]
    open: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class FindingOpened(Record):
    """A finding was opened."""

    finding: Finding


@dataclasses.dataclass(frozen=True, kw_only=True)
class FindingUpdated(Record):
    """A finding changed."""

    finding: Finding


@dataclasses.dataclass(frozen=True, kw_only=True)
class FindingClosed(Record):
    """A finding was closed."""

    finding: Finding


@dataclasses.dataclass(frozen=True, kw_only=True)
class MitigationApplied(Record):
    """A repair was applied and holds after `step`."""

    mitigation_id: str
    finding_id: str
    description: str
    step: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class MitigationReverted(Record):
    """A repair was taken back and no longer holds after `step`."""

    mitigation_id: str
    message: str
    step: int


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
    | MitigationReverted
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
