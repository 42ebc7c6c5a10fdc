"""Defaults: a spec as it was sent becomes the spec that is stored, trained and shown.

Everything that the service can know is filled in, so that a job says by itself what was done. What needs the
rows or the device (numeric columns, threads) and an architecture's own sizes stay open.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.message import Message

from gradsight.v1 import spec_pb2

TEXT_COLUMN = "text"
QUEUE = "default"


@dataclass(frozen=True, kw_only=True)
class ArchitectureDefaults:
    """What an architecture trains best with when the spec does not say."""

    learning_rate: float
    """Of AdamW, at the top of the schedule."""
    epochs: int
    batch_size: int = 64
    weight_decay: float = 0.01
    label_smoothing: float = 0.0


# One line per architecture; the figures come from trials on splits of training data.
ARCHITECTURES: Mapping[str, ArchitectureDefaults] = {
    "mlp": ArchitectureDefaults(learning_rate=1e-3, epochs=20),
    "text_classifier": ArchitectureDefaults(learning_rate=5e-3, epochs=12),
}
OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("constant", "cosine")

_MAX_GRADIENT_NORM = 1.0
_SGD_LEARNING_RATE = 0.1
_COSINE_WARMUP_FRACTION = 0.05
_SPLIT_FRACTION = 0.1
_CHECKPOINT_INTERVAL_S = 30
_CHECKPOINTS_KEPT = 2


def with_defaults(spec: spec_pb2.JobSpec) -> spec_pb2.JobSpec:
    """A copy of a valid spec with every default filled in; what the spec says is left as it is."""
    filled = spec_pb2.JobSpec()
    filled.CopyFrom(spec)
    architecture = architecture_of(spec)
    own = ARCHITECTURES[architecture]
    filled.name = filled.name or architecture
    filled.queue = filled.queue or QUEUE
    _fill_data(filled.data, architecture, own)
    if not filled.objective.HasField("kind"):
        filled.objective.cross_entropy.SetInParent()
    _default(filled.objective.cross_entropy, label_smoothing=own.label_smoothing)
    _fill_optimizer(filled.optimizer, own)
    _fill_schedule(filled.schedule)
    if not filled.budget.HasField("length"):
        filled.budget.epochs = own.epochs
    filled.evaluation.SetInParent()
    filled.monitoring.policy = filled.monitoring.policy or spec_pb2.MONITORING_POLICY_ADVISE
    if not filled.checkpoint.HasField("interval"):
        filled.checkpoint.interval.seconds = _CHECKPOINT_INTERVAL_S
    _default(filled.checkpoint, keep=_CHECKPOINTS_KEPT)
    _default(filled.resources, device_count=1)
    _default(filled, seed=0)
    return filled


def architecture_of(spec: spec_pb2.JobSpec) -> str:
    """Name of the built-in architecture, empty when the spec names none."""
    return spec.model.builtin.WhichOneof("architecture") or ""


def _fill_data(data: spec_pb2.DataSpec, architecture: str, own: ArchitectureDefaults) -> None:
    _default(data, batch_size=own.batch_size)
    _default(data.split, seed=0)
    if not data.HasField("validation"):
        _default(data.split, validation_fraction=_SPLIT_FRACTION)
    if not data.HasField("test"):
        _default(data.split, test_fraction=_SPLIT_FRACTION)
    if architecture == "text_classifier" and not data.input_columns:
        data.input_columns.append(TEXT_COLUMN)


def _fill_optimizer(optimizer: spec_pb2.OptimizerSpec, own: ArchitectureDefaults) -> None:
    if not optimizer.HasField("algorithm"):
        optimizer.adamw.SetInParent()
    if optimizer.HasField("sgd"):
        _default(optimizer.sgd, momentum=0.9)
        _default(optimizer, learning_rate=_SGD_LEARNING_RATE, weight_decay=0.0)
    else:
        _default(optimizer.adamw, beta1=0.9, beta2=0.999, epsilon=1e-8)
        _default(optimizer, learning_rate=own.learning_rate, weight_decay=own.weight_decay)
    if not optimizer.clipping_disabled:
        _default(optimizer, max_gradient_norm=_MAX_GRADIENT_NORM)


def _fill_schedule(schedule: spec_pb2.ScheduleSpec) -> None:
    if not schedule.HasField("kind"):
        schedule.cosine.SetInParent()
    if schedule.HasField("cosine"):
        _default(schedule.cosine, final_fraction=0.0)
        _default(schedule, warmup_fraction=_COSINE_WARMUP_FRACTION)
    else:
        _default(schedule, warmup_fraction=0.0)


def _default(message: Message, **values: float) -> None:
    for name, value in values.items():
        if not message.HasField(name):
            setattr(message, name, value)
