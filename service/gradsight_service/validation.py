"""What can be said about a spec without the store and without its rows: limits, required fields, combinations."""

from collections.abc import Callable, Iterator
from itertools import pairwise

from gradsight.v1 import spec_pb2
from gradsight_service.defaults import ARCHITECTURES, MODELS, model_of, objective_of
from gradsight_service.errors import Violation
from gradsight_service.limits import limit_violations, not_supported, shown
from gradsight_service.monitoring import monitoring_violations

SPLITS = ("train", "validation", "test")

_LANGUAGE = "causal_language_model"
_LANGUAGE_MODELS = ("gpt", "program", "recipe")
_ONE_INPUT = {
    "text_classifier": "the text",
    "text_transformer": "the text",
    "gpt": "the text or its tokens",
    "cnn": "the image",
}


def spec_violations(spec: spec_pb2.JobSpec) -> list[Violation]:
    """Everything that is wrong with the spec as it stands, in the order of its fields as far as possible."""
    found = list(limit_violations(spec))
    for rule in _RULES:
        found.extend(rule(spec))
    return found


def required(path: str, what: str) -> Violation:
    """The violation of a field that must be set."""
    return Violation(path=path, message=f"required: {what}")


def _model(spec: spec_pb2.JobSpec) -> Iterator[Violation]:
    model, known = spec.model, ", ".join(ARCHITECTURES)
    if not spec.HasField("model") or not model.WhichOneof("kind"):
        yield required("model", f"name a model, as in model.builtin: {known}, or model.program, model.recipe")
    elif model.HasField("builtin") and not model_of(spec):
        yield required("model.builtin", f"name an architecture: {known}")
    elif model.HasField("program"):
        for name in ("graph", "weights"):
            if not getattr(model.program, name):
                yield required(
                    f"model.program.{name}", "upload what gradsight.export made, and name its digest"
                )
    elif model.HasField("recipe") and not model.recipe.name:
        yield required("model.recipe.name", "name a recipe that the workers have, as ListRecipes tells")
    for name in ("text_transformer", "gpt"):
        options = getattr(model.builtin, name)
        if options.heads > 0 and options.width > 0 and options.width % options.heads:
            yield Violation(
                path=f"model.builtin.{name}.heads",
                message=f"got {options.heads} with a width of {options.width}, allowed a divisor of the width",
            )


def _start(spec: spec_pb2.JobSpec) -> Iterator[Violation]:
    if spec.HasField("start") and not spec.start.WhichOneof("from"):
        yield required("start", "name a job, as in start.extended_job_id or start.weights_job_id")


def _sources(spec: spec_pb2.JobSpec) -> Iterator[Violation]:
    if not spec.data.HasField("train"):
        yield required("data.train", "name the rows to train on, as in data.train.artifact")
    for split in SPLITS:
        if spec.data.HasField(split) and not getattr(spec.data, split).WhichOneof("location"):  # type: ignore[arg-type]
            yield required(f"data.{split}", f"say where the rows are, as in data.{split}.artifact")


def _columns(spec: spec_pb2.JobSpec) -> Iterator[Violation]:
    data = spec.data
    if objective_of(spec) == _LANGUAGE:
        if data.target_column:
            yield Violation(
                path="data.target_column",
                message=f"got {shown(data.target_column)}, allowed none with {_LANGUAGE}: the next token is the target",
            )
    elif not data.target_column:
        yield required("data.target_column", "name the column with the expected output")
    seen = set()
    for index, column in enumerate(data.input_columns):
        path = f"data.input_columns[{index}]"
        if column in seen:
            yield Violation(path=path, message=f"got {shown(column)} again, allowed each column once")
        if column and column == data.target_column:
            yield Violation(
                path=path,
                message=f"got the target column {shown(column)}, allowed any other: it is the answer",
            )
        if column and column == data.id_column:
            yield Violation(
                path=path,
                message=f"got the id column {shown(column)}, allowed any other: it says nothing of the row",
            )
        seen.add(column)
    if data.id_column and data.id_column in (data.target_column, data.category_column):
        yield Violation(
            path="data.id_column", message=f"got {shown(data.id_column)}, allowed a column of its own"
        )
    if (what := _ONE_INPUT.get(model_of(spec))) and len(data.input_columns) > 1:
        yield Violation(
            path="data.input_columns",
            message=f"got {len(data.input_columns)} columns, allowed 1 for {model_of(spec)}: {what}",
        )


def _split(spec: spec_pb2.JobSpec) -> Iterator[Violation]:
    split = spec.data.split
    for side in ("validation", "test"):
        name = f"{side}_fraction"
        if spec.data.HasField(side) and split.HasField(name):  # type: ignore[arg-type]
            yield Violation(
                path=f"data.split.{name}",
                message=f"got {getattr(split, name):g} beside data.{side}, allowed one of the two",
            )
    both = split.validation_fraction + split.test_fraction
    if both >= 1:
        yield Violation(
            path="data.split",
            message=f"got fractions that sum up to {both:g}, allowed below 1: nothing is left to train on",
        )


def _objective(spec: spec_pb2.JobSpec) -> Iterator[Violation]:
    model, objective = model_of(spec), objective_of(spec)
    if model == "gpt" and objective != _LANGUAGE:
        yield Violation(
            path=f"objective.{objective}",
            message=f"got {objective} for gpt, allowed {_LANGUAGE}: it learns the next token",
        )
    if model and model not in _LANGUAGE_MODELS and objective == _LANGUAGE:
        yield Violation(
            path=f"objective.{objective}",
            message=f"got {objective} for {model}, allowed for {', '.join(_LANGUAGE_MODELS)}: use another objective",
        )
    cross_entropy = spec.objective.cross_entropy
    if cross_entropy.class_weights and cross_entropy.class_weighting == spec_pb2.CLASS_WEIGHTING_BALANCED:
        yield Violation(
            path="objective.cross_entropy.class_weights",
            message="got weights beside class_weighting balanced, allowed one of the two",
        )


def _optimizer(spec: spec_pb2.JobSpec) -> Iterator[Violation]:
    optimizer = spec.optimizer
    if optimizer.clipping_disabled and optimizer.HasField("max_gradient_norm"):
        yield Violation(
            path="optimizer.clipping_disabled",
            message=f"got true beside max_gradient_norm {optimizer.max_gradient_norm:g}, allowed one of the two",
        )
    if optimizer.sgd.nesterov and optimizer.sgd.HasField("momentum") and optimizer.sgd.momentum == 0:
        yield Violation(
            path="optimizer.sgd.nesterov", message="got true with momentum 0, allowed with a momentum above 0"
        )
    rows = _batch_size(spec)
    if 0 < rows < optimizer.accumulation_steps <= 1024:
        yield Violation(
            path="optimizer.accumulation_steps",
            message=f"got {optimizer.accumulation_steps} with a batch of {rows} rows, allowed 1 to {rows}: "
            "each part needs a row",
        )


def _schedule(spec: spec_pb2.JobSpec) -> Iterator[Violation]:
    schedule = spec.schedule
    if schedule.HasField("one_cycle") and schedule.warmup_fraction > 0:
        yield Violation(
            path="schedule.warmup_fraction",
            message=f"got {schedule.warmup_fraction:g} with one_cycle, allowed 0: "
            "its rise is schedule.one_cycle.rise_fraction",
        )
    for index, (earlier, later) in enumerate(pairwise(schedule.step.milestones), start=1):
        if later <= earlier:
            yield Violation(
                path=f"schedule.step.milestones[{index}]",
                message=f"got {later:g} after {earlier:g}, allowed rising shares of the run",
            )


def _evaluation(spec: spec_pb2.JobSpec) -> Iterator[Violation]:
    evaluation = spec.evaluation
    if evaluation.category_impacts and not spec.data.category_column:
        yield Violation(
            path="evaluation.category_impacts",
            message="got impacts without data.category_column, allowed only with one: name the category's column",
        )


def _monitoring(spec: spec_pb2.JobSpec) -> Iterator[Violation]:
    return monitoring_violations(spec.monitoring)


def _compute(spec: spec_pb2.JobSpec) -> Iterator[Violation]:
    cuda = spec.resources.device_class == spec_pb2.DEVICE_CLASS_CUDA
    if spec.compute.precision == spec_pb2.PRECISION_FLOAT16 and not cuda:
        yield Violation(
            path="compute.precision",
            message="got float16, allowed with resources.device_class cuda only: ask for it, or use bfloat16",
        )


def _resources(spec: spec_pb2.JobSpec) -> Iterator[Violation]:
    if 1 < spec.resources.device_count <= 4096:
        yield not_supported("resources.device_count", "1 device in a job")


def _batch_size(spec: spec_pb2.JobSpec) -> int:
    """Rows in a step, from the spec or its model; 0 when neither is known."""
    own = MODELS.get(model_of(spec))
    return spec.data.batch_size if spec.data.HasField("batch_size") else own.batch_size if own else 0


_RULES: tuple[Callable[[spec_pb2.JobSpec], Iterator[Violation]], ...] = (
    _model,
    _start,
    _sources,
    _columns,
    _split,
    _objective,
    _optimizer,
    _schedule,
    _evaluation,
    _monitoring,
    _compute,
    _resources,
)
