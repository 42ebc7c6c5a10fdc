"""Job specs as people write them in YAML, JSON and Python, to and from the contract's message.

The descriptors of `gradsight.v1` drive both directions, so a new field needs no line here. What people see differs
from the proto in four ways: enumerations are lower-case words, durations are `30m`, a choice with nothing more to say
is its name (`optimizer: sgd`, also `overfitting: disabled`), and a few names are shorter (`_RENAMED`). A local file is
a path; in the message it stands as a URI with the scheme `upload:` until the client has uploaded it: rows, and the two
files of a program.
"""

import dataclasses
import difflib
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from gradsight import _enum_words
from gradsight._errors import FieldViolation, InvalidSpec
from gradsight._export import GRAPH_FILE, WEIGHTS_FILE
from gradsight._plain import format_duration, parse_duration
from gradsight.v1 import spec_pb2

UPLOAD = "upload:"

_RENAMED = {
    "DataSpec": {
        "input_columns": "inputs",
        "target_column": "target",
        "id_column": "id",
        "category_column": "category",
    },
    "EvaluationSpec": {"baseline_job_id": "baseline"},
    "StartSpec": {"extended_job_id": "extend", "weights_job_id": "from_job"},
}
# The members of this message stand directly in the one that holds it: `model: mlp`, not `model: {builtin: mlp}`.
_INLINED = {"ModelSpec": "builtin"}
# What may be said of the whole message in a word that is no choice.
_WORDS: dict[str, dict[str, Any]] = {"DetectorSpec": {"disabled": True}}
_INTEGERS = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64}
_INTEGERS |= {FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64}
_FLOATS = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}


def spec_from_mapping(mapping: Mapping[str, Any], directory: Path) -> spec_pb2.JobSpec:
    """Returns the message for a spec in human form; relative paths begin at `directory`.

    Raises InvalidSpec that names every unknown key (with the nearest known one) and every value of a wrong type.
    """
    reader = _Reader(directory)
    spec = spec_pb2.JobSpec()
    reader.message(spec, mapping, "")
    if reader.violations:
        lines = "; ".join(f"{field}: {message}" if field else message for field, message in reader.violations)
        raise InvalidSpec(f"the spec is wrong: {lines}", reader.violations)
    return spec


def mapping_from_spec(spec: spec_pb2.JobSpec) -> dict[str, Any]:
    """Returns the human form of a spec; fields that are not set are left out."""
    mapping = _form(spec)
    assert isinstance(mapping, dict)
    return mapping


def human_path(path: str) -> str:
    """Returns a field's path in the contract as it is in human form: `data.target` for `data.target_column`."""
    descriptor: Any = spec_pb2.JobSpec.DESCRIPTOR
    said, rest = list[str](), path
    while rest:
        name, _, after = rest.partition(".")
        field = descriptor.fields_by_name.get(name) if descriptor else None
        if field is None:
            return ".".join([*said, rest])
        is_location = descriptor.name == "DataSource" and name in ("artifact", "uri")
        if name != _INLINED.get(descriptor.name) and not is_location:
            said.append(_RENAMED.get(descriptor.name, {}).get(name, name))
        descriptor, rest = field.message_type, after
    return ".".join(said)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Key:
    """Where a human key lives: the field, the inlined message around it if any, and the choice it belongs to."""

    field: FieldDescriptor
    inlined_in: str | None
    choice: str | None


@functools.cache
def _keys(descriptor: Any) -> dict[str, _Key]:
    keys: dict[str, _Key] = {}
    renamed = _RENAMED.get(descriptor.name, {})
    for field in descriptor.fields:
        # `optional` scalars live in a oneof of their own that the generator names with an underscore.
        oneof = field.containing_oneof
        choice = oneof.name if oneof and not oneof.name.startswith("_") else None
        if field.name == _INLINED.get(descriptor.name):
            for inner in _message_type(field).fields:
                keys[inner.name] = _Key(field=inner, inlined_in=field.name, choice=choice)
        else:
            keys[renamed.get(field.name, field.name)] = _Key(field=field, inlined_in=None, choice=choice)
    return keys


def _message_type(field: FieldDescriptor) -> Any:
    assert field.message_type is not None
    return field.message_type


def _words_for(descriptor: Any) -> dict[str, Any]:
    """Keys that may stand alone as a word, with the value that the word means: the members of a choice of messages."""
    if descriptor.name in _WORDS:
        return _WORDS[descriptor.name]
    return {name: {} for name, key in _keys(descriptor).items() if key.choice and key.field.message_type}


class _Reader:
    """Human form to message; collects what is wrong instead of stopping at the first."""

    def __init__(self, directory: Path) -> None:
        self.violations: list[FieldViolation] = []
        self._directory = directory

    def message(self, message: Message, value: Any, path: str) -> None:
        descriptor = message.DESCRIPTOR
        if isinstance(message, spec_pb2.DataSource):
            value = self._source(value, path)
        elif isinstance(message, spec_pb2.ProgramModel):
            value = self._program(value)
        elif isinstance(message, spec_pb2.RecipeModel) and isinstance(value, str):
            value = {"name": value}
        elif descriptor.full_name == "google.protobuf.Duration":
            return self._duration(message, value, path)
        words = _words_for(descriptor)
        if isinstance(value, str) and words:
            if value not in words:
                return self._refuse(path, value, list(words))
            value = {value: words[value]}
        if not isinstance(value, Mapping):
            return self._wrong(path, value, "a mapping with " + ", ".join(_keys(descriptor)))
        if isinstance(message, spec_pb2.DataSpec):
            value = self._text_column(value, path)
        return self._entries(message, value, path)

    def _entries(self, message: Message, value: Mapping[Any, Any], path: str) -> None:
        keys, chosen = _keys(message.DESCRIPTOR), dict[str, str]()
        for name, item in value.items():
            where = f"{path}.{name}" if path else str(name)
            key = keys.get(name)
            if key is None:
                short = ["text"] if isinstance(message, spec_pb2.DataSpec) else []
                self._refuse(where, name, [*keys, *short], what="no such field")
                continue
            if item is None:
                continue
            if key.choice and chosen.setdefault(key.choice, name) != name:
                self._add(where, f"got both {chosen[key.choice]} and {name}; choose one")
                continue
            holder = getattr(message, key.inlined_in) if key.inlined_in else message
            self._field(holder, key.field, item, where)

    def _field(self, holder: Message, field: FieldDescriptor, value: Any, path: str) -> None:
        if field.message_type and field.message_type.GetOptions().map_entry:
            return self._map(holder, field, value, path)
        if field.is_repeated:
            items = [value] if isinstance(value, str) else value
            if not isinstance(items, list | tuple):
                return self._wrong(path, value, "a list")
            read = [self._scalar(field, item, f"{path}[{index}]") for index, item in enumerate(items)]
            getattr(holder, field.name).extend(item for item in read if item is not None)
            return None
        if field.message_type:
            inner = getattr(holder, field.name)
            inner.SetInParent()
            return self.message(inner, value, path)
        read_value = self._scalar(field, value, path)
        if read_value is not None:
            setattr(holder, field.name, read_value)
        return None

    def _map(self, holder: Message, field: FieldDescriptor, value: Any, path: str) -> None:
        if not isinstance(value, Mapping):
            return self._wrong(path, value, "a mapping of names to values")
        entry = _message_type(field).fields_by_name["value"]
        for name, item in value.items():
            if not isinstance(name, str):
                self._wrong(path, name, "names as text; put it in quotes")
                continue
            if entry.message_type:
                self.message(getattr(holder, field.name)[name], item, f"{path}[{name}]")
                continue
            if isinstance(holder, spec_pb2.RecipeModel) and isinstance(item, int | float):
                item = json.dumps(item)  # options of recipes are text, whatever they mean
            read = self._scalar(entry, item, f"{path}[{name}]")
            if read is not None:
                getattr(holder, field.name)[name] = read
        return None

    def _scalar(self, field: FieldDescriptor, value: Any, path: str) -> Any:
        if field.enum_type:
            words = _words(field)
            return words[value] if value in words else self._refuse(path, value, list(words))
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            value = getattr(value, "job_id", value)  # a job or its handle in place of its id
            return value if isinstance(value, str) else self._wrong(path, value, "text; put it in quotes")
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return value if isinstance(value, bool) else self._wrong(path, value, "true or false")
        if isinstance(value, bool) or not isinstance(value, int | float):
            return self._wrong(path, value, "a number")
        if field.cpp_type in _FLOATS:
            return float(value)
        bits = 31 if field.cpp_type == FieldDescriptor.CPPTYPE_INT32 else 63
        if value != value or value in (float("inf"), float("-inf")) or value != int(value):
            return self._wrong(path, value, "a whole number")
        if abs(value) >= 2**bits:
            return self._wrong(path, value, f"a whole number below 2^{bits}")
        return int(value)

    def _duration(self, message: Any, value: Any, path: str) -> None:
        try:
            nanoseconds = parse_duration(value if isinstance(value, str) else "")
        except ValueError:
            return self._wrong(path, value, "a duration such as 45s, 30m or 1h30m")
        message.seconds, message.nanos = divmod(nanoseconds, 10**9)
        return None

    def _source(self, value: Any, path: str) -> Any:
        """A file of rows may be a word: a digest, a URI, or else a path."""
        value = value if isinstance(value, Mapping) else {"path": value}
        form = {name: item for name, item in value.items() if name != "path"}
        location = value.get("path")
        if location is None:
            return form
        if not isinstance(location, str | os.PathLike) or not os.fspath(location):
            self._wrong(path, location, "the path of a file, or the digest of an uploaded one")
            return form
        text = str(os.fspath(location))
        if text.startswith("sha256:"):
            return {"artifact": text, **form}
        if "://" in text:
            return {"uri": text, **form}
        return {"uri": self._upload(text), **form}

    def _program(self, value: Any) -> Any:
        """The files of a program are digests or paths; a word is the directory that `ExportedModel.save` wrote."""
        if isinstance(value, str | os.PathLike):
            value = {"graph": Path(value) / GRAPH_FILE, "weights": Path(value) / WEIGHTS_FILE}
        if not isinstance(value, Mapping):
            return value
        return {name: self._upload(item) if _is_path(item) else item for name, item in value.items()}

    def _upload(self, path: str | os.PathLike[str]) -> str:
        return UPLOAD + os.path.abspath(self._directory / Path(path).expanduser())

    def _text_column(self, value: Mapping[str, Any], path: str) -> Mapping[str, Any]:
        """`text: column` is short for `inputs: [column]`."""
        if value.get("text") is None:
            return {name: item for name, item in value.items() if name != "text"}
        if value.get("inputs") is not None:
            self._add(f"{path}.text", "got both text and inputs; text: x is short for inputs: [x]")
        rest = {name: item for name, item in value.items() if name not in ("text", "inputs")}
        if not isinstance(value["text"], str):
            self._wrong(f"{path}.text", value["text"], "the name of one column")
            return rest
        return {**rest, "inputs": [value["text"]]}

    def _refuse(self, path: str, value: Any, allowed: list[str], what: str = "") -> None:
        near = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]}?" if near else ""
        said = what or f"got {value!r}"
        self._add(path, f"{said}, allowed: {', '.join(allowed)}{hint}")

    def _wrong(self, path: str, value: Any, allowed: str) -> None:
        self._add(path, f"got {value!r}, allowed: {allowed}")

    def _add(self, path: str, message: str) -> None:
        self.violations.append(FieldViolation(path, message))


def _is_path(value: Any) -> bool:
    return isinstance(value, os.PathLike) or (
        isinstance(value, str) and bool(value) and not value.startswith(("sha256:", UPLOAD))
    )


@functools.cache
def _words(field: FieldDescriptor) -> dict[str, int]:
    """The words of an enumeration, without the prefix that its values share and without `unspecified`."""
    assert field.enum_type is not None
    return _enum_words.words(field.enum_type)


def _form(message: Message) -> Any:
    if message.DESCRIPTOR.full_name == "google.protobuf.Duration":
        return format_duration(message.seconds * 10**9 + message.nanos)  # type: ignore[attr-defined]
    form: dict[str, Any] = {}
    renamed = _RENAMED.get(message.DESCRIPTOR.name, {})
    for field, value in message.ListFields():
        if field.name == _INLINED.get(message.DESCRIPTOR.name):
            inner = _form(value)
            form.update({inner: {}} if isinstance(inner, str) else inner)
        else:
            form[renamed.get(field.name, field.name)] = _form_of_field(field, value)
    if isinstance(message, spec_pb2.DataSource):
        return _form_of_source(form)
    if isinstance(message, spec_pb2.ProgramModel):
        return {name: value.removeprefix(UPLOAD) for name, value in form.items()}
    words = _words_for(message.DESCRIPTOR)
    [only] = form if len(form) == 1 else [None]
    return only if only in words and form[only] == words[only] else form


def _form_of_field(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type and field.message_type.GetOptions().map_entry:
        return {
            name: _form(item) if isinstance(item, Message) else item for name, item in sorted(value.items())
        }
    if field.is_repeated:
        return list(value)
    if field.message_type:
        return _form(value)
    if field.enum_type:
        return next((word for word, number in _words(field).items() if number == value), "unknown")
    return value


def _form_of_source(form: dict[str, Any]) -> Any:
    location = form.pop("artifact", None) or form.pop("uri", "")
    path = location.removeprefix(UPLOAD)
    return {"path": path, **form} if form else path
