"""From the spec to an optimizer."""

from gradsight.v1 import spec_pb2
from gradsight_worker.training.optimizers.adafactor import Adafactor
from gradsight_worker.training.optimizers.fused import FusedAdam, FusedSgd
from gradsight_worker.training.optimizers.guarded import Guarded
from gradsight_worker.training.optimizers.interface import Optimizer
from gradsight_worker.training.optimizers.muon import MuonWithAdamW
from gradsight_worker.training.parameters import FlatParameters


def build_optimizer(spec: spec_pb2.OptimizerSpec, parameters: FlatParameters) -> Optimizer:
    """The optimizer that the spec, with the service's defaults filled in, names for these parameters."""
    if spec.HasField("sgd"):
        return FusedSgd(spec.sgd, parameters, weight_decay=spec.weight_decay)
    if spec.HasField("adam"):
        return FusedAdam(spec.adam, parameters, weight_decay=spec.weight_decay)
    if spec.HasField("adafactor"):
        adafactor = Adafactor(spec.adafactor, parameters, weight_decay=spec.weight_decay)
        return Guarded(adafactor, [parameters.values])
    if spec.HasField("muon"):
        return MuonWithAdamW(
            spec.muon,
            parameters,
            weight_decay=spec.weight_decay,
            adamw_rate_ratio=spec.muon.adamw_learning_rate / spec.learning_rate,
        )
    return FusedAdam(spec.adamw, parameters, weight_decay=spec.weight_decay)
