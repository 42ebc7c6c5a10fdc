"""What a report knows of a job. Words are those of the contract in lower case: `succeeded`, `converged`, `warning`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gradsight_insight.kinds import Number

Floats = npt.NDArray[np.float64]
Steps = npt.NDArray[np.int64]


class Line(NamedTuple):
    """A labelled line of text."""

    label: str
    text: str


class Interval(NamedTuple):
    """A share with its 95 % interval, each 0 to 1."""

    ratio: float
    lower: float
    upper: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Values by step, steps rising; without points that a resumed attempt took back."""

    steps: Steps = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    values: Floats = field(default_factory=lambda: np.zeros(0))
    """May be non-finite."""

    def __len__(self) -> int:
        return len(self.steps)

    @classmethod
    def of(cls, steps: Sequence[int], values: Sequence[Any]) -> "Curve":
        """A curve from plain numbers."""
        return cls(steps=np.asarray(steps, dtype=np.int64), values=np.asarray(values, dtype=np.float64))


@dataclass(frozen=True, kw_only=True)
class LayerProbes:
    """What probes saw of the layers, oldest first: shape (probes, layers), NaN where nothing was measured."""

    steps: Steps = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    gradient_rms: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    """Root mean square of the gradient, before clipping."""
    update_ratio: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    """Norm of the update over norm of the weights."""


@dataclass(frozen=True, kw_only=True)
class CategoryFigures:
    """Held-out error in one category."""

    category: str
    examples: int
    error: Interval | None
    """None where answers are not right or wrong."""
    loss: float


@dataclass(frozen=True, kw_only=True)
class EvaluationFigures:
    """One evaluation of one split."""

    step: int
    examples: int
    loss: float
    error: Interval | None = None
    """None where answers are not right or wrong."""
    weighted_error_ratio: float | None = None
    macro_f1: float | None = None
    root_mean_square_error: float | None = None
    mean_absolute_error: float | None = None
    perplexity: float | None = None
    categories: tuple[CategoryFigures, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Efficacy:
    """What the updates of a window achieved."""

    first_step: int
    last_step: int
    verdict: str
    gain_ratio: float | None = None
    held_out_z: float | None = None


@dataclass(frozen=True, kw_only=True)
class SuspectRow:
    """A row that should be looked at."""

    row_id: str
    split: str
    category: str
    target: str
    predicted: str
    loss: float
    rank: int


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something about the run that a person should know."""

    finding_id: str
    kind: str
    severity: str
    """`info`, `warning` or `critical`."""
    subject_kind: str
    subject: str
    first_step: int
    last_step: int
    explanation: str
    actions: tuple[str, ...] = ()
    evidence: tuple[Number, ...] = ()
    confidence: float = 1.0
    open: bool = True
    cause_finding_id: str = ""
    page_url: str = ""
    suspects: tuple[SuspectRow, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Mitigation:
    """A repair and what became of it."""

    mitigation_id: str
    finding_id: str
    action: str
    description: str
    step: int
    outcome: str
    """`kept`, `reverted`, `applied` (without a trial) or `on trial`."""
    outcome_step: int | None = None
    message: str = ""
    evidence: tuple[Number, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunVerdict:
    """Judgement on the run."""

    verdict: str
    confirmed: bool
    reasons: tuple[str, ...]
    evidence: tuple[Number, ...]
    kept_checkpoint_usable: bool
    step: int


@dataclass(frozen=True, kw_only=True)
class Change:
    """Old model against new on the same rows: of all (`category` empty) or of one category."""

    category: str
    examples: int
    baseline_error: Interval
    error: Interval
    only_baseline_wrong: int
    only_new_wrong: int
    p_value: float
    smallest_detectable_fall: float | None
    verdict: str
    impact: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """New model against old on the same test rows."""

    baseline_job_id: str
    verdict: str
    message: str = ""
    overall: Change | None = None
    categories: tuple[Change, ...] = ()
    baseline_weighted_error_ratio: float = 0.0
    weighted_error_ratio: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a job or an attempt ended."""

    reason: str
    fault: str
    message: str
    field: str = ""
    row: int = 0


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try of the job."""

    number: int
    worker: str
    device: str
    resumed_at_step: int
    started: datetime | None = None
    ended: datetime | None = None
    failure: Failure | None = None


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All of a report."""

    job_id: str
    name: str
    state: str
    done: bool
    written: datetime
    """When the report was made."""
    version: str
    """Of gradsight."""
    labels: tuple[Line, ...] = ()
    created: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    step: int = 0
    total_steps: int = 0
    asked: tuple[Line, ...] = ()
    """The spec in plain words."""
    rows: tuple[Line, ...] = ()
    """What the rows are and what stands out in them."""
    prior_loss: float | None = None
    """Loss on validation of a model that ignores its inputs."""
    prior_error_ratio: float | None = None
    layers: tuple[str, ...] = ()
    """Paths in forward order."""
    train_loss: Curve = field(default_factory=Curve)
    gradient_norm: Curve = field(default_factory=Curve)
    learning_rate: Curve = field(default_factory=Curve)
    gain_ratio: Curve = field(default_factory=Curve)
    validation_loss: Curve = field(default_factory=Curve)
    validation_figure: Curve = field(default_factory=Curve)
    """Error ratio, or what stands for it where answers are not right or wrong."""
    figure_name: str = "error"
    """`error`, `root mean square error` or `perplexity`."""
    probes: LayerProbes = field(default_factory=LayerProbes)
    efficacies: tuple[Efficacy, ...] = ()
    """By window, oldest first."""
    nonfinite_steps: int = 0
    kept: EvaluationFigures | None = None
    """Of the kept weights on validation."""
    test: EvaluationFigures | None = None
    baseline_test: EvaluationFigures | None = None
    verdict: RunVerdict | None = None
    comparison: Comparison | None = None
    findings: tuple[Finding, ...] = ()
    mitigations: tuple[Mitigation, ...] = ()
    stopped: str = ""
    """Why training stopped before the end of its budget; empty when it did not."""
    failure: Failure | None = None
    attempts: tuple[Attempt, ...] = ()
