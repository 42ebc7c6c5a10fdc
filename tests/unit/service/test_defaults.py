"""A stored spec says by itself what was done."""

from pathlib import Path

import pytest

from gradsight.v1 import spec_pb2
from gradsight_service.defaults import ARCHITECTURES, MODELS, OPTIMIZERS, SCHEDULES, with_defaults
from gradsight_service.validation import spec_violations

PAGE = Path(__file__).parents[3] / "docs" / "defaults.md"


def sparse_spec(model: str) -> spec_pb2.JobSpec:
    spec = spec_pb2.JobSpec()
    if model == "recipe":
        spec.model.recipe.name = "lora"
    elif model == "program":
        spec.model.program.graph = spec.model.program.weights = "sha256:" + "1" * 64
    else:
        getattr(spec.model.builtin, model).SetInParent()
    spec.data.train.artifact = "sha256:" + "0" * 64
    if model != "gpt":
        spec.data.target_column = "label"
    return spec


@pytest.mark.parametrize("model", MODELS)
def test_every_default_is_filled_in_and_valid(model: str) -> None:
    spec = sparse_spec(model)
    filled = with_defaults(spec)
    own = MODELS[model]
    assert filled.name == ("lora" if model == "recipe" else model)
    assert filled.queue == "default"
    assert filled.data.batch_size == own.batch_size
    assert (filled.data.split.validation_fraction, filled.data.split.test_fraction) == (0.1, 0.1)
    assert filled.data.split.HasField("seed")
    assert filled.HasField("seed")
    assert filled.objective.WhichOneof("kind") == own.objective
    assert filled.objective.cross_entropy.HasField("label_smoothing") == (own.objective == "cross_entropy")
    assert filled.optimizer.learning_rate == own.learning_rate
    assert filled.optimizer.weight_decay == own.weight_decay
    assert filled.optimizer.accumulation_steps == 1
    assert (filled.optimizer.adamw.beta1, filled.optimizer.adamw.beta2) == (0.9, 0.999)
    assert filled.optimizer.max_gradient_norm == 1.0
    assert filled.schedule.cosine.HasField("final_fraction")
    assert filled.schedule.warmup_fraction == 0.05
    assert filled.budget.epochs == own.epochs
    assert filled.evaluation.HasField("min_improvement")
    assert not filled.evaluation.HasField("patience")
    assert filled.monitoring.policy == spec_pb2.MONITORING_POLICY_ADVISE
    assert (filled.checkpoint.interval.seconds, filled.checkpoint.keep) == (30, 2)
    assert filled.resources.device_count == 1
    assert filled.compute.precision == spec_pb2.PRECISION_FLOAT32
    assert not filled.HasField("start")
    assert spec_violations(filled) == []
    assert spec == sparse_spec(model), "the sent spec is left as it is"
    assert with_defaults(filled) == filled


def test_every_model_of_the_contract_has_defaults() -> None:
    assert set(ARCHITECTURES) == set(spec_pb2.BuiltinModel.DESCRIPTOR.fields_by_name)
    assert set(MODELS) - set(ARCHITECTURES) == {"program", "recipe"}


@pytest.mark.parametrize(
    ("optimizer", "learning_rate", "weight_decay"),
    [
        ("adamw", 1e-3, 0.01),
        ("sgd", 0.1, 0.0),
        ("adam", 1e-3, 0.0),
        ("adafactor", 0.01, 0.0),
        ("muon", 0.02, 0.01),
    ],
)
def test_every_optimizer_has_its_own_figures(
    optimizer: str, learning_rate: float, weight_decay: float
) -> None:
    spec = sparse_spec("mlp")
    getattr(spec.optimizer, optimizer).SetInParent()
    filled = with_defaults(spec)
    assert (filled.optimizer.learning_rate, filled.optimizer.weight_decay) == (learning_rate, weight_decay)
    assert spec_violations(filled) == []


CHOICES = [
    (section, field.name)
    for section, message in (
        ("objective", spec_pb2.ObjectiveSpec),
        ("optimizer", spec_pb2.OptimizerSpec),
        ("schedule", spec_pb2.ScheduleSpec),
    )
    for field in message.DESCRIPTOR.oneofs[0].fields
    if field.name != "causal_language_model"
]


@pytest.mark.parametrize(("section", "choice"), CHOICES)
def test_every_number_of_a_choice_is_filled_in_and_valid(section: str, choice: str) -> None:
    spec = sparse_spec("mlp")
    getattr(getattr(spec, section), choice).SetInParent()
    filled = with_defaults(spec)
    message = getattr(getattr(filled, section), choice)
    for field in message.DESCRIPTOR.fields:
        if field.has_presence:
            assert message.HasField(field.name), field.name
    assert spec_violations(filled) == []


def test_a_warm_up_precedes_only_what_falls_at_once() -> None:
    for schedule, fraction in (("cosine", 0.05), ("linear", 0.05), ("one_cycle", 0.0), ("step", 0.0)):
        spec = sparse_spec("mlp")
        getattr(spec.schedule, schedule).SetInParent()
        assert with_defaults(spec).schedule.warmup_fraction == fraction
    spec.schedule.step.SetInParent()
    assert list(with_defaults(spec).schedule.step.milestones) == [0.5, 0.75]


def test_what_the_spec_says_stays() -> None:
    spec = sparse_spec("text_classifier")
    spec.name = "support"
    spec.data.input_columns.append("body")
    spec.data.validation.artifact = spec.data.train.artifact
    spec.optimizer.clipping_disabled = True
    spec.optimizer.learning_rate = 0.5
    spec.schedule.constant.SetInParent()
    spec.budget.steps = 10
    filled = with_defaults(spec)
    assert filled.name == "support"
    assert list(filled.data.input_columns) == ["body"]
    assert not filled.data.split.HasField("validation_fraction")
    assert not filled.optimizer.HasField("max_gradient_norm")
    assert filled.optimizer.learning_rate == 0.5
    assert filled.schedule.warmup_fraction == 0
    assert filled.budget.steps == 10


def test_a_text_model_reads_the_column_text() -> None:
    assert list(with_defaults(sparse_spec("text_classifier")).data.input_columns) == ["text"]
    assert list(with_defaults(sparse_spec("gpt")).data.input_columns) == ["text"]
    assert list(with_defaults(sparse_spec("cnn")).data.input_columns) == ["image"]
    assert not with_defaults(sparse_spec("mlp")).data.input_columns


def test_the_page_of_defaults_tells_them() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = {cells[1]: cells for line in lines if len(cells := [c.strip() for c in line.split("|")]) > 6}
    for model, own in MODELS.items():
        figures = (own.learning_rate, own.epochs, own.batch_size, own.weight_decay)
        assert rows[f"`{model}`"][2:6] == [f"{figure:g}" for figure in figures]
    for optimizer in OPTIMIZERS:
        spec = sparse_spec("gpt")
        getattr(spec.optimizer, optimizer).SetInParent()
        filled, (_, _, rate, decay, *_) = with_defaults(spec).optimizer, rows[f"`{optimizer}`"]
        own = MODELS["gpt"]
        assert rate == (
            "the model's" if filled.learning_rate == own.learning_rate else f"{filled.learning_rate:g}"
        )
        assert decay == (
            "the model's" if filled.weight_decay == own.weight_decay else f"{filled.weight_decay:g}"
        )
    assert all(f"| `{schedule}`" in PAGE.read_text(encoding="utf-8") for schedule in SCHEDULES)
