"""From the contract's messages to the client's records: the only place that knows both.

A record's own annotations drive it: a field is read from the message's field of the same name, enumerations become
words, timestamps aware datetimes, and what is absent, empty or unspecified becomes None where the annotation allows it.
"""

import datetime
import enum
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from gradsight import _events
from gradsight._enum_words import word
from gradsight._events import FeedEvent, Gap, JobEvent
from gradsight._job import Job
from gradsight._records import Record
from gradsight._spec import JobSpec
from gradsight.v1 import event_pb2, job_pb2, training_service_pb2

R = TypeVar("R", bound=Record)


def record(cls: type[R], message: Message) -> R:
    """Returns the record of class `cls` that the message describes."""
    readers: tuple[tuple[str, _Read], ...] = _readers(cls, message.DESCRIPTOR.full_name)  # type: ignore[arg-type]
    return cls(**{name: read(message) for name, read in readers})


def job(message: job_pb2.Job) -> Job:
    """Returns the job that the message describes."""
    return record(Job, message)


def event(message: event_pb2.JobEvent) -> JobEvent | None:
    """Returns the event that the message describes; None for a kind that this client does not know."""
    kind = message.WhichOneof("kind")
    if kind is None:
        return None
    detail = getattr(message, kind)
    return JobEvent(
        sequence=message.sequence,
        record_time=_time(message.record_time) if message.HasField("record_time") else None,
        attempt=message.attempt,
        kind=kind,
        detail=typing.cast(_events.EventDetail, record(getattr(_events, detail.DESCRIPTOR.name), detail)),
    )


def gap(message: training_service_pb2.Gap) -> Gap:
    """Returns the gap that the message describes."""
    return record(Gap, message)


def feed_event(message: training_service_pb2.WatchJobsResponse) -> FeedEvent | None:
    """Returns the feed's event; None for a heartbeat and for a kind that this client does not know."""
    read = event(message.event) if message.HasField("event") else None
    if read is None:
        return None
    return FeedEvent(cursor=message.cursor, job_id=message.job_id, name=message.name, event=read)


_Read = Callable[[Any], Any]
_FLOATING = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)


@functools.cache
def _readers(cls: type[Record], message_name: str) -> tuple[tuple[str, _Read], ...]:
    fields = _descriptor_of(message_name)
    hints = typing.get_type_hints(cls)
    return tuple((name, _reader(fields[name], hint)) for name, hint in hints.items())


def _descriptor_of(message_name: str) -> Mapping[str, FieldDescriptor]:
    from google.protobuf.descriptor_pool import Default

    return Default().FindMessageTypeByName(message_name).fields_by_name


def _reader(field: FieldDescriptor, hint: Any) -> _Read:
    """Returns the function that reads one field of a message as `hint` says."""
    name = field.name
    if field.message_type and field.message_type.GetOptions().map_entry:
        return lambda message: dict(getattr(message, name))
    if field.is_repeated:
        [item, _] = typing.get_args(hint)
        if field.cpp_type in _FLOATING:
            return lambda message: _numbers(getattr(message, name))
        if not (field.message_type or field.enum_type):
            return lambda message: tuple(getattr(message, name))
        convert = _converter(field, item)
        return lambda message: tuple(convert(value) for value in getattr(message, name))
    optional = isinstance(hint, types.UnionType)
    inner = next(part for part in typing.get_args(hint) if part is not types.NoneType) if optional else hint
    convert = _converter(field, inner)
    if not optional:
        return lambda message: convert(getattr(message, name))
    if field.has_presence:
        return lambda message: convert(getattr(message, name)) if message.HasField(name) else None
    return lambda message: convert(getattr(message, name)) if getattr(message, name) else None


def _converter(field: FieldDescriptor, hint: Any) -> _Read:
    if hint is datetime.datetime:
        return _time
    if hint is datetime.timedelta:
        return lambda value: value.ToTimedelta()
    if hint is JobSpec:
        return JobSpec._from_message
    if field.message_type:
        return functools.partial(record, hint)
    if field.enum_type:
        return functools.partial(_word, hint, field.enum_type)
    if field.cpp_type in _FLOATING:
        return _number
    return lambda value: value


def _number(value: float) -> float:
    """Returns the number; of all that are no number the same one: then records of the same event are equal."""
    return math.nan if value != value else value


def _numbers(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(map(_number, values)) if math.isnan(sum(values)) else tuple(values)


def _time(value: Any) -> datetime.datetime:
    read: datetime.datetime = value.ToDatetime(tzinfo=datetime.UTC)
    return read


def _word(cls: type[enum.StrEnum], descriptor: EnumDescriptor, number: int) -> enum.StrEnum:
    """Returns the member of `cls` for an enumeration's value; `UNKNOWN` for values of a newer service."""
    known = word(descriptor, number)
    return cls(known) if known and known in cls.__members__.values() else cls("unknown")
