"""The policy `stop`: a critical finding ends training, and the best weights are kept when they are worth it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from gradsight.v1 import event_pb2
from gradsight_insight.attribution import rank
from gradsight_insight.priors import Prior
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.mitigation.decisions import Watched
from gradsight_worker.training.mitigation.descriptions import applied_event
from gradsight_worker.training.mitigation.remedies import Action, Remedy

_OF_DATA = (
    "input_contract",
    "memorization",
    "leakage",
    "suspect_labels",
    "weak_category",
    "prediction_collapse",
)
"""Kinds whose fault is the rows'; the others' is the model's."""


@dataclass(kw_only=True)
class StopOnCritical:
    """Ends a run at its first critical finding that is no other's consequence."""

    monitor: Watched
    report: Callable[[event_pb2.JobEvent], None]

    def begin(self) -> None:
        """As `Mitigator.begin`: nothing is needed."""

    def consult(self, step: int, *, last: bool) -> Remedy | None:
        """As `Mitigator.consult`."""
        critical = [
            finding
            for finding in self.monitor.findings
            if finding.open and finding.severity == "critical" and not finding.cause_finding_id
        ]
        if last or not critical:
            return None
        finding = min(critical, key=lambda finding: rank(finding.kind))
        remedy = Remedy(action=Action.STOP, finding_id=finding.finding_id, kind=finding.kind)
        applied = applied_event(remedy, "mitigation-1", step=step, trial=False)
        self.report(event_pb2.JobEvent(mitigation_applied=applied))
        return remedy


def require_worth_keeping(
    evaluation: event_pb2.EvaluationCompleted | None, prior: Prior, *, kind: str
) -> None:
    """Raise TrainingFailed when the kept weights of a run that was stopped are no better than no model.

    Args:
        evaluation: Of the kept weights on validation; None when none were kept.
        prior: What answering without a model costs there.
        kind: Of the finding that stopped the run.
    """
    if evaluation is not None and _is_better(evaluation, prior):
        return
    raise TrainingFailed.by_finding(
        f"Training was stopped by a critical finding, {kind}, and no weights are better than answering without a model "
        f"({_figures(evaluation, prior)}). The finding says what to do; the policy advise would have trained on.",
        of_data=kind in _OF_DATA,
    )


def _is_better(evaluation: event_pb2.EvaluationCompleted, prior: Prior) -> bool:
    if evaluation.HasField("error_ratio") and prior.error_ratio is not None:
        return evaluation.error_ratio < prior.error_ratio
    return math.isfinite(evaluation.loss) and evaluation.loss < prior.loss


def _figures(evaluation: event_pb2.EvaluationCompleted | None, prior: Prior) -> str:
    if evaluation is None:
        return "none were evaluated"
    if evaluation.HasField("error_ratio") and prior.error_ratio is not None:
        return f"error on validation {evaluation.error_ratio:.3f} against {prior.error_ratio:.3f}"
    return f"loss on validation {evaluation.loss:.4g} against {prior.loss:.4g}"
