"""Defaults: a spec as it was sent becomes the spec that is stored, trained and shown.

Everything that the service can know is filled in, so that a job says by itself what was done. What needs the
rows or the device (numeric columns, threads) and an architecture's own sizes stay open.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.message import Message

from gradsight.v1 import spec_pb2

TEXT_COLUMN = "text"
IMAGE_COLUMN = "image"
TOKENS_COLUMN = "tokens"
"""The name of a whole array, to a language model."""
QUEUE = "default"


@dataclass(frozen=True, kw_only=True)
class ModelDefaults:
    """What a model trains best with when the spec does not say."""

    learning_rate: float
    """Of AdamW, at the top of the schedule."""
    epochs: int
    batch_size: int = 64
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    objective: str = "cross_entropy"
    input_column: str = ""
    """The column that it reads when the spec names none; empty: it depends on the rows."""


MODELS: Mapping[str, ModelDefaults] = {
    # Small and robust: the usual rate of Adam; tables of some thousand rows are learned within 20 passes.
    "mlp": ModelDefaults(learning_rate=1e-3, epochs=20),
    # Linear in sparse features, so it bears a high rate: docs/decisions/0007.
    "text_classifier": ModelDefaults(learning_rate=5e-3, epochs=12, input_column=TEXT_COLUMN),
    # Attention from scratch diverges at higher rates; smaller batches give it the steps that it needs.
    "text_transformer": ModelDefaults(learning_rate=3e-4, epochs=10, batch_size=32, input_column=TEXT_COLUMN),
    # Normalised convolutions take the usual rate.
    "cnn": ModelDefaults(learning_rate=1e-3, epochs=20, input_column=IMAGE_COLUMN),
    # Rate and decay of GPT-2's size class; few passes, since a language model soon learns its text by heart.
    "gpt": ModelDefaults(
        learning_rate=6e-4,
        epochs=5,
        batch_size=32,
        weight_decay=0.1,
        objective="causal_language_model",
        input_column=TEXT_COLUMN,
    ),
    # Nothing is known of it: the usual rate of Adam.
    "program": ModelDefaults(learning_rate=1e-3, epochs=10),
    # Mostly weights that were trained before: a low rate and few passes keep what they know.
    "recipe": ModelDefaults(learning_rate=5e-5, epochs=3, batch_size=32),
}
ARCHITECTURES = tuple(name for name in MODELS if name in spec_pb2.BuiltinModel.DESCRIPTOR.fields_by_name)

_SPLIT_FRACTION = 0.1
_CHECKPOINT_INTERVAL_S = 30
_CHECKPOINTS_KEPT = 2
_MAX_GRADIENT_NORM = 1.0
# Of the optimizers that do not measure gradients as Adam does, and so need a rate of their own.
_LEARNING_RATES = {"sgd": 0.1, "adafactor": 0.01, "muon": 0.02}
_DECAYING = ("adamw", "muon")
_OPTIMIZER_OPTIONS: Mapping[str, Mapping[str, float]] = {
    "adamw": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
    "sgd": {"momentum": 0.9},
    "adam": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
    "adafactor": {"beta2_decay": -0.8, "clipping_threshold": 1.0},
    "muon": {"momentum": 0.95, "iterations": 5},
}
_SCHEDULE_OPTIONS: Mapping[str, Mapping[str, float]] = {
    "constant": {},
    "cosine": {"final_fraction": 0.0},
    "linear": {"final_fraction": 0.0},
    "one_cycle": {"rise_fraction": 0.3, "initial_fraction": 0.04, "final_fraction": 0.0},
    "step": {"factor": 0.1},
    "plateau": {"factor": 0.5, "patience": 3, "final_fraction": 0.0},
}
# The others hold the largest rate for long, which is warm-up enough.
_WARMUP_FRACTIONS = {"cosine": 0.05, "linear": 0.05}
_MILESTONES = (0.5, 0.75)
OPTIMIZERS = tuple(_OPTIMIZER_OPTIONS)
SCHEDULES = tuple(_SCHEDULE_OPTIONS)
OBJECTIVES = tuple(field.name for field in spec_pb2.ObjectiveSpec.DESCRIPTOR.fields)


def with_defaults(spec: spec_pb2.JobSpec) -> spec_pb2.JobSpec:
    """A copy of a valid spec with every default filled in; what the spec says is left as it is."""
    filled = spec_pb2.JobSpec()
    filled.CopyFrom(spec)
    own = MODELS[model_of(spec)]
    filled.name = filled.name or spec.model.recipe.name or model_of(spec)
    filled.queue = filled.queue or QUEUE
    _fill_data(filled.data, own)
    _fill_objective(filled.objective, own)
    _fill_optimizer(filled.optimizer, own)
    _fill_schedule(filled.schedule)
    if not filled.budget.HasField("length"):
        filled.budget.epochs = own.epochs
    _default(filled.evaluation, min_improvement=0.0)
    filled.monitoring.policy = filled.monitoring.policy or spec_pb2.MONITORING_POLICY_ADVISE
    if not filled.checkpoint.HasField("interval"):
        filled.checkpoint.interval.seconds = _CHECKPOINT_INTERVAL_S
    _default(filled.checkpoint, keep=_CHECKPOINTS_KEPT)
    _default(filled.resources, device_count=1)
    filled.compute.precision = filled.compute.precision or spec_pb2.PRECISION_FLOAT32
    filled.result.SetInParent()
    _default(filled, seed=0)
    return filled


def model_of(spec: spec_pb2.JobSpec) -> str:
    """Key in MODELS: the built-in architecture, `program` or `recipe`; empty when the spec names none."""
    kind = spec.model.WhichOneof("kind")
    return (spec.model.builtin.WhichOneof("architecture") if kind == "builtin" else kind) or ""


def objective_of(spec: spec_pb2.JobSpec) -> str:
    """The objective that the spec names, or else its model's own; empty when it names no model either."""
    own = MODELS.get(model_of(spec))
    return spec.objective.WhichOneof("kind") or (own.objective if own else "")


def input_column(data: spec_pb2.DataSpec, own: ModelDefaults) -> str:
    """The column that a model reads when the spec names none; empty: it depends on the rows."""
    tokens = own.objective == "causal_language_model" and data.train.format == spec_pb2.DATA_FORMAT_NPY
    return TOKENS_COLUMN if tokens else own.input_column


def _fill_data(data: spec_pb2.DataSpec, own: ModelDefaults) -> None:
    _default(data, batch_size=own.batch_size)
    _default(data.split, seed=0)
    if not data.HasField("validation"):
        _default(data.split, validation_fraction=_SPLIT_FRACTION)
    if not data.HasField("test"):
        _default(data.split, test_fraction=_SPLIT_FRACTION)
    if column := "" if data.input_columns else input_column(data, own):
        data.input_columns.append(column)


def _fill_objective(objective: spec_pb2.ObjectiveSpec, own: ModelDefaults) -> None:
    if not objective.HasField("kind"):
        getattr(objective, own.objective).SetInParent()
    if objective.HasField("cross_entropy"):
        cross_entropy = objective.cross_entropy
        _default(cross_entropy, label_smoothing=own.label_smoothing)
        cross_entropy.class_weighting = cross_entropy.class_weighting or spec_pb2.CLASS_WEIGHTING_NONE
    if objective.HasField("binary_cross_entropy"):
        _default(objective.binary_cross_entropy, separator="|")
    if objective.HasField("huber"):
        _default(objective.huber, delta=1.0)


def _fill_optimizer(optimizer: spec_pb2.OptimizerSpec, own: ModelDefaults) -> None:
    if not optimizer.HasField("algorithm"):
        optimizer.adamw.SetInParent()
    algorithm = optimizer.WhichOneof("algorithm")
    assert algorithm
    _default(getattr(optimizer, algorithm), **_OPTIMIZER_OPTIONS[algorithm])
    if algorithm == "muon":
        _default(optimizer.muon, adamw_learning_rate=own.learning_rate)
    _default(
        optimizer,
        learning_rate=_LEARNING_RATES.get(algorithm, own.learning_rate),
        weight_decay=own.weight_decay if algorithm in _DECAYING else 0.0,
        accumulation_steps=1,
    )
    if not optimizer.clipping_disabled:
        _default(optimizer, max_gradient_norm=_MAX_GRADIENT_NORM)


def _fill_schedule(schedule: spec_pb2.ScheduleSpec) -> None:
    if not schedule.HasField("kind"):
        schedule.cosine.SetInParent()
    kind = schedule.WhichOneof("kind")
    assert kind
    _default(getattr(schedule, kind), **_SCHEDULE_OPTIONS[kind])
    _default(schedule, warmup_fraction=_WARMUP_FRACTIONS.get(kind, 0.0))
    if kind == "step" and not schedule.step.milestones:
        schedule.step.milestones.extend(_MILESTONES)


def _default(message: Message, **values: float | str) -> None:
    message.SetInParent()
    for name, value in values.items():
        if not message.HasField(name):
            setattr(message, name, value)
