"""What a job that begins with an earlier one may say otherwise: one rule for service and checkpoints."""

import json
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from gradsight._objectives import target_kind
from gradsight.v1 import spec_pb2

FREE_IN_EXTENSION = frozenset(
    {
        "name",
        "labels",
        "queue",
        "priority",
        "start",
        "budget",
        "checkpoint",
        "evaluation.patience",
        "result",
    }
)
"""Paths at which the spec of an extending job may differ from the extended one's: they bear on no number."""

# A program's own weights are not used: those of the earlier job take their place.
_FREE_IN_WEIGHTS = frozenset({"model.program.weights"})
_MOST_SHOWN = 80


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One field in which two specs differ, with its value in each as text."""

    path: str
    value: str
    earlier: str

    def __str__(self) -> str:
        return f"{self.path}: got {self.value}, the earlier job has {self.earlier}"


def spec_difference(
    spec: spec_pb2.JobSpec, earlier: spec_pb2.JobSpec, *, free: Set[str] = frozenset()
) -> Difference | None:
    """The first field, in the contract's order, in which two specs with their defaults differ; None when none does.

    What stands at a path in `free`, or below it, may differ.
    """
    return next(_differences(spec, earlier, "", free), None)


def weights_difference(spec: spec_pb2.JobSpec, earlier: spec_pb2.JobSpec) -> Difference | None:
    """Why a job cannot begin with the weights of the earlier one: another model, inputs or kind of target."""
    if found := next(_differences(spec.model, earlier.model, "model", _FREE_IN_WEIGHTS), None):
        return found
    inputs, earlier_inputs = spec.data.input_columns, earlier.data.input_columns
    if inputs and earlier_inputs and inputs != earlier_inputs:
        return Difference(
            path="data.input_columns", value=_shown(list(inputs)), earlier=_shown(list(earlier_inputs))
        )
    target, earlier_target = target_kind(spec.objective), target_kind(earlier.objective)
    if target != earlier_target:
        kind = spec.objective.WhichOneof("kind")
        return Difference(path=f"objective.{kind}", value=f"a target of {target}", earlier=earlier_target)
    return None


def _differences(message: Message, earlier: Message, path: str, free: Set[str]) -> Iterator[Difference]:
    other_choices = set(_choices(message, earlier))
    for field in message.DESCRIPTOR.fields:
        where = f"{path}.{field.name}" if path else field.name
        if where in free:
            continue
        choice = field.containing_oneof.name if field.containing_oneof else ""
        if choice in other_choices:
            other_choices.remove(choice)
            ours, theirs = message.WhichOneof(choice), earlier.WhichOneof(choice)
            yield Difference(path=path, value=ours or "nothing", earlier=theirs or "nothing")
        elif field.message_type and not field.is_repeated:
            yield from _differences(getattr(message, field.name), getattr(earlier, field.name), where, free)
        elif (value := _value(message, field)) != (other := _value(earlier, field)):
            yield Difference(path=where, value=_shown(value), earlier=_shown(other))


def _choices(message: Message, earlier: Message) -> Iterator[str]:
    """The choices of a message that were made in another way; `optional` scalars count as none."""
    for oneof in message.DESCRIPTOR.oneofs:
        members = message.WhichOneof(oneof.name), earlier.WhichOneof(oneof.name)
        if not oneof.name.startswith("_") and members[0] != members[1]:
            yield oneof.name


def _value(message: Message, field: Any) -> Any:
    """Value of a scalar, list or map; None where it is not said."""
    if field.is_repeated:
        value = getattr(message, field.name)
        return dict(value) if field.message_type else list(value)
    if field.has_presence and not message.HasField(field.name):
        return None
    value = getattr(message, field.name)
    if field.enum_type and value in field.enum_type.values_by_number:
        prefix = field.enum_type.values[0].name.removesuffix("UNSPECIFIED")
        return field.enum_type.values_by_number[value].name.removeprefix(prefix).lower()
    return value


def _shown(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, sort_keys=True)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"
