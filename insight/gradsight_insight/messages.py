"""What insight found, as messages of `gradsight.v1`: worker and service both speak them."""

from gradsight.v1 import insight_pb2
from gradsight_insight.comparison import Comparison, PairedChange
from gradsight_insight.evaluation import Interval


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
