"""Learning rates: a rise over the warm-up, then the shape that the spec names.

All shapes but one are pure functions of the step, so a resume needs no state of theirs; the plateau follows what
validation says, and its state travels with the training state.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from gradsight.v1 import spec_pb2

_Shape = Callable[[float], float]
"""From the share of the shape's steps that are done, 0 to below 1, to a share of the largest rate."""


class Schedule:
    """The learning rate of every step of a run.

    Args:
        spec: With the service's defaults filled in.
        peak: The largest rate.
        total_steps: Of the whole run.
    """

    def __init__(self, spec: spec_pb2.ScheduleSpec, *, peak: float, total_steps: int) -> None:
        self._peak = peak
        self._total_steps = total_steps
        self._warmup_steps = min(round(spec.warmup_fraction * total_steps), total_steps - 1)
        self._plateau = Plateau(spec.plateau) if spec.HasField("plateau") else None
        # Milestones are shares of the whole run, its warm-up included.
        self._shape_begins = 0 if spec.HasField("step") else self._warmup_steps
        self._shape = _shape_of(spec)
        self._rise_fraction = spec.one_cycle.rise_fraction if spec.HasField("one_cycle") else 0.0

    def rate(self, step: int) -> float:
        """The rate of step 1, 2, ... The first step after the warm-up has the shape's first rate in full."""
        peak = self._peak if self._plateau is None else self._peak * self._plateau.share
        done = step - 1
        if done < self._warmup_steps:
            return peak * self._shape(0.0) * step / (self._warmup_steps + 1)
        return peak * self._shape((done - self._shape_begins) / (self._total_steps - self._shape_begins))

    @property
    def warm_up_steps(self) -> int:
        """Steps until the largest rate."""
        shape_steps = self._total_steps - self._warmup_steps
        return self._warmup_steps + round(self._rise_fraction * shape_steps)

    def observe(self, figure: float) -> None:
        """An evaluation on validation gave this figure, smaller is better. Only a plateau listens."""
        if self._plateau is not None:
            self._plateau.observe(figure)

    def state(self) -> dict[str, Any]:
        """What a resume needs, as plain JSON values."""
        return {} if self._plateau is None else self._plateau.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what `state()` described."""
        if self._plateau is not None:
            self._plateau.restore(state)


def build_schedule(spec: spec_pb2.ScheduleSpec, *, peak: float, total_steps: int) -> Schedule:
    """The schedule of a run; the same spec with more steps is stretched to them."""
    return Schedule(spec, peak=peak, total_steps=total_steps)


class Plateau:
    """Falls by a factor when validation has not improved for some evaluations."""

    def __init__(self, spec: spec_pb2.PlateauSchedule) -> None:
        self._spec = spec
        self._best = math.inf
        self._stalled = 0
        self.share = 1.0
        """Of the largest rate, now."""

    def observe(self, figure: float) -> None:
        """A figure that is not finite is no improvement."""
        if figure < self._best:
            self._best, self._stalled = figure, 0
            return
        self._stalled += 1
        if self._stalled >= self._spec.patience:
            self.share = max(self.share * self._spec.factor, self._spec.final_fraction)
            self._stalled = 0

    def state(self) -> dict[str, Any]:
        """As `Schedule.state`."""
        best = None if math.isinf(self._best) else self._best
        return {"best": best, "stalled": self._stalled, "share": self.share}

    def restore(self, state: Mapping[str, Any]) -> None:
        """As `Schedule.restore`."""
        self._best = math.inf if state["best"] is None else state["best"]
        self._stalled, self.share = state["stalled"], state["share"]


def _shape_of(spec: spec_pb2.ScheduleSpec) -> _Shape:
    if spec.HasField("cosine"):
        return _cosine(1.0, spec.cosine.final_fraction)
    if spec.HasField("linear"):
        final = spec.linear.final_fraction
        return lambda progress: 1.0 + (final - 1.0) * progress
    if spec.HasField("one_cycle"):
        return _one_cycle(spec.one_cycle)
    if spec.HasField("step"):
        return _steps_down(spec.step)
    return lambda progress: 1.0


def _cosine(initial: float, final: float) -> _Shape:
    """Half a cosine from one share to the other."""
    return lambda progress: final + (initial - final) * 0.5 * (1 + math.cos(math.pi * progress))


def _one_cycle(spec: spec_pb2.OneCycleSchedule) -> _Shape:
    rise, fall = _cosine(spec.initial_fraction, 1.0), _cosine(1.0, spec.final_fraction)
    top = spec.rise_fraction
    return lambda progress: rise(progress / top) if progress < top else fall((progress - top) / (1 - top))


def _steps_down(spec: spec_pb2.StepSchedule) -> _Shape:
    return lambda progress: spec.factor ** sum(progress >= milestone for milestone in spec.milestones)
