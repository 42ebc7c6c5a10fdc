"""Learning rate as a pure function of the step, so that a resume needs no state of the schedule."""

import math
from collections.abc import Callable

from gradsight.v1 import spec_pb2

Schedule = Callable[[int], float]
"""From the number of a step, 1 to the run's total, to its learning rate."""


def build_schedule(spec: spec_pb2.ScheduleSpec, *, peak: float, total_steps: int) -> Schedule:
    """The schedule of a run: a straight rise to `peak` over the warm-up, then the shape that the spec names."""
    warmup_steps = min(round(spec.warmup_fraction * total_steps), total_steps - 1)
    final = peak * spec.cosine.final_fraction if spec.HasField("cosine") else peak

    def rate(step: int) -> float:
        done = step - 1
        if done < warmup_steps:
            return peak * step / (warmup_steps + 1)
        progress = (done - warmup_steps) / (total_steps - warmup_steps)
        return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * progress))

    return rate
