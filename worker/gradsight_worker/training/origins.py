"""From the spec's model to its source: a built-in architecture, the user's program, or an installed recipe."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from gradsight._enum_words import word
from gradsight_models import ARCHITECTURES, BuiltinSource, ModelSource
from gradsight_models.program import ProgramSource
from gradsight_models.recipes import RecipeRefused, RecipeSource
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.plan import TrainingPlan


def source_of(plan: TrainingPlan) -> ModelSource:
    """The source that the plan's spec names. Raises TrainingFailed with the field at fault."""
    model = plan.spec.model
    kind = model.WhichOneof("kind")
    try:
        if kind == "program":
            assert plan.graph is not None
            assert plan.weights is not None
            return ProgramSource(plan.graph.read_bytes(), plan.weights)
        if kind == "recipe":
            return RecipeSource(model.recipe.name, dict(model.recipe.options))
        return _builtin(plan)
    except RecipeRefused as refusal:
        raise TrainingFailed.by_spec(str(refusal), field=refusal.field) from refusal
    except ValueError as error:
        raise TrainingFailed.by_spec(str(error), field=f"model.{kind}") from error


def image_size_of(source: ModelSource) -> int | None:
    """Side of the square, in pixels, that images of an archive are scaled to; None leaves them as they are."""
    if isinstance(source, BuiltinSource):
        size: int | None = source.options.get("image_size")
        return size
    return None


def _builtin(plan: TrainingPlan) -> ModelSource:
    name = plan.spec.model.builtin.WhichOneof("architecture") or ""
    if name not in ARCHITECTURES:
        raise TrainingFailed.by_spec(
            f"got {name or 'no architecture'}, allowed: {', '.join(ARCHITECTURES)}", field="model.builtin"
        )
    try:
        return BuiltinSource(name, _options(getattr(plan.spec.model.builtin, name)))
    except ValueError as error:
        raise TrainingFailed.by_spec(str(error), field=f"model.builtin.{name}") from error


def _options(message: Message) -> Mapping[str, Any]:
    """The options that a spec sets, as plain values; enumerations as their words."""
    options: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.enum_type is not None:
            options[field.name] = word(field.enum_type, value)
        else:
            options[field.name] = list(value) if field.is_repeated else value
    return options
