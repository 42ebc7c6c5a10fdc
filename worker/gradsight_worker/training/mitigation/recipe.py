"""Repairs that change the recipe the spec gives: only where the spec allows them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from gradsight_insight.monitor import Monitor
from gradsight_insight.signals import InputFacts, RunFacts
from gradsight_models import Layer
from gradsight_worker.training.data.batches import derive_seed
from gradsight_worker.training.data.encoding import EncodedRows
from gradsight_worker.training.mitigation.reinitialization import reinitialize
from gradsight_worker.training.mitigation.remedies import Action
from gradsight_worker.training.mitigation.standardization import InputStandardization
from gradsight_worker.training.state import TrainingState


@dataclass(kw_only=True)
class Recipe:
    """Changes the model, and tells the monitor which facts no longer hold."""

    model: nn.Module
    state: TrainingState
    layers: Sequence[Layer]
    monitor: Monitor
    train: EncodedRows
    seed: int
    standardization: InputStandardization | None
    """None where inputs are standardized already."""

    def __post_init__(self) -> None:
        self._facts = self.monitor.facts

    def reinitialize(self, paths: Sequence[str], *, number: int) -> None:
        """Draw new weights for the layers at these paths, all without any; `number` tells draws of a run apart."""
        reinitialize(
            self.model,
            self.state,
            names={name for layer in self.layers if layer.path in paths for name in layer.parameter_names},
            activations={layer.path: layer.activation for layer in self._facts.layers},
            seed=derive_seed(self.seed, f"reinitialize {number}"),
        )

    def standardize(self) -> None:
        """Standardize the inputs by train's figures, for the average's answers, too."""
        assert self.standardization is not None
        self.standardization.begin(self.train)
        with self.state.answering():
            self.standardization.begin(self.train)

    def tell(self, in_force: Sequence[str]) -> None:
        """Let the monitor know what holds with these changes in force."""
        facts = self._facts
        if Action.REINITIALIZE in in_force:
            facts = _without_first_weights(facts)
        if Action.STANDARDIZE_INPUTS in in_force:
            facts = _standardized(facts)
        self.monitor.facts = facts


def _without_first_weights(facts: RunFacts) -> RunFacts:
    layers = tuple(replace(layer, symmetric_units=False) for layer in facts.layers)
    return replace(facts, layers=layers, first_batch=None)


def _standardized(facts: RunFacts) -> RunFacts:
    inputs = tuple(_standard(figures) for figures in facts.inputs)
    return replace(facts, inputs=inputs, first_batch=None)


def _standard(figures: InputFacts) -> InputFacts:
    if figures.mean is None or not figures.deviation:
        return figures
    largest = None if figures.largest is None else figures.largest / figures.deviation
    return replace(figures, mean=0.0, deviation=1.0, largest=largest)
