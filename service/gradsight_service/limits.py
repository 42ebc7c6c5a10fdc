"""The allowed values of every field of a spec, in one table, and the walk that applies it.

The wording of each limit is that of the field's comment in `spec.proto`; a test holds the two together.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from gradsight._reasons import Reason
from gradsight.v1 import spec_pb2
from gradsight_service.errors import Violation


@dataclass(frozen=True, kw_only=True)
class Number:
    """A finite number from `low` to `high`, without the bounds that are open."""

    allowed: str
    low: float
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def problem(self, value: float) -> str | None:
        """What is wrong with the value, or None. NaN fails every comparison and so is refused, too."""
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        if above and below and math.isfinite(value):
            return None
        got = f"{value:g}" if isinstance(value, float) else str(value)
        return f"got {got}, allowed {self.allowed}" + ("" if math.isfinite(value) else ", finite")


@dataclass(frozen=True, kw_only=True)
class Text:
    """Text that matches `pattern` as a whole; `most` is its greatest length, in characters."""

    allowed: str
    most: int
    pattern: re.Pattern[str]

    def problem(self, value: str) -> str | None:
        """What is wrong with the value, or None. Control and direction characters are refused everywhere."""
        if not self.pattern.fullmatch(value):
            got = shown(value) if len(value) <= self.most else f"{len(value)} characters"
            return f"got {got}, allowed {self.allowed}"
        if not value.isprintable():
            return f"got {shown(value)}, allowed {self.allowed} without control characters"
        return None


@dataclass(frozen=True, kw_only=True)
class Span:
    """A duration from `low` to `high` seconds."""

    allowed: str
    low: float
    high: float

    def problem(self, value: Any) -> str | None:
        """What is wrong with the duration, or None: out of range, or its parts contradict each other."""
        seconds = value.seconds + value.nanos / 1e9
        sound = abs(value.nanos) < 1_000_000_000 and value.seconds * value.nanos >= 0
        return (
            None
            if sound and self.low <= seconds <= self.high
            else f"got {seconds:g} s, allowed {self.allowed}"
        )


@dataclass(frozen=True, kw_only=True)
class Items:
    """A list or map of at most `most` entries; keys and values have limits of their own."""

    allowed: str
    most: int
    value: Number | Text
    key: Text | None = None


Limit = Number | Text | Span | Items


def _text(allowed: str, most: int, alphabet: str = "", least: int = 1) -> Text:
    characters = f"[{alphabet}]" if alphabet else "."
    return Text(allowed=allowed, most=most, pattern=re.compile(characters + f"{{{least},{most}}}", re.DOTALL))


DIGEST = Text(allowed="`sha256:` and 64 hex digits", most=71, pattern=re.compile("sha256:[0-9a-f]{64}"))
JOB_ID = _text("1 to 64 characters of `a-z 0-9 -`", 64, "a-z0-9-")
_COLUMN = _text("1 to 256 characters", 256)
_SEED = Number(allowed="0 to 2^63 - 1", low=0)
_STEPS = Number(allowed="1 to 100000000", low=1, high=100_000_000)
_SHARE = Number(allowed="0 to below 1", low=0, high=1, high_open=True)
_FRACTION = Number(allowed="above 0 to 0.5", low=0, high=0.5, low_open=True)

LIMITS: Mapping[str, Limit] = {
    "JobSpec.name": _text("1 to 64 characters of `A-Z a-z 0-9 . _ -`", 64, "A-Za-z0-9._-"),
    "JobSpec.labels": Items(
        allowed="at most 32",
        most=32,
        key=_text("keys of 1 to 63 characters of `a-z 0-9 . _ -`", 63, "a-z0-9._-"),
        value=_text("values of 0 to 63 characters of `A-Z a-z 0-9 . _ -`", 63, "A-Za-z0-9._-", least=0),
    ),
    "JobSpec.queue": _text("1 to 64 characters of `a-z 0-9 -`", 64, "a-z0-9-"),
    "JobSpec.priority": Number(allowed="-100 to 100", low=-100, high=100),
    "JobSpec.seed": _SEED,
    "Mlp.hidden_sizes": Items(
        allowed="at most 64 layers", most=64, value=Number(allowed="1 to 16384", low=1, high=16384)
    ),
    "Mlp.dropout": _SHARE,
    "TextClassifier.embedding_size": Number(allowed="1 to 4096", low=1, high=4096),
    "TextClassifier.hidden_size": Number(allowed="0 to 16384", low=0, high=16384),
    "TextClassifier.dropout": _SHARE,
    "TextClassifier.max_vocabulary": Number(allowed="16 to 1000000", low=16, high=1_000_000),
    "DataSpec.input_columns": Items(allowed="1 to 4096 names", most=4096, value=_COLUMN),
    "DataSpec.target_column": _COLUMN,
    "DataSpec.id_column": _COLUMN,
    "DataSpec.category_column": _COLUMN,
    "DataSpec.batch_size": Number(allowed="1 to 65536", low=1, high=65536),
    "DataSource.artifact": DIGEST,
    "SplitSpec.validation_fraction": _FRACTION,
    "SplitSpec.test_fraction": _FRACTION,
    "SplitSpec.seed": _SEED,
    "CrossEntropy.label_smoothing": _SHARE,
    "OptimizerSpec.learning_rate": Number(allowed="above 0 to 1000", low=0, high=1000, low_open=True),
    "OptimizerSpec.weight_decay": Number(allowed="0 to 10", low=0, high=10),
    "OptimizerSpec.max_gradient_norm": Number(allowed="above 0", low=0, low_open=True),
    "AdamW.beta1": _SHARE,
    "AdamW.beta2": _SHARE,
    "AdamW.epsilon": Number(allowed="above 0 to 1", low=0, high=1, low_open=True),
    "Sgd.momentum": _SHARE,
    "ScheduleSpec.warmup_fraction": Number(allowed="0 to 0.9", low=0, high=0.9),
    "CosineSchedule.final_fraction": Number(allowed="0 to 1", low=0, high=1),
    "BudgetSpec.steps": _STEPS,
    "BudgetSpec.epochs": Number(allowed="1 to 100000", low=1, high=100_000),
    "BudgetSpec.timeout": Span(allowed="1 s to 30 days", low=1, high=30 * 86400),
    "EvaluationSpec.interval_steps": _STEPS,
    "EvaluationSpec.baseline_job_id": JOB_ID,
    "EvaluationSpec.category_impacts": Items(
        allowed="at most 1000 categories",
        most=1000,
        key=_text("names of 1 to 256 characters", 256),
        value=Number(allowed="0 to 1000", low=0, high=1000),
    ),
    "MonitoringSpec.probe_interval_steps": Number(allowed="1 to 1000000", low=1, high=1_000_000),
    "CheckpointSpec.interval": Span(allowed="0.05 s to 1 day", low=0.05, high=86400),
    "CheckpointSpec.interval_steps": _STEPS,
    "CheckpointSpec.keep": Number(allowed="1 to 100", low=1, high=100),
    "ResourceSpec.device_count": Number(allowed="1 to 4096", low=1, high=4096),
    "ResourceSpec.threads": Number(allowed="1 to 1024", low=1, high=1024),
}

NOT_SUPPORTED_YET: frozenset[str] = frozenset(
    {
        "ModelSpec.program",
        "ModelSpec.recipe",
        "BuiltinModel.text_transformer",
        "BuiltinModel.cnn",
        "BuiltinModel.gpt",
        "DataSource.uri",
        "ObjectiveSpec.binary_cross_entropy",
        "ObjectiveSpec.mean_squared_error",
        "ObjectiveSpec.huber",
        "ObjectiveSpec.mean_absolute_error",
        "ObjectiveSpec.causal_language_model",
        "OptimizerSpec.adam",
        "OptimizerSpec.adafactor",
        "OptimizerSpec.muon",
        "ScheduleSpec.linear",
        "ScheduleSpec.one_cycle",
        "ScheduleSpec.step",
        "ScheduleSpec.plateau",
        "EvaluationSpec.patience",
    }
)
"""Fields that the contract declares for later versions."""

NOT_SUPPORTED_YET_VALUES: Mapping[str, frozenset[int]] = {
    "DataFormat": frozenset(
        {
            spec_pb2.DATA_FORMAT_PARQUET,
            spec_pb2.DATA_FORMAT_NPY,
            spec_pb2.DATA_FORMAT_SAFETENSORS,
        }
    ),
    "MonitoringPolicy": frozenset({spec_pb2.MONITORING_POLICY_REPAIR, spec_pb2.MONITORING_POLICY_STOP}),
}
"""Enum values that the contract declares for later versions."""


def limit_violations(message: Message, path: str = "") -> Iterator[Violation]:
    """Every set field of the message, and of those within, that breaks its limit. Depth is that of the contract."""
    kind = message.DESCRIPTOR.name
    for descriptor, value in message.ListFields():
        where = f"{path}.{descriptor.name}" if path else descriptor.name
        key = f"{kind}.{descriptor.name}"
        if key in NOT_SUPPORTED_YET:
            yield not_supported(where, _siblings(descriptor))
        elif limit := LIMITS.get(key):
            yield from _violations_of(limit, where, value)
        elif enum := descriptor.enum_type:
            yield from _enum_violations(enum, where, value)
        elif descriptor.message_type is not None:
            yield from limit_violations(value, where)


def not_supported(path: str, supported: str) -> Violation:
    """The violation of a field whose option a later version brings."""
    return Violation(
        path=path,
        message=f"not supported yet; this version supports {supported}",
        reason=Reason.NOT_SUPPORTED_YET,
    )


def shown(value: str) -> str:
    """User text as it may stand in a message: quoted, escaped, at most 80 characters."""
    return json.dumps(value if len(value) <= 80 else value[:79] + "…")


def _violations_of(limit: Limit, path: str, value: Any) -> Iterator[Violation]:
    if isinstance(limit, Items):
        yield from _item_violations(limit, path, value)
    elif problem := limit.problem(value):
        yield Violation(path=path, message=problem)


def _item_violations(limit: Items, path: str, value: Any) -> Iterator[Violation]:
    if len(value) > limit.most:
        yield Violation(path=path, message=f"got {len(value)}, allowed {limit.allowed}")
        return
    if limit.key is None:
        for index, item in enumerate(value):
            if problem := limit.value.problem(item):
                yield Violation(path=f"{path}[{index}]", message=problem)
        return
    for name in sorted(value):
        where = f"{path}[{shown(name)}]"
        if problem := limit.key.problem(name) or limit.value.problem(value[name]):
            yield Violation(path=where, message=problem)


def _enum_violations(enum: EnumDescriptor, path: str, value: int) -> Iterator[Violation]:
    later = NOT_SUPPORTED_YET_VALUES.get(enum.name, frozenset())
    prefix = next(iter(enum.values)).name.removesuffix("UNSPECIFIED")
    supported = [
        known.name.removeprefix(prefix).lower() for known in enum.values if known.number not in later | {0}
    ]
    if value in later:
        yield not_supported(path, ", ".join(supported))
    elif value not in enum.values_by_number:
        yield Violation(path=path, message=f"got {value}, allowed {', '.join(supported)}")


def _siblings(descriptor: FieldDescriptor) -> str:
    """The fields that could be set instead, for a member of a oneof; `leaving it out` for any other."""
    oneof = descriptor.containing_oneof
    if oneof is None or len(oneof.fields) == 1:
        return "leaving it out"
    kind = oneof.containing_type.name
    working = (member for member in oneof.fields if f"{kind}.{member.name}" not in NOT_SUPPORTED_YET)
    return ", ".join(member.name for member in working)
