"""The contract's words and numbers as a report has them."""

from collections.abc import Iterable
from typing import Any

from gradsight._enum_words import word
from gradsight.v1 import insight_pb2
from gradsight_insight.kinds import Number
from gradsight_insight.report.data import Interval
from gradsight_insight.statistics import wilson


def word_of(message: Any, field: str) -> str:
    """The word of a message's enumeration, `converged` say; `unknown` for one that this service is too old for."""
    return word(message.DESCRIPTOR.fields_by_name[field].enum_type, getattr(message, field)) or "unknown"


def evidence_of(told: Iterable[insight_pb2.Evidence]) -> tuple[Number, ...]:
    """Evidence of a finding, verdict or repair."""
    return tuple(
        Number(
            name=one.name,
            observed=one.observed,
            threshold=one.threshold if one.HasField("threshold") else None,
            unit=one.unit,
            first_step=one.first_step,
            last_step=one.last_step,
        )
        for one in told
    )


def interval_of(told: insight_pb2.RatioInterval) -> Interval:
    """A share with its interval."""
    return Interval(told.ratio, told.lower, told.upper)


def share_of(ratio: float, examples: int) -> Interval:
    """The share of wrong rows with its interval."""
    errors = min(max(round(ratio * examples), 0), examples)
    low, high = wilson(errors, examples)
    return Interval(ratio, min(low, ratio), max(high, ratio))
