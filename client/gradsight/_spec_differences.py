"""Where two specs differ: one walk over the contract's own description, for the service and for checkpoints."""

from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from gradsight._enum_words import word
from gradsight._plain import format_duration


@dataclass(frozen=True, kw_only=True)
class FieldDifference:
    """One field in which two specs differ, with its value in each; None where a spec does not say it.

    Values are those of JSON: enumerations are lower-case words, durations `30m`. Where another choice was made,
    the value is the chosen member with what it says: `{"sgd": {"momentum": 0.9}}`, and `is_choice` is true.
    """

    path: str
    value: Any
    earlier: Any
    is_choice: bool = False


def differences(
    message: Message, earlier: Message, path: str = "", free: Set[str] = frozenset()
) -> Iterator[FieldDifference]:
    """Every field in which two messages of one kind differ, in the contract's order.

    Args:
        message: One of them.
        earlier: The other.
        path: Where both stand.
        free: Paths at which, and below which, they may differ.
    """
    other_choices = set(_choices(message, earlier))
    for field in message.DESCRIPTOR.fields:
        where = f"{path}.{field.name}" if path else field.name
        if where in free:
            continue
        choice = field.containing_oneof.name if field.containing_oneof else ""
        if choice in other_choices:
            other_choices.remove(choice)
            ours, theirs = _chosen(message, choice), _chosen(earlier, choice)
            yield FieldDifference(path=path, value=ours, earlier=theirs, is_choice=True)
        elif _is_structure(field):
            yield from differences(getattr(message, field.name), getattr(earlier, field.name), where, free)
        elif (value := _value(message, field)) != (other := _value(earlier, field)):
            yield FieldDifference(path=where, value=value, earlier=other)


def _choices(message: Message, earlier: Message) -> Iterator[str]:
    """The choices of a message that were made in another way; `optional` scalars count as none."""
    for oneof in message.DESCRIPTOR.oneofs:
        members = message.WhichOneof(oneof.name), earlier.WhichOneof(oneof.name)
        if not oneof.name.startswith("_") and members[0] != members[1]:
            yield oneof.name


def _chosen(message: Message, choice: str) -> Any:
    name = message.WhichOneof(choice)
    return None if name is None else {name: _value(message, message.DESCRIPTOR.fields_by_name[name])}


def _is_structure(field: Any) -> bool:
    """Whether the field is looked into: a message with fields of its own, and only one."""
    message = field.message_type
    return message is not None and not field.is_repeated and message.full_name != "google.protobuf.Duration"


def _value(message: Message, field: Any) -> Any:
    """What a field says, as JSON has it; None where it is not said."""
    value = getattr(message, field.name)
    if field.is_repeated and field.message_type:
        entry = field.message_type.fields_by_name["value"]
        return {key: _plain(entry, value[key]) for key in sorted(value)}
    if field.is_repeated:
        return [_plain(field, item) for item in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    if value == "" or (field.enum_type and value == 0):
        return None
    return _plain(field, value)


def _plain(field: Any, value: Any) -> Any:
    if isinstance(value, Message):
        if value.DESCRIPTOR.full_name == "google.protobuf.Duration":
            return format_duration(value.seconds * 10**9 + value.nanos)  # type: ignore[attr-defined]
        return {inner.name: _value(value, inner) for inner, _ in value.ListFields()}
    return (word(field.enum_type, value) or value) if field.enum_type else value
