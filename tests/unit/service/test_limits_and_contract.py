"""The table of limits and the comments of the contract say the same."""

import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gradsight.v1 import spec_pb2
from gradsight_service.limits import LIMITS, NOT_SUPPORTED_YET, Items

PROTO = Path(__file__).parents[3] / "protos" / "gradsight" / "v1" / "spec.proto"
_DEFINITION = re.compile(r"(?:optional |repeated )?[\w.<>, ]+ (\w+) = -?\d+;")


def comments() -> dict[str, str]:
    """The comment of every field and enum value of the spec, as `Message.field` and `Enum.VALUE`."""
    found: dict[str, str] = {}
    kind, text = "", ""
    for line in PROTO.read_text(encoding="utf-8").splitlines():
        stripped = line.strip()
        if stripped.startswith("//"):
            text += " " + stripped.removeprefix("//").strip()
        elif opened := re.match(r"(?:message|enum) (\w+)", stripped):
            kind, text = opened[1], ""
        elif defined := _DEFINITION.match(stripped) or re.match(r"(\w+) = \d+;", stripped):
            found[f"{kind}.{defined[1]}"] = text.strip()
            text = ""
        else:
            text = ""
    return found


COMMENTS = comments()


def messages(root: Descriptor) -> set[str]:
    seen: dict[str, Descriptor] = {}
    waiting = [root]
    while waiting:
        message = waiting.pop()
        if message.name not in seen and message.file.name.startswith("gradsight/"):
            seen[message.name] = message
            waiting += [field.message_type for field in message.fields if field.message_type]
    return set(seen)


def test_every_field_has_a_comment() -> None:
    for name in messages(spec_pb2.JobSpec.DESCRIPTOR):
        message = spec_pb2.DESCRIPTOR.message_types_by_name.get(name)
        for field in message.fields if message else ():
            assert COMMENTS[f"{name}.{field.name}"]


@pytest.mark.parametrize("field", LIMITS)
def test_a_limit_is_worded_as_in_its_comment(field: str) -> None:
    limit = LIMITS[field]
    wordings = [limit.allowed]
    if isinstance(limit, Items):
        wordings += [limit.value.allowed] + ([limit.key.allowed] if limit.key else [])
    for wording in wordings:
        assert wording in COMMENTS[field]


def test_what_is_not_supported_yet_is_what_the_comments_say() -> None:
    said = {name for name, text in COMMENTS.items() if "Not supported yet" in text}
    assert said == NOT_SUPPORTED_YET


def test_every_number_and_text_of_a_spec_has_a_limit() -> None:
    free = {"DataSource.uri"}
    for name in messages(spec_pb2.JobSpec.DESCRIPTOR):
        message = spec_pb2.DESCRIPTOR.message_types_by_name.get(name)
        for field in message.fields if message else ():
            counts = field.cpp_type not in (
                FieldDescriptor.CPPTYPE_BOOL,
                FieldDescriptor.CPPTYPE_ENUM,
                FieldDescriptor.CPPTYPE_MESSAGE,
            )
            if counts and f"{name}.{field.name}" not in free:
                assert f"{name}.{field.name}" in LIMITS
