"""The words of the contract: enumerations with lower-case values, as they stand in spec files and JSON.

Every class mirrors the enumeration of the same name in `gradsight.v1`. A value that a newer service sends and this
client does not know reads as `UNKNOWN`.
"""

import enum


class JobState(enum.StrEnum):
    """Where a job stands. `SUCCEEDED`, `FAILED` and `CANCELLED` are terminal and never change."""

    QUEUED = enum.auto()
    RUNNING = enum.auto()
    PAUSING = enum.auto()
    PAUSED = enum.auto()
    CANCELLING = enum.auto()
    SUCCEEDED = enum.auto()
    FAILED = enum.auto()
    CANCELLED = enum.auto()
    UNKNOWN = enum.auto()


class JobErrorReason(enum.StrEnum):
    """What happened to a failed job or a lost attempt."""

    INVALID_SPEC = enum.auto()
    INVALID_DATA = enum.auto()
    NONFINITE_LOSS = enum.auto()
    OUT_OF_MEMORY = enum.auto()
    TIMED_OUT = enum.auto()
    STALLED = enum.auto()
    TRAINER_DIED = enum.auto()
    WORKER_LOST = enum.auto()
    WORKER_DRAINED = enum.auto()
    TOO_MANY_LOSSES = enum.auto()
    ARTIFACT_UNAVAILABLE = enum.auto()
    INTERNAL = enum.auto()
    CRITICAL_FINDING = enum.auto()
    UNKNOWN = enum.auto()


class Fault(enum.StrEnum):
    """Whose fault a failure is."""

    USER = enum.auto()
    DATA = enum.auto()
    MODEL = enum.auto()
    INFRA = enum.auto()
    POLICY = enum.auto()
    UNKNOWN = enum.auto()


class Split(enum.StrEnum):
    """Side on which a row is: train gives gradients, validation chooses, test judges once at the end."""

    TRAIN = enum.auto()
    VALIDATION = enum.auto()
    TEST = enum.auto()
    UNKNOWN = enum.auto()


class Severity(enum.StrEnum):
    """How bad a finding is, how important a line."""

    INFO = enum.auto()
    WARNING = enum.auto()
    CRITICAL = enum.auto()
    UNKNOWN = enum.auto()


class WaitingReason(enum.StrEnum):
    """Why a job waits."""

    WORKERS_BUSY = enum.auto()
    NO_WORKER = enum.auto()
    ASSIGNED = enum.auto()
    BACK_OFF = enum.auto()
    UNKNOWN = enum.auto()


class Verdict(enum.StrEnum):
    """Judgement on a run, beside its state."""

    CONVERGED = enum.auto()
    STILL_IMPROVING = enum.auto()
    PLATEAUED = enum.auto()
    OVERFIT = enum.auto()
    UNDERFIT = enum.auto()
    DIVERGED = enum.auto()
    UNSOUND = enum.auto()
    UNDECIDED = enum.auto()
    UNKNOWN = enum.auto()


class FindingSubject(enum.StrEnum):
    """What a finding is about."""

    RUN = enum.auto()
    LAYER = enum.auto()
    SPLIT = enum.auto()
    CATEGORY = enum.auto()
    BATCH = enum.auto()
    INPUT = enum.auto()
    UNKNOWN = enum.auto()


class EfficacyVerdict(enum.StrEnum):
    """Judgement on what the updates of a window achieved."""

    EFFECTIVE = enum.auto()
    OVERSHOOT = enum.auto()
    CAUTIOUS = enum.auto()
    ASCENT = enum.auto()
    INERT = enum.auto()
    MISDIRECTED = enum.auto()
    UNRESOLVED = enum.auto()
    UNKNOWN = enum.auto()


class ComparisonVerdict(enum.StrEnum):
    """Judgement on a new model against an old one."""

    IMPROVED = enum.auto()
    REGRESSED = enum.auto()
    MIXED = enum.auto()
    NO_SIGNIFICANT_CHANGE = enum.auto()
    NOT_COMPARABLE = enum.auto()
    UNKNOWN = enum.auto()


class ChangeVerdict(enum.StrEnum):
    """What the rows say about the error of two models."""

    IMPROVED = enum.auto()
    REGRESSED = enum.auto()
    NO_SIGNIFICANT_CHANGE = enum.auto()
    INSUFFICIENT_EVIDENCE = enum.auto()
    UNKNOWN = enum.auto()


class MitigationAction(enum.StrEnum):
    """What a repair does."""

    SKIP_STEP = enum.auto()
    TIGHTEN_CLIPPING = enum.auto()
    SCALE_LEARNING_RATE = enum.auto()
    ROLL_BACK = enum.auto()
    REINITIALIZE = enum.auto()
    STANDARDIZE_INPUTS = enum.auto()
    STOP = enum.auto()
    UNKNOWN = enum.auto()


class ReportFormat(enum.StrEnum):
    """Format of a report: one page of HTML that loads nothing, or Markdown without pictures."""

    HTML = enum.auto()
    MARKDOWN = enum.auto()
    UNKNOWN = enum.auto()


class ArtifactKind(enum.StrEnum):
    """What a file is."""

    DATASET = enum.auto()
    CHECKPOINT = enum.auto()
    RESULT = enum.auto()
    EXAMPLES = enum.auto()
    HISTORY = enum.auto()
    REPORT = enum.auto()
    GRAPH = enum.auto()
    WEIGHTS = enum.auto()
    SUSPECTS = enum.auto()
    UNKNOWN = enum.auto()


class DeviceClass(enum.StrEnum):
    """Class of device."""

    CPU = enum.auto()
    CUDA = enum.auto()
    UNKNOWN = enum.auto()


class WorkerState(enum.StrEnum):
    """What a worker does."""

    IDLE = enum.auto()
    BUSY = enum.auto()
    DRAINING = enum.auto()
    LOST = enum.auto()
    UNKNOWN = enum.auto()


class WatchMode(enum.StrEnum):
    """What happens when the reader of a watch is slow: every event, or newer step batches in place of older ones."""

    EVERY = enum.auto()
    LATEST = enum.auto()
    UNKNOWN = enum.auto()
