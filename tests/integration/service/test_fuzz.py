"""Requests that are nearly right: whatever is wrong with them, the answer is one of the documented refusals."""

import random
from collections.abc import Callable, MutableSequence, Sequence
from functools import partial
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from gradsight._reasons import Reason
from gradsight.v1 import training_service_pb2 as pb
from gradsight_insight.catalogue import KINDS

Service = Any
Refused = Callable[[Callable[[], Any]], Any]

CASES = 600
NUMBERS = (0, 1, -1, 2, 64, 65537, 2**31 - 1, -(2**31))
TEXTS = ("", "label", "width", "text", "a" * 300, "\x00", "\u202e", "../x", "sha256:" + "0" * 64, "ß" * 40)
FLOATS = (0.0, -1.0, 0.5, 1.0, 1e300, float("nan"), float("inf"), -float("inf"))


def mutate(message: Message, dice: random.Random) -> None:
    """Change one field somewhere in the message."""
    fields: Sequence[Any] = message.DESCRIPTOR.fields
    if not fields:
        return
    field = dice.choice(fields)
    value = getattr(message, field.name)
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        mutate_map(value, kind.fields_by_name["value"], dice)
    elif kind is not None:
        value.SetInParent()
        mutate(value, dice)
    elif isinstance(value, MutableSequence):
        value.extend([value_for(field, dice)] * dice.choice((1, 2, 80)))
    else:
        setattr(message, field.name, value_for(field, dice))


def mutate_map(entries: Any, field: FieldDescriptor, dice: random.Random) -> None:
    if field.message_type is not None:
        mutate(entries[dice.choice((*TEXTS, *KINDS))], dice)
    else:
        entries[dice.choice((*TEXTS, "window"))] = value_for(field, dice)


def value_for(field: FieldDescriptor, dice: random.Random) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return dice.choice(TEXTS)
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return dice.choice(FLOATS)
        case FieldDescriptor.CPPTYPE_BOOL:
            return dice.random() < 0.5
        case _:
            return dice.choice(NUMBERS)


def test_a_mutated_spec_is_accepted_or_refused_with_a_reason(service: Service, refusal: Refused) -> None:
    seed = 20_261_123
    dice = random.Random(seed)
    sound = service.spec()
    refused = 0
    for case in range(CASES):
        request = pb.CreateJobRequest(spec=sound, validate_only=True)
        for _ in range(dice.choice((1, 1, 2, 5))):
            mutate(request.spec, dice)
        try:
            service.training.CreateJob(request)
        except grpc.RpcError:
            answer = refusal(partial(service.training.CreateJob, request))
            refused += 1
            assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, (seed, case, answer.message)
            assert answer.reason in (Reason.INVALID_FIELD, Reason.NOT_SUPPORTED_YET)
            assert answer.fields, (seed, case)
    assert refused > CASES / 3


def test_mutated_bytes_never_reach_an_inner_error(service: Service) -> None:
    seed = 7
    dice = random.Random(seed)
    sound = pb.CreateJobRequest(spec=service.spec(), validate_only=True).SerializeToString()
    call: Any = service.channel.unary_unary("/gradsight.v1.TrainingService/CreateJob")
    allowed = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OK}
    for case in range(CASES):
        broken = bytearray(sound)
        for _ in range(dice.choice((1, 2, 8))):
            broken[dice.randrange(len(broken))] = dice.randrange(256)
        answered = call.future(bytes(broken))
        assert answered.code() in allowed, (seed, case, answered.details())
