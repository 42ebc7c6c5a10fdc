"""Everything that the future of a run depends on, as one value."""

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradsight.v1 import event_pb2, spec_pb2
from gradsight_insight.gain import GainWindow
from gradsight_insight.noise_scale import NoiseScaleAverage
from gradsight_worker.training.averaging import AveragedWeights
from gradsight_worker.training.cadence import ProbeCadence, fixed_interval
from gradsight_worker.training.mitigation.repairs import Repairs
from gradsight_worker.training.nonfinite import NonfiniteWatch
from gradsight_worker.training.optimizers import Optimizer, build_optimizer
from gradsight_worker.training.parameters import FlatParameters
from gradsight_worker.training.patience import Patience
from gradsight_worker.training.plan import micro_batch_size
from gradsight_worker.training.precision import Precision, build_precision
from gradsight_worker.training.randomness import random_state, restore_random_state
from gradsight_worker.training.schedules import Schedule, build_schedule

_SNAPSHOT = "snapshots."


class StateMismatch(ValueError):
    """The tensors are not those of this run's model and optimizer."""


@dataclass(kw_only=True)
class KeptWeights:
    """The weights of the best evaluation on validation so far."""

    values: Tensor
    buffers: tuple[Tensor, ...]
    evaluation: event_pb2.EvaluationCompleted | None = None

    @classmethod
    def like(cls, parameters: FlatParameters) -> "KeptWeights":
        """Room for a copy of these parameters."""
        buffers = tuple(buffer.clone() for buffer in parameters.buffers)
        return cls(values=parameters.values.clone(), buffers=buffers)

    def keep(self, parameters: FlatParameters, evaluation: event_pb2.EvaluationCompleted) -> None:
        """Copy the parameters as they are now."""
        self.evaluation = evaluation
        self.values.copy_(parameters.values)
        for kept, buffer in zip(self.buffers, parameters.buffers, strict=True):
            kept.copy_(buffer)

    def put_into(self, parameters: FlatParameters) -> None:
        """Make the kept weights the model's."""
        parameters.values.copy_(self.values)
        for kept, buffer in zip(self.buffers, parameters.buffers, strict=True):
            buffer.copy_(kept)


@dataclass(kw_only=True)
class TrainingState:
    """The state between two steps.

    Batches are a function of the step, so they need none. What telemetry remembers decides when to measure and when to
    give up, never what a step computes.
    """

    parameters: FlatParameters
    optimizer: Optimizer
    schedule: Schedule
    precision: Precision
    average: AveragedWeights | None
    """The moving average of the weights, where the spec asks for one."""
    kept: KeptWeights
    cadence: ProbeCadence
    gains: GainWindow
    patience: Patience
    micro_batch_size: int
    """Most rows that are computed at once."""
    watch: NonfiniteWatch = field(default_factory=NonfiniteWatch)
    noise: NoiseScaleAverage = field(default_factory=NoiseScaleAverage)
    monitor: str = ""
    """What the run's monitor remembers, as of the newest save: JSON; empty before."""
    repairs: Repairs | None = None
    """What repairs have changed; None under a policy that makes none."""
    step: int = 0
    """Optimizer steps done."""
    stopped_early: bool = False
    """True: patience ran out or a finding ended training, and no step follows."""
    stopped_by: str = ""
    """Kind of the finding that ended training; empty without one."""
    training_seconds: float = 0.0

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.parameters.values.device

    def learning_rate(self, step: int) -> float:
        """Of step 1, 2, ...: the schedule's, as repairs have scaled it."""
        rate = self.schedule.rate(step)
        return rate if self.repairs is None else rate * self.repairs.learning_rate_factor

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Inside, the model has the weights that held-out rows are answered by: the average, where there is one."""
        if self.average is None:
            yield
            return
        self.average.swap()
        try:
            yield
        finally:
            self.average.swap()

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name; the run's own, not copies."""
        named = self.learnt() | {"kept.values": self.kept.values}
        named |= {f"kept.buffers.{number}": buffer for number, buffer in enumerate(self.kept.buffers)}
        if self.repairs is not None:
            named |= {f"repairs.{name}": tensor for name, tensor in self.repairs.tensors().items()}
            named |= {f"{_SNAPSHOT}{name}": tensor for name, tensor in self.repairs.snapshots().items()}
        return named | {f"random.{name}": state for name, state in random_state(self.device).items()}

    def learnt(self) -> dict[str, Tensor]:
        """What steps have made of the model and of what moves it, by name; the run's own, not copies."""
        named = {"values": self.parameters.values}
        named |= {f"buffers.{number}": buffer for number, buffer in enumerate(self.parameters.buffers)}
        named |= {f"optimizer.{name}": tensor for name, tensor in self.optimizer.state.items()}
        named |= {f"precision.{name}": tensor for name, tensor in self.precision.state.items()}
        if self.average is not None:
            named |= {f"average.{name}": tensor for name, tensor in self.average.state.items()}
        return named

    def facts(self) -> dict[str, Any]:
        """Everything else, as plain JSON values."""
        evaluation = self.kept.evaluation
        return {
            "step": self.step,
            "stopped_early": self.stopped_early,
            "stopped_by": self.stopped_by,
            "repairs": self.repairs and self.repairs.facts(),
            "training_seconds": self.training_seconds,
            "micro_batch_size": self.micro_batch_size,
            "schedule": self.schedule.state(),
            "patience": self.patience.state(),
            "kept_evaluation": evaluation and base64.b64encode(evaluation.SerializeToString()).decode(),
            "probes": {"interval": self.cadence.interval, "next_step": self.cadence.next_step},
            "gains": self.gains.state(),
            "noise_scale": self.noise.state(),
            "monitor": self.monitor,
            "nonfinite": {"total": self.watch.total, "in_a_row": self.watch.in_a_row},
        }

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Become the state that `tensors()` and `facts()` described. Raises StateMismatch before anything changes."""
        mine = {name: tensor for name, tensor in self.tensors().items() if not name.startswith(_SNAPSHOT)}
        # How many snapshots there are depends on when the state was saved; they come from the file as they are.
        snapshots = {
            name.removeprefix(_SNAPSHOT): t for name, t in tensors.items() if name.startswith(_SNAPSHOT)
        }
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(_SNAPSHOT)}
        if (described := _shapes(tensors)) != (wanted := _shapes(mine)):
            differing = sorted({name for name, _ in set(described.items()) ^ set(wanted.items())})
            raise StateMismatch(f"tensors differ in {', '.join(differing)}")
        for name, tensor in mine.items():
            if not name.startswith("random."):
                tensor.copy_(tensors[name])
        random = {name: tensors[f"random.{name}"] for name in random_state(self.device)}
        restore_random_state(random, self.device)
        self.step = facts["step"]
        self.stopped_early = facts["stopped_early"]
        self.stopped_by = facts["stopped_by"]
        if self.repairs is not None:
            self.repairs.restore(facts["repairs"], snapshots)
        self.training_seconds = facts["training_seconds"]
        self.micro_batch_size = facts["micro_batch_size"]
        self.schedule.restore(facts["schedule"])
        self.patience.restore(facts["patience"])
        encoded = facts["kept_evaluation"]
        self.kept.evaluation = encoded and event_pb2.EvaluationCompleted.FromString(base64.b64decode(encoded))
        self.cadence.interval = facts["probes"]["interval"]
        self.cadence.next_step = facts["probes"]["next_step"]
        self.gains = GainWindow.from_state(facts["gains"], self.precision.gain_settings)
        self.noise = NoiseScaleAverage.from_state(facts.get("noise_scale", {}))
        self.monitor = facts.get("monitor", "")
        self.watch = NonfiniteWatch(**facts["nonfinite"])

    def go_on(self) -> None:
        """Begin a further budget at the end of an earlier one: patience waits anew, for better than the best so far.

        What was found of the earlier job stays in its own log.
        """
        self.stopped_early, self.stopped_by = False, ""
        self.monitor = ""
        self.patience.restore({**self.patience.state(), "waited": 0})


def initial_state(
    spec: spec_pb2.JobSpec,
    parameters: FlatParameters,
    *,
    total_steps: int,
) -> TrainingState:
    """The state before the first step.

    Args:
        spec: With the service's defaults filled in.
        parameters: The model's, on its device.
        total_steps: Of the whole run.

    Raises:
        TrainingFailed: The device cannot compute as the spec asks.
    """
    optimizer, monitoring = spec.optimizer, spec.monitoring
    precision = build_precision(spec.compute, parameters.values.device)
    decay = optimizer.average_decay
    return TrainingState(
        parameters=parameters,
        optimizer=build_optimizer(optimizer, parameters),
        schedule=build_schedule(spec.schedule, peak=optimizer.learning_rate, total_steps=total_steps),
        precision=precision,
        average=AveragedWeights(parameters, decay) if decay else None,
        kept=KeptWeights.like(parameters),
        cadence=ProbeCadence(
            fixed=fixed_interval(monitoring),
            total_steps=total_steps,
        ),
        gains=GainWindow(precision.gain_settings),
        patience=Patience(
            spec.evaluation.patience if spec.evaluation.HasField("patience") else None,
            spec.evaluation.min_improvement,
        ),
        micro_batch_size=micro_batch_size(spec),
    )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (str(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors.items()}
