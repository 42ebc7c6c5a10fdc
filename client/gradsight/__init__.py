"""Client of gradsight: submit training jobs, watch them learn, take the result home.

Light on purpose: importing this package loads neither grpc nor torch nor redis nor numpy; names are loaded when they
are first used, and grpc with the first client. No server, no store, no training lives here. Read `_client.py` first,
then `_operations.py`, where each verb is written once for the sync and the asyncio client.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from gradsight._version import __version__

if TYPE_CHECKING:
    from gradsight import aio
    from gradsight._client import Client, JobHandle
    from gradsight._enums import (
        ArtifactKind,
        ChangeVerdict,
        ComparisonVerdict,
        DeviceClass,
        EfficacyVerdict,
        Fault,
        FindingSubject,
        JobErrorReason,
        JobState,
        MitigationAction,
        ReportFormat,
        Severity,
        Split,
        Verdict,
        WaitingReason,
        WatchMode,
        WorkerState,
    )
    from gradsight._errors import (
        AccessRefused,
        ArtifactNotFound,
        CallCancelled,
        CursorBeyondEnd,
        DeadlineExceeded,
        DigestMismatch,
        FieldViolation,
        GradsightError,
        InternalServiceError,
        InvalidRequest,
        InvalidSpec,
        JobCancelled,
        JobEnded,
        JobFailed,
        JobNotFound,
        LimitReached,
        MissingExtra,
        NotFound,
        NotSupportedYet,
        RequestIdReused,
        RequirementNotMet,
        ServiceUnreachable,
        StateTransitionRefused,
        StorageFull,
        StoreFull,
        StoreUnavailable,
        TooManyWatchers,
        Unavailable,
        UploadFailed,
        UploadNotFound,
        UploadOffsetConflict,
        UploadTooLarge,
        WaitTimeout,
        WatchGap,
    )
    from gradsight._events import (
        ArtifactReady,
        AttemptRewound,
        AttemptStarted,
        CheckpointSaved,
        ComparisonCompleted,
        FeedEvent,
        FindingClosed,
        FindingOpened,
        FindingUpdated,
        Gap,
        JobError,
        JobEvent,
        LogLine,
        MicroBatchReduced,
        MitigationApplied,
        MitigationKept,
        MitigationReverted,
        StateChanged,
        TrainingStopped,
        VerdictReached,
    )
    from gradsight._export import ExportedModel, export
    from gradsight._insight import (
        CategoryChange,
        Comparison,
        Evidence,
        Finding,
        FindingCount,
        JobComparison,
        PairedChange,
        RatioInterval,
        Report,
        RunVerdict,
        SpecDifference,
        SuspectRow,
        UpdateEfficacy,
    )
    from gradsight._job import Job, JobAttempt, JobProgress, JobResult, JobSummary, JobWaiting
    from gradsight._measurements import (
        CategoryEvaluation,
        CategoryRows,
        ColumnRemark,
        DataPrepared,
        EvaluationCompleted,
        InputFigures,
        Layer,
        ModelBuilt,
        Probe,
        SplitRows,
        StepsRecorded,
    )
    from gradsight._reasons import Reason
    from gradsight._records import Artifact, Recipe, RecipeOption, Record, Series, ServerInfo, Worker
    from gradsight._requirements import Requirement, RequirementOutcome, RequirementResult
    from gradsight._retry import Patience
    from gradsight._spec import JobOptions, JobSpec, load_spec

# In the order of their needs: what is asked of an early one does not load the later ones.
_MODULES = (
    "_reasons",
    "_enums",
    "_errors",
    "_retry",
    "_records",
    "_insight",
    "_measurements",
    "_events",
    "_requirements",
    "_export",
    "_spec",
    "_job",
    "_client",
)

__all__ = [
    "AccessRefused",
    "Artifact",
    "ArtifactKind",
    "ArtifactNotFound",
    "ArtifactReady",
    "AttemptRewound",
    "AttemptStarted",
    "CallCancelled",
    "CategoryChange",
    "CategoryEvaluation",
    "CategoryRows",
    "ChangeVerdict",
    "CheckpointSaved",
    "Client",
    "ColumnRemark",
    "Comparison",
    "ComparisonCompleted",
    "ComparisonVerdict",
    "CursorBeyondEnd",
    "DataPrepared",
    "DeadlineExceeded",
    "DeviceClass",
    "DigestMismatch",
    "EfficacyVerdict",
    "EvaluationCompleted",
    "Evidence",
    "ExportedModel",
    "Fault",
    "FeedEvent",
    "FieldViolation",
    "Finding",
    "FindingClosed",
    "FindingCount",
    "FindingOpened",
    "FindingSubject",
    "FindingUpdated",
    "Gap",
    "GradsightError",
    "InputFigures",
    "InternalServiceError",
    "InvalidRequest",
    "InvalidSpec",
    "Job",
    "JobAttempt",
    "JobCancelled",
    "JobComparison",
    "JobEnded",
    "JobError",
    "JobErrorReason",
    "JobEvent",
    "JobFailed",
    "JobHandle",
    "JobNotFound",
    "JobOptions",
    "JobProgress",
    "JobResult",
    "JobSpec",
    "JobState",
    "JobSummary",
    "JobWaiting",
    "Layer",
    "LimitReached",
    "LogLine",
    "MicroBatchReduced",
    "MissingExtra",
    "MitigationAction",
    "MitigationApplied",
    "MitigationKept",
    "MitigationReverted",
    "ModelBuilt",
    "NotFound",
    "NotSupportedYet",
    "PairedChange",
    "Patience",
    "Probe",
    "RatioInterval",
    "Reason",
    "Recipe",
    "RecipeOption",
    "Record",
    "Report",
    "ReportFormat",
    "RequestIdReused",
    "Requirement",
    "RequirementNotMet",
    "RequirementOutcome",
    "RequirementResult",
    "RunVerdict",
    "Series",
    "ServerInfo",
    "ServiceUnreachable",
    "Severity",
    "SpecDifference",
    "Split",
    "SplitRows",
    "StateChanged",
    "StateTransitionRefused",
    "StepsRecorded",
    "StorageFull",
    "StoreFull",
    "StoreUnavailable",
    "SuspectRow",
    "TooManyWatchers",
    "TrainingStopped",
    "Unavailable",
    "UpdateEfficacy",
    "UploadFailed",
    "UploadNotFound",
    "UploadOffsetConflict",
    "UploadTooLarge",
    "Verdict",
    "VerdictReached",
    "WaitTimeout",
    "WaitingReason",
    "WatchGap",
    "WatchMode",
    "Worker",
    "WorkerState",
    "__version__",
    "aio",
    "export",
    "load_result",
    "load_spec",
]


def load_result(directory: str | os.PathLike[str]) -> Any:
    """Returns the model of a downloaded result, ready for `predict(rows)`.

    Raises MissingExtra without the extra `models`, which brings PyTorch.
    """
    try:
        from gradsight_models import load_result as load
    except ImportError as error:
        from gradsight._errors import MissingExtra

        raise MissingExtra(
            f"running a model needs the extra `models` ({error}): pip install 'gradsight[models]'"
        ) from None
    return load(directory)


def __getattr__(name: str) -> Any:
    if name == "aio":
        return importlib.import_module("gradsight.aio")
    if name in __all__:
        for home in _MODULES:
            module = importlib.import_module(f"gradsight.{home}")
            if hasattr(module, name):
                value = globals()[name] = getattr(module, name)
                return value
    raise AttributeError(f"module 'gradsight' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
