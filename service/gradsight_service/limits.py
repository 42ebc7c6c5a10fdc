"""The allowed values of every field of a spec, in one table, and the walk that applies it.

The wording of each limit is that of the field's comment in `spec.proto`; a test holds the two together.
"""

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from gradsight._enum_words import words
from gradsight._reasons import Reason
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
_BLOCKS = Number(allowed="1 to 96", low=1, high=96)
_WIDTH = Number(allowed="8 to 16384", low=8, high=16384)
_HEADS = Number(allowed="1 to 256", low=1, high=256)
_CONTEXT = Number(allowed="8 to 8192", low=8, high=8192)
_TOKENS = Number(allowed="256 to 1000000", low=256, high=1_000_000)
_CLASS = _text("names of 1 to 256 characters", 256)
_ABOVE_0 = Number(allowed="above 0", low=0, low_open=True)
_UP_TO_1000 = Number(allowed="above 0 to 1000", low=0, high=1000, low_open=True)
_OPEN_SHARE = Number(allowed="above 0 to below 1", low=0, high=1, low_open=True, high_open=True)
_SHARE = Number(allowed="0 to below 1", low=0, high=1, high_open=True)
_FRACTION = Number(allowed="above 0 to 0.5", low=0, high=0.5, low_open=True)
_EPSILON = Number(allowed="above 0 to 1", low=0, high=1, low_open=True)
_CLOSED_SHARE = Number(allowed="0 to 1", low=0, high=1)

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
    "StartSpec.extended_job_id": JOB_ID,
    "StartSpec.weights_job_id": JOB_ID,
    "Mlp.hidden_sizes": Items(
        allowed="at most 64 layers", most=64, value=Number(allowed="1 to 16384", low=1, high=16384)
    ),
    "Mlp.dropout": _SHARE,
    "TextClassifier.embedding_size": Number(allowed="1 to 4096", low=1, high=4096),
    "TextClassifier.hidden_size": Number(allowed="0 to 16384", low=0, high=16384),
    "TextClassifier.dropout": _SHARE,
    "TextClassifier.max_vocabulary": Number(allowed="16 to 1000000", low=16, high=1_000_000),
    "TextTransformer.layers": _BLOCKS,
    "TextTransformer.width": _WIDTH,
    "TextTransformer.heads": _HEADS,
    "TextTransformer.dropout": _SHARE,
    "TextTransformer.context_length": _CONTEXT,
    "TextTransformer.max_vocabulary": _TOKENS,
    "Cnn.channels": Items(
        allowed="at most 8 stages", most=8, value=Number(allowed="1 to 4096", low=1, high=4096)
    ),
    "Cnn.dropout": _SHARE,
    "Cnn.image_size": Number(allowed="8 to 1024 pixels", low=8, high=1024),
    "Gpt.layers": _BLOCKS,
    "Gpt.width": _WIDTH,
    "Gpt.heads": _HEADS,
    "Gpt.context_length": _CONTEXT,
    "Gpt.dropout": _SHARE,
    "Gpt.max_vocabulary": _TOKENS,
    "ProgramModel.graph": DIGEST,
    "ProgramModel.weights": DIGEST,
    "RecipeModel.name": _text("1 to 64 characters of `a-z 0-9 . _ -`", 64, "a-z0-9._-"),
    "RecipeModel.options": Items(
        allowed="at most 64",
        most=64,
        key=_text("names of 1 to 64 characters of `a-z 0-9 _`", 64, "a-z0-9_"),
        value=_text("values of 0 to 1024 characters", 1024, least=0),
    ),
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
    "CrossEntropy.class_weights": Items(
        allowed="at most 1000 classes", most=1000, key=_CLASS, value=_UP_TO_1000
    ),
    "BinaryCrossEntropy.separator": _text("1 to 8 characters", 8),
    "Huber.delta": _UP_TO_1000,
    "OptimizerSpec.learning_rate": _UP_TO_1000,
    "OptimizerSpec.weight_decay": Number(allowed="0 to 10", low=0, high=10),
    "OptimizerSpec.max_gradient_norm": _ABOVE_0,
    "OptimizerSpec.max_gradient_value": _ABOVE_0,
    "OptimizerSpec.accumulation_steps": Number(allowed="1 to 1024", low=1, high=1024),
    "OptimizerSpec.average_decay": _SHARE,
    "AdamW.beta1": _SHARE,
    "AdamW.beta2": _SHARE,
    "AdamW.epsilon": _EPSILON,
    "Sgd.momentum": _SHARE,
    "Adam.beta1": _SHARE,
    "Adam.beta2": _SHARE,
    "Adam.epsilon": _EPSILON,
    "Adafactor.beta2_decay": Number(allowed="-1 to 0", low=-1, high=0),
    "Adafactor.clipping_threshold": _UP_TO_1000,
    "Muon.momentum": _SHARE,
    "Muon.adamw_learning_rate": _UP_TO_1000,
    "Muon.iterations": Number(allowed="1 to 20", low=1, high=20),
    "ScheduleSpec.warmup_fraction": Number(allowed="0 to 0.9", low=0, high=0.9),
    "CosineSchedule.final_fraction": _CLOSED_SHARE,
    "LinearSchedule.final_fraction": _CLOSED_SHARE,
    "OneCycleSchedule.rise_fraction": _OPEN_SHARE,
    "OneCycleSchedule.initial_fraction": _CLOSED_SHARE,
    "OneCycleSchedule.final_fraction": _CLOSED_SHARE,
    "StepSchedule.factor": _OPEN_SHARE,
    "StepSchedule.milestones": Items(
        allowed="at most 64",
        most=64,
        value=Number(allowed="each above 0 to below 1", low=0, high=1, low_open=True, high_open=True),
    ),
    "PlateauSchedule.factor": _OPEN_SHARE,
    "PlateauSchedule.patience": Number(allowed="1 to 1000", low=1, high=1000),
    "PlateauSchedule.final_fraction": _CLOSED_SHARE,
    "BudgetSpec.steps": _STEPS,
    "BudgetSpec.epochs": Number(allowed="1 to 100000", low=1, high=100_000),
    "BudgetSpec.timeout": Span(allowed="1 s to 30 days", low=1, high=30 * 86400),
    "EvaluationSpec.interval_steps": _STEPS,
    "EvaluationSpec.baseline_job_id": JOB_ID,
    "EvaluationSpec.category_impacts": Items(
        allowed="at most 1000 categories",
        most=1000,
        key=_CLASS,
        value=Number(allowed="0 to 1000", low=0, high=1000),
    ),
    "EvaluationSpec.patience": Number(allowed="1 to 10000", low=1, high=10_000),
    "EvaluationSpec.min_improvement": Number(allowed="0 to 1000", low=0, high=1000),
    "MonitoringSpec.probe_interval_steps": Number(allowed="1 to 1000000", low=1, high=1_000_000),
    "CheckpointSpec.interval": Span(allowed="0.05 s to 1 day", low=0.05, high=86400),
    "CheckpointSpec.interval_steps": _STEPS,
    "CheckpointSpec.keep": Number(allowed="1 to 100", low=1, high=100),
    "ResourceSpec.device_count": Number(allowed="1 to 4096", low=1, high=4096),
    "ResourceSpec.threads": Number(allowed="1 to 1024", low=1, high=1024),
}

NOT_SUPPORTED_YET: frozenset[str] = frozenset({"DataSource.uri"})
"""Fields that the contract declares for later versions."""


def limit_violations(message: Message, path: str = "") -> Iterator[Violation]:
    """Every set field of the message, and of those within, that breaks its limit. Depth is that of the contract.

    Maps to messages are not looked into: who knows their keys has rules of its own.
    """
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
        elif descriptor.message_type is not None and not descriptor.is_repeated:
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


def nearest(name: str, known: Sequence[str]) -> str:
    """What may have been meant by a name that is none, or else what there is."""
    if close := difflib.get_close_matches(name, known[:4096], n=1):
        return f"nearest is {shown(close[0])}"
    first = ", ".join(shown(one) for one in known[:5])
    return f"allowed {first}" + (f" and {len(known) - 5} more" if len(known) > 5 else "")


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
    if value not in enum.values_by_number:
        yield Violation(path=path, message=f"got {value}, allowed {', '.join(words(enum))}")


def _siblings(descriptor: FieldDescriptor) -> str:
    """The fields that could be set instead, for a member of a oneof; `leaving it out` for any other."""
    oneof = descriptor.containing_oneof
    if oneof is None or len(oneof.fields) == 1:
        return "leaving it out"
    kind = oneof.containing_type.name
    working = (member for member in oneof.fields if f"{kind}.{member.name}" not in NOT_SUPPORTED_YET)
    return ", ".join(member.name for member in working)
