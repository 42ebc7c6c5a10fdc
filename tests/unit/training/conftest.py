"""What the tests of single steps share: a small model that trains as a job's would, without a job."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradsight.v1 import event_pb2, spec_pb2
from gradsight_insight.signals import RunFacts
from gradsight_models import layers_of
from gradsight_worker.training.clipping import Clipping
from gradsight_worker.training.loop import TrainingStep
from gradsight_worker.training.monitoring import RunMonitor
from gradsight_worker.training.objectives import ClassObjective, Objective
from gradsight_worker.training.optimizers import shrinkage_per_rate
from gradsight_worker.training.parameters import FlatParameters
from gradsight_worker.training.probes import Prober
from gradsight_worker.training.run_facts import layer_facts
from gradsight_worker.training.state import TrainingState, initial_state
from gradsight_worker.training.telemetry import StepSlot, Telemetry

CPU = torch.device("cpu")
ROWS = 16


class Stepper:
    """Trains a model on made-up batches of 16 rows, 7 numbers each, in 3 classes."""

    def __init__(
        self,
        model: nn.Module,
        spec: spec_pb2.JobSpec,
        *,
        total_steps: int = 100,
        objective: Objective | None = None,
        device: torch.device = CPU,
    ) -> None:
        self.model = model.to(device).train()
        self.device = device
        self.parameters = FlatParameters(self.model, device)
        self.state: TrainingState = initial_state(spec, self.parameters, total_steps=total_steps)
        self.layers = layers_of(self.model)
        self.prober = Prober(self.model, self.layers, self.parameters)
        self.events: list[event_pb2.JobEvent] = []
        self.objective = objective or ClassObjective()
        self.optimizer = spec.optimizer
        self.clipping = Clipping.of(spec.optimizer)
        self.take_step = self.stepping()

    def stepping(self, model: nn.Module | None = None) -> TrainingStep:
        """A step on the state as it is set up now."""
        return TrainingStep(
            model=self.model if model is None else model,
            objective=self.objective,
            state=self.state,
            clipping=self.clipping,
            prober=self.prober,
            report=self.events.append,
        )

    def telemetry(self, **changes: Any) -> Telemetry:
        """A collector of these steps."""
        return Telemetry(
            **{
                "report": lambda event, droppable: self.events.append(event),
                "device": self.device,
                "prober": self.prober,
                "cadence": self.state.cadence,
                "gains": self.state.gains,
                "noise": self.state.noise,
                "watch": self.state.watch,
                "training_seconds": 0.0,
                **changes,
            }
        )

    def monitor(self, report: Callable[[event_pb2.JobEvent], None], **spec: Any) -> RunMonitor:
        """A monitor of these steps."""
        shrinkage = shrinkage_per_rate(self.optimizer, self.parameters)
        layers = layer_facts(self.model, self.layers, self.prober.tap, shrinkage)
        facts = RunFacts(
            total_steps=100,
            steps_per_epoch=10,
            batch_size=ROWS,
            answers="classes",
            prior_loss=math.log(3),
            layers=tuple(layers),
        )
        return RunMonitor(facts, spec=spec_pb2.MonitoringSpec(**spec), report=report)

    def step(self, *, seed: int | None = None, poison: float | None = None, rows: int = ROWS) -> StepSlot:
        """One step on the batch of that seed; `poison` takes the place of one number."""
        inputs, targets = self.batch(self.state.step if seed is None else seed, rows=rows)
        if poison is not None:
            inputs[0][2, 4] = poison
        measured = self.slot()
        self.take_step(inputs, targets, self.state.schedule.rate(self.state.step + 1), measured)
        self.state.step += 1
        return measured

    def batch(self, seed: int, *, rows: int = ROWS) -> tuple[tuple[Tensor, ...], Tensor]:
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(rows, 7, generator=generator)
        targets = torch.randint(0, 3, (rows,), generator=generator)
        return (values.to(self.device),), targets.to(self.device)

    def slot(self) -> StepSlot:
        return StepSlot.apart(self.device)

    def tensors(self) -> dict[str, Tensor]:
        """Copies of everything that a step may change, random numbers aside."""
        return {
            name: tensor.clone()
            for name, tensor in self.state.tensors().items()
            if not name.startswith("random.")
        }


@pytest.fixture
def stepper() -> Callable[..., Stepper]:
    """Makes steppers; with one thread, because small tensors gain nothing from more."""
    torch.set_num_threads(1)
    return Stepper
