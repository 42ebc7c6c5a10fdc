"""What insight found, as messages of `gradsight.v1`: worker and service both speak them."""

from collections.abc import Iterable

from gradsight.v1 import insight_pb2
from gradsight_insight.comparison import Comparison, PairedChange
from gradsight_insight.efficacy import Efficacy
from gradsight_insight.kinds import Number
from gradsight_insight.statistics import Interval
from gradsight_insight.verdict import RunVerdict


def comparison_message(
    comparison: Comparison, *, baseline_job_id: str, job_id: str
) -> insight_pb2.Comparison:
    """A comparison of two jobs."""
    return insight_pb2.Comparison(
        baseline_job_id=baseline_job_id,
        job_id=job_id,
        verdict=insight_pb2.ComparisonVerdict.Value(f"COMPARISON_VERDICT_{comparison.verdict.name}"),
        message=comparison.message,
        overall=None if comparison.overall is None else _change(comparison.overall),
        categories=[
            insight_pb2.CategoryChange(category=change.category, impact=change.impact, change=_change(change))
            for change in comparison.categories
        ],
        baseline_weighted_error_ratio=comparison.baseline_weighted_error_ratio,
        weighted_error_ratio=comparison.weighted_error_ratio,
    )


def interval_message(ratio: float, interval: Interval) -> insight_pb2.RatioInterval:
    """A share with its interval."""
    lower, upper = interval
    return insight_pb2.RatioInterval(ratio=ratio, lower=lower, upper=upper)


def evidence_messages(numbers: Iterable[Number]) -> list[insight_pb2.Evidence]:
    """The numbers that a finding or a verdict stands on."""
    return [
        insight_pb2.Evidence(
            name=number.name,
            observed=number.observed,
            threshold=number.threshold,
            unit=number.unit,
            first_step=number.first_step,
            last_step=number.last_step,
        )
        for number in numbers
    ]


def efficacy_message(efficacy: Efficacy) -> insight_pb2.UpdateEfficacy:
    """What the updates of a window achieved."""
    return insight_pb2.UpdateEfficacy(
        first_step=efficacy.first_step,
        last_step=efficacy.last_step,
        probes=efficacy.probes,
        gain_ratio=efficacy.gain_ratio,
        held_out_z=efficacy.held_out_z,
        verdict=insight_pb2.EfficacyVerdict.Value(f"EFFICACY_VERDICT_{efficacy.verdict.name}"),
        layer_credit=efficacy.layer_credit,
    )


def verdict_message(verdict: RunVerdict) -> insight_pb2.RunVerdict:
    """The judgement on a run."""
    return insight_pb2.RunVerdict(
        verdict=insight_pb2.Verdict.Value(f"VERDICT_{verdict.verdict.name}"),
        confirmed=verdict.confirmed,
        evidence=evidence_messages(verdict.evidence),
        reasons=verdict.reasons,
        kept_checkpoint_usable=verdict.kept_checkpoint_usable,
        step=verdict.step,
    )


def _change(change: PairedChange) -> insight_pb2.PairedChange:
    return insight_pb2.PairedChange(
        examples=change.examples,
        baseline_errors=change.baseline_errors,
        errors=change.errors,
        only_baseline_wrong=change.only_baseline_wrong,
        only_new_wrong=change.only_new_wrong,
        baseline_error_ratio=interval_message(change.baseline_error_ratio, change.baseline_error_interval),
        error_ratio=interval_message(change.error_ratio, change.error_interval),
        p_value=change.p_value,
        level=change.level,
        smallest_detectable_fall=change.smallest_detectable_fall,
        verdict=insight_pb2.ChangeVerdict.Value(f"CHANGE_VERDICT_{change.change.name}"),
    )
