"""A job as the service knows it: what was asked, how far it is, what came of it."""

import dataclasses
import datetime

from gradsight._enums import JobState, WaitingReason
from gradsight._events import JobError
from gradsight._insight import Comparison, FindingCount, RunVerdict, UpdateEfficacy
from gradsight._measurements import EvaluationCompleted, Layer, Probe
from gradsight._records import Artifact, Record
from gradsight._requirements import Required, RequirementResult, requirements
from gradsight._spec import JobSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(Record):
    """A training job.

    Attributes:
        job_id: Identity, made by the service.
        tenant: Owner.
        spec: What was asked, with the defaults filled in that the service knows.
        state: Where the job stands.
        done: True in a terminal state.
        last_sequence: Sequence of the newest event: get, then watch after this.
        create_time: When the job was created.
        start_time: When the first attempt started; None before.
        end_time: When the job ended; None before.
        progress: How far the run is; None before the model was built.
        waiting: Why the job waits; only while queued.
        summary: Figures so far.
        result: Files of the result; empty until it succeeded.
        attempts: Every try, oldest first.
        error: Why the job failed; only when it did.
        verdict: Judgement on the run; None until it is judged.
        findings: Findings by kind and severity, most severe first, those that were closed included.
    """

    job_id: str
    tenant: str
    spec: JobSpec
    state: JobState
    done: bool
    last_sequence: int
    create_time: datetime.datetime | None
    start_time: datetime.datetime | None
    end_time: datetime.datetime | None
    progress: "JobProgress | None"
    waiting: "JobWaiting | None"
    summary: "JobSummary | None"
    result: tuple[Artifact, ...]
    attempts: "tuple[JobAttempt, ...]"
    error: JobError | None
    verdict: RunVerdict | None
    findings: tuple[FindingCount, ...]

    @property
    def name(self) -> str:
        """Name of the job, stable over the weeks and not unique."""
        return str(self.spec.get("name", ""))

    def check(self, require: Required) -> tuple[RequirementResult, ...]:
        """Returns what becomes of each requirement on the result; see `Requirement.parse` for what may be said."""
        return tuple(each.check(self) for each in requirements(require))


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobProgress(Record):
    """How far a run is.

    Attributes:
        step: Optimizer steps done; may go back when an attempt resumes.
        total_steps: Optimizer steps that the whole run takes.
        epoch: Passes over the training rows done, fractional.
        samples_total: Training rows consumed.
        samples_per_second: Training rows per second, lately.
        remaining: Time to the end at that rate; None while unknown.
        last_step_time: When the last recorded step ended.
        steps_taken: Optimizer steps taken over all attempts, repeated ones included.
    """

    step: int
    total_steps: int
    epoch: float
    samples_total: int
    samples_per_second: float
    remaining: datetime.timedelta | None
    last_step_time: datetime.datetime | None
    steps_taken: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobWaiting(Record):
    """Why a job waits.

    Attributes:
        reason: The reason.
        since: Since when.
        position: Place in the queue, from 1; None when unknown.
        message: The same for people.
    """

    reason: WaitingReason
    since: datetime.datetime | None
    position: int | None
    message: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobSummary(Record):
    """Figures of a run so far; None where nothing was measured yet.

    Attributes:
        train_loss: Training loss of the newest recorded step.
        gradient_norm: Global gradient norm of the newest recorded step, before clipping.
        learning_rate: Learning rate of the newest recorded step.
        gain_ratio: Newest gain ratio.
        nonfinite_steps: Steps that were not finite and changed nothing.
        validation: Newest evaluation on validation.
        kept: Evaluation of the kept checkpoint on validation.
        test: Evaluation of the kept checkpoint on test; at the end.
        baseline_test: Evaluation of the baseline's result on the same test rows; at the end when asked for.
        layers: Layers in forward order.
        probe: The newest probe.
        classes: Classes of the target, in the order of the model's outputs.
        comparison: The new model against the baseline's; at the end when asked for.
        update_efficacy: What the newest window of updates achieved.
    """

    train_loss: float | None
    gradient_norm: float | None
    learning_rate: float | None
    gain_ratio: float | None
    nonfinite_steps: int
    validation: EvaluationCompleted | None
    kept: EvaluationCompleted | None
    test: EvaluationCompleted | None
    baseline_test: EvaluationCompleted | None
    layers: tuple[Layer, ...]
    probe: Probe | None
    classes: tuple[str, ...]
    comparison: Comparison | None
    update_efficacy: UpdateEfficacy | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobAttempt(Record):
    """One try of a job.

    Attributes:
        number: From 1.
        worker_id: Worker that ran it.
        device: Device that it ran on.
        start_time: When it started.
        end_time: When it ended; None while it runs.
        resumed_at_step: Optimizer steps already done when it started.
        error: Why it ended before the job did; None for the attempt that ended the job well and for one that runs.
    """

    number: int
    worker_id: str
    device: str
    start_time: datetime.datetime | None
    end_time: datetime.datetime | None
    resumed_at_step: int
    error: JobError | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobResult(Record):
    """What a job that succeeded brought home.

    Attributes:
        job_id: The job.
        files: Files of the result; `JobHandle.download` fetches them.
        kept: Evaluation of the kept checkpoint on validation.
        test: Evaluation of the kept checkpoint on test.
        baseline_test: Evaluation of the baseline's result on the same test rows; None without a baseline.
    """

    job_id: str
    files: tuple[Artifact, ...]
    kept: EvaluationCompleted | None
    test: EvaluationCompleted | None
    baseline_test: EvaluationCompleted | None
