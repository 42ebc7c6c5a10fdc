"""How much of itself weight decay takes from each parameter in a step."""

from collections.abc import Mapping

from gradsight.v1 import spec_pb2
from gradsight_worker.training.optimizers.muon import names_of_muon
from gradsight_worker.training.parameters import FlatParameters


def shrinkage_per_rate(spec: spec_pb2.OptimizerSpec, parameters: FlatParameters) -> Mapping[str, float]:
    """Share of a parameter that decay alone takes from it in a step, for a learning rate of 1: by name, at least 0.

    AdamW, Muon and Adafactor multiply the weights by 1 − rate × decay. SGD adds the decay to the gradient, so that
    momentum repeats it: once the momentum has built up, a step takes 1 / (1 − momentum) times as much. Adam divides
    what is added to the gradient by the gradient's own size; what that takes from a weight depends on the gradient,
    so nothing is said of it.

    Args:
        spec: With the service's defaults filled in.
        parameters: What the optimizer updates.

    Returns:
        0 for parameters that do not decay, and for all of them where nothing can be said.
    """
    decay = spec.weight_decay
    if spec.HasField("adam"):
        decay = 0.0
    if spec.HasField("sgd"):
        decay /= 1 - spec.sgd.momentum
    shrinkage = {
        name: decay if decays else 0.0
        for name, decays in zip(parameters.names, parameters.decays, strict=True)
    }
    if spec.HasField("muon"):
        # What is not Muon's is decayed by AdamW, at a rate of its own.
        ratio, own = spec.muon.adamw_learning_rate / spec.learning_rate, names_of_muon(parameters)
        return {name: value if name in own else ratio * value for name, value in shrinkage.items()}
    return shrinkage
