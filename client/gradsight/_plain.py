"""Plain values for people: the one form of durations, times and numbers in JSON, YAML and on the command line."""

import dataclasses
import datetime
import enum
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

_NANOSECONDS = {"d": 86_400 * 10**9, "h": 3_600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6}
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)(ms|d|h|m|s))")


def plain(value: Any) -> Any:
    """Returns `value` as JSON can carry it: records as objects, times as ISO 8601, durations as `1h30m`.

    Non-finite numbers become None, because JSON has no word for them.
    """
    if isinstance(value, enum.Enum):
        return value.value
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, datetime.timedelta):
        return format_duration(value // datetime.timedelta(microseconds=1) * 1000)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    raise TypeError(f"a {type(value).__name__} has no plain form")


def parse_duration(text: str) -> int:
    """Returns the nanoseconds that `text` means: numbers with the units d, h, m, s and ms, as in `1h30m` or `0.5s`.

    Raises ValueError for anything else, a number without a unit too.
    """
    end, nanoseconds = 0, Decimal(0)
    for part in _DURATION.finditer(text):
        if part.start() != end:
            break
        end = part.end()
        nanoseconds += Decimal(part[1]) * _NANOSECONDS[part[2]]
    if not text or end != len(text):
        raise ValueError(f"{text!r} is no duration; write 45s, 30m, 1h30m or 2d")
    return int(nanoseconds)


def format_duration(nanoseconds: int) -> str:
    """Returns the shortest exact form that `parse_duration` reads back: `1h30m`, `0.05s`, `0s`."""
    text, rest = "", nanoseconds
    for unit in ("d", "h", "m"):
        count, rest = divmod(rest, _NANOSECONDS[unit])
        text += f"{count}{unit}" if count else ""
    if rest or not text:
        seconds = f"{Decimal(rest) / 10**9:f}"
        text += (seconds.rstrip("0").rstrip(".") if "." in seconds else seconds) + "s"
    return text
