"""What can be said about a spec without the store and without its rows: limits, required fields, combinations."""

from collections.abc import Callable, Iterator

from gradsight.v1 import spec_pb2
from gradsight_service.defaults import ARCHITECTURES, architecture_of
from gradsight_service.errors import Violation
from gradsight_service.limits import limit_violations, not_supported, shown

SPLITS = ("train", "validation", "test")


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
    known = ", ".join(ARCHITECTURES)
    if not spec.HasField("model") or not spec.model.WhichOneof("kind"):
        yield required("model", f"name a model, as in model.builtin: {known}")
    elif spec.model.HasField("builtin") and not architecture_of(spec):
        yield required("model.builtin", f"name an architecture: {known}")


def _sources(spec: spec_pb2.JobSpec) -> Iterator[Violation]:
    if not spec.data.HasField("train"):
        yield required("data.train", "name the rows to train on, as in data.train.artifact")
    for split in SPLITS:
        if spec.data.HasField(split) and not getattr(spec.data, split).WhichOneof("location"):  # type: ignore[arg-type]
            yield required(f"data.{split}", f"say where the rows are, as in data.{split}.artifact")


def _columns(spec: spec_pb2.JobSpec) -> Iterator[Violation]:
    data = spec.data
    if not data.target_column:
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
    if architecture_of(spec) == "text_classifier" and len(data.input_columns) > 1:
        yield Violation(
            path="data.input_columns",
            message=f"got {len(data.input_columns)} columns, allowed 1 for text_classifier: the text",
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


def _evaluation(spec: spec_pb2.JobSpec) -> Iterator[Violation]:
    if spec.evaluation.category_impacts and not spec.data.category_column:
        yield Violation(
            path="evaluation.category_impacts",
            message="got impacts without data.category_column, allowed only with one: name the category's column",
        )


def _resources(spec: spec_pb2.JobSpec) -> Iterator[Violation]:
    if 1 < spec.resources.device_count <= 4096:
        yield not_supported("resources.device_count", "1 device in a job")


_RULES: tuple[Callable[[spec_pb2.JobSpec], Iterator[Violation]], ...] = (
    _model,
    _sources,
    _columns,
    _split,
    _optimizer,
    _evaluation,
    _resources,
)
