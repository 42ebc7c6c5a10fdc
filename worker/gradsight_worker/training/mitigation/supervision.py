"""What the loop consults under a policy that acts: it looks at fixed steps, never by the clock."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gradsight.v1 import event_pb2
from gradsight_insight.signals import Probes, Steps, Timing
from gradsight_worker.training.mitigation.descriptions import skipped_event
from gradsight_worker.training.mitigation.remedies import Remedy
from gradsight_worker.training.mitigation.repairs import Repairs
from gradsight_worker.training.monitoring import RunMonitor

_DENSE_UNTIL_STEP = 200
_PROBES_OF_A_LOOK = 5


class Policy(Protocol):
    """Acts on findings."""

    def begin(self) -> None:
        """Before the first step of the attempt."""

    def consult(self, step: int, *, last: bool) -> Remedy | None:
        """Act on everything up to this step; `last`: no step follows. The remedy when training must stop, or None."""


@dataclass(kw_only=True)
class Supervision:
    """Of one attempt."""

    monitor: RunMonitor
    policy: Policy
    interval: int
    """Steps between probes."""
    repairs: Repairs | None
    report: Callable[[event_pb2.JobEvent], None]

    def due(self, step: int) -> bool:
        """Whether to look after this step: at first twice a probe, in a trial after every probe, later every fifth.

        At first, because what breaks then breaks fast: ten steps in a row that are not finite end the job.
        """
        if step <= _DENSE_UNTIL_STEP:
            return step % max(1, self.interval // 2) == 0
        amid_trial = self.repairs is not None and self.repairs.trial is not None
        return step % (self.interval if amid_trial else _PROBES_OF_A_LOOK * self.interval) == 0

    def consult(self, step: int, *, last: bool) -> Remedy | None:
        """As `Policy.consult`; everything up to this step has been measured."""
        self.monitor.look(step)
        return self.policy.consult(step, last=last)

    def measured(self, steps: Steps, probes: Probes, timing: Timing) -> None:
        """Steps left the device: the monitor takes them in, and those that were skipped as spikes are told of."""
        self.monitor.measured(steps, probes, timing)
        if self.repairs is None:
            return
        for place in np.flatnonzero(steps.skipped).tolist():
            skipped = skipped_event(
                self.repairs.next_id(),
                step=int(steps.step[place]),
                loss=float(steps.loss[place]),
                norm=float(steps.gradient_norm[place]),
            )
            self.report(event_pb2.JobEvent(mitigation_applied=skipped))
