"""When to probe: dense at first, then as often as the budget of telemetry allows."""

import math
from collections import deque
from statistics import fmean, median

from gradsight.v1 import spec_pb2

BUDGET = 0.01
"""Share of the training time that probes may take, once their cost is known: of the 3 % that telemetry may take in
all, the rest is for what is measured at every step, for judging it, and for the caches that a probe leaves cold."""
_DENSE_INTERVAL = 10
_DENSE_UNTIL_STEP = 200
_LONGEST_INTERVAL = 1000
_COSTS_REMEMBERED = 32
_HICCUP = 5.0
"""Times the usual cost: more is the machine's doing."""


class ProbeCadence:
    """When to probe: every `fixed` steps, or dense first and then as often as the budget allows.

    The cadence follows the clock and so differs between runs; no result depends on it.
    """

    def __init__(self, *, fixed: int | None, total_steps: int) -> None:
        self._fixed = fixed
        self.interval = fixed or _DENSE_INTERVAL
        self.next_step = min(self.interval, total_steps)
        self._costs: deque[tuple[float, float]] = deque(maxlen=_COSTS_REMEMBERED)

    def advance(self, step: int) -> None:
        """A probe was taken at `step`."""
        if self._fixed is None and step >= _DENSE_UNTIL_STEP and self._costs:
            plain = median(plain for plain, _ in self._costs)
            self.interval = math.ceil(self.extra_seconds / max(BUDGET * plain, 1e-9))
            self.interval = min(max(self.interval, 1), _LONGEST_INTERVAL)
        self.next_step = step + self.interval

    def learn(self, *, plain_seconds: float, probe_seconds: float) -> None:
        """A plain step and the probe after it took this long."""
        self._costs.append((plain_seconds, probe_seconds))

    @property
    def extra_seconds(self) -> float:
        """What a probe adds to a step; 0 while unknown. The mean, since some probes measure more than others."""
        if not self._costs:
            return 0.0
        extra = [max(0.0, probe - plain) for plain, probe in self._costs]
        most = _HICCUP * median(extra)
        return fmean(min(each, most) for each in extra)


def fixed_interval(spec: spec_pb2.MonitoringSpec) -> int | None:
    """Steps between probes where they do not follow the clock; None where they do.

    A policy that acts on what probes show must find the same when the run is repeated, so its probes are fixed.
    """
    if spec.HasField("probe_interval_steps"):
        return spec.probe_interval_steps
    acts = (spec_pb2.MONITORING_POLICY_REPAIR, spec_pb2.MONITORING_POLICY_STOP)
    return _DENSE_INTERVAL if spec.policy in acts else None
