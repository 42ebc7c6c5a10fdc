"""Everything that the future of a run depends on, as one value."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradsight.v1 import event_pb2
from gradsight_insight.gain import GainWindow
from gradsight_worker.training.nonfinite import NonfiniteWatch
from gradsight_worker.training.optimizers import Optimizer
from gradsight_worker.training.parameters import FlatParameters
from gradsight_worker.training.probes import ProbeCadence
from gradsight_worker.training.randomness import random_state, restore_random_state


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

    Learning rate and batches are functions of the step, so they need none. What telemetry remembers decides when to
    measure and when to give up, never what a step computes.
    """

    parameters: FlatParameters
    optimizer: Optimizer
    kept: KeptWeights
    cadence: ProbeCadence
    gains: GainWindow = field(default_factory=GainWindow)
    watch: NonfiniteWatch = field(default_factory=NonfiniteWatch)
    step: int = 0
    """Optimizer steps done."""
    training_seconds: float = 0.0

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.parameters.values.device

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name; the run's own, not copies."""
        named = {"values": self.parameters.values, "kept.values": self.kept.values}
        named |= {f"buffers.{number}": buffer for number, buffer in enumerate(self.parameters.buffers)}
        named |= {f"kept.buffers.{number}": buffer for number, buffer in enumerate(self.kept.buffers)}
        named |= {f"optimizer.{name}": tensor for name, tensor in self.optimizer.state.items()}
        return named | {f"random.{name}": state for name, state in random_state(self.device).items()}

    def facts(self) -> dict[str, Any]:
        """Everything else, as plain JSON values."""
        evaluation = self.kept.evaluation
        return {
            "step": self.step,
            "training_seconds": self.training_seconds,
            "kept_evaluation": evaluation and base64.b64encode(evaluation.SerializeToString()).decode(),
            "probes": {"interval": self.cadence.interval, "next_step": self.cadence.next_step},
            "gains": self.gains.state(),
            "nonfinite": {"total": self.watch.total, "in_a_row": self.watch.in_a_row},
        }

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Become the state that `tensors()` and `facts()` described. Raises StateMismatch before anything changes."""
        mine = self.tensors()
        if (described := _shapes(tensors)) != (wanted := _shapes(mine)):
            differing = sorted(name for name, _ in set(described.items()) ^ set(wanted.items()))
            raise StateMismatch(f"tensors differ in {', '.join(differing)}")
        for name, tensor in mine.items():
            if not name.startswith("random."):
                tensor.copy_(tensors[name])
        random = {name: tensors[f"random.{name}"] for name in random_state(self.device)}
        restore_random_state(random, self.device)
        self.step = facts["step"]
        self.training_seconds = facts["training_seconds"]
        encoded = facts["kept_evaluation"]
        self.kept.evaluation = encoded and event_pb2.EvaluationCompleted.FromString(base64.b64decode(encoded))
        self.cadence.interval = facts["probes"]["interval"]
        self.cadence.next_step = facts["probes"]["next_step"]
        self.gains = GainWindow.from_state(facts["gains"])
        self.watch = NonfiniteWatch(**facts["nonfinite"])


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (str(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors.items()}
