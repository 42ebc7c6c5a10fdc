"""The monitoring section of a spec: detectors and thresholds must be those of the catalogue of failure modes."""

from collections.abc import Iterator, Mapping

from gradsight.v1 import spec_pb2
from gradsight_insight.catalogue import KINDS
from gradsight_insight.kinds import FindingKind, Threshold
from gradsight_service.errors import Violation
from gradsight_service.limits import nearest, shown


def monitoring_violations(
    monitoring: spec_pb2.MonitoringSpec, kinds: Mapping[str, FindingKind] = KINDS
) -> Iterator[Violation]:
    """Everything that is wrong with a monitoring section beside the limits of its fields."""
    if monitoring.allow_recipe_changes and monitoring.policy != spec_pb2.MONITORING_POLICY_REPAIR:
        yield Violation(
            path="monitoring.allow_recipe_changes",
            message="got true without the policy repair, allowed with it only: nothing else changes a run",
        )
    for name in sorted(monitoring.detectors):
        path = f"monitoring.detectors[{shown(name)}]"
        if name in kinds:
            yield from _threshold_violations(f"{path}.thresholds", monitoring.detectors[name], kinds[name])
        else:
            yield Violation(
                path=path, message=f"got {shown(name)}, no kind of finding, {nearest(name, tuple(kinds))}"
            )


def _threshold_violations(
    path: str, detector: spec_pb2.DetectorSpec, kind: FindingKind
) -> Iterator[Violation]:
    for name, value in sorted(detector.thresholds.items()):
        where, threshold = f"{path}[{shown(name)}]", kind.thresholds.get(name)
        if threshold is None:
            known = nearest(name, tuple(kind.thresholds)) if kind.thresholds else "allowed none"
            yield Violation(path=where, message=f"got {shown(name)}, no threshold of {kind.name}, {known}")
        elif not threshold.low <= value <= threshold.high:
            yield Violation(path=where, message=f"got {value:g}, {_allowed(threshold)}")


def _allowed(threshold: Threshold) -> str:
    return f"allowed {threshold.low:g} to {threshold.high:g}, by default {threshold.default:g}: {threshold.meaning}"
