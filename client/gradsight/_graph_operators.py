"""The operators that a program may call, from `_operators.txt`, and their schemas taken apart."""

import difflib
import functools
import importlib.resources
import re
from collections.abc import Mapping
from dataclasses import dataclass

PREFIX = "aten."


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One argument of an operator."""

    name: str
    base: str
    """`Tensor`, `int`, `float`, `Scalar`, `bool`, `str`, `ScalarType`, `Device`, `MemoryFormat` …"""
    listed: bool
    """A list of `base`."""
    nullable: bool
    """None is a value of it."""
    items_nullable: bool
    """None is a value of the list's items."""
    broadcast: bool
    """One item stands for a list of it."""
    required: bool
    by_keyword: bool
    """Only by keyword."""
    alias: str
    """The name of the memory that it shares with a result; empty for none."""
    written: bool
    """The operator writes to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """An operator that a program may call."""

    name: str
    """`aten.linear.default`."""
    schema: str
    """As torch prints it, `aten::linear(Tensor input, …) -> Tensor`."""
    arguments: tuple[Argument, ...]
    result_count: int | None
    """How many tensors it gives; None for a list whose length depends on the arguments."""
    single: bool
    """It gives one tensor, not a tuple or list of tensors."""
    result_aliases: frozenset[str]
    """Names of memory that results share with arguments."""

    @property
    def family(self) -> str:
        """Its name without overload: `linear`."""
        return self.name.split(".")[1]


@functools.cache
def operators() -> Mapping[str, Operator]:
    """Every allowed operator by name."""
    text = importlib.resources.files("gradsight").joinpath("_operators.txt").read_text(encoding="utf-8")
    parsed = (_parse(line) for line in text.splitlines() if line and not line.startswith("#"))
    return {operator.name: operator for operator in parsed}


def nearest_operator(name: str) -> str | None:
    """The allowed operator with the most similar name, if one is similar at all."""
    if len(name) > 128:
        return None
    base = name.removeprefix(PREFIX).split(".")[0].rstrip("_").removeprefix("_")
    same = [known for known in operators() if known.split(".")[1].rstrip("_") == base]
    if same:
        return difflib.get_close_matches(name, same, n=1, cutoff=0.0)[0]
    families = {known.split(".")[1]: known for known in operators()}
    found = difflib.get_close_matches(base, families, n=1, cutoff=0.8)
    return families[found[0]] if found else None


_HEAD = re.compile(r"(?P<name>\w+)(?:\.(?P<overload>\w+))?\((?P<arguments>.*)\) -> (?P<results>.+)")
_ARGUMENT = re.compile(
    r"(?P<base>[A-Za-z]+)(?:\((?P<alias>\w)(?P<written>!)?[^)]*\))?(?P<item>\?)?"
    r"(?P<list>\[(?P<length>\d*)\])?(?P<nullable>\?)? (?P<name>\w+)(?:=(?P<default>.+))?"
)


def _parse(line: str) -> Operator:
    head = _HEAD.fullmatch(line)
    assert head, line
    arguments = []
    by_keyword = False
    for part in _split(head["arguments"]):
        if part == "*":
            by_keyword = True
        else:
            arguments.append(_parse_argument(part, by_keyword))
    results = head["results"]
    several = results.startswith("(") or "[]" in results
    return Operator(
        name=f"{PREFIX}{head['name']}.{head['overload'] or 'default'}",
        schema=f"aten::{line}",
        arguments=tuple(arguments),
        result_count=1 if not several else len(_split(results[1:-1])) if results.startswith("(") else None,
        single=not several,
        result_aliases=frozenset(re.findall(r"Tensor\((\w)", results)),
    )


def _parse_argument(text: str, by_keyword: bool) -> Argument:
    found = _ARGUMENT.fullmatch(text)
    assert found, text
    listed = found["list"] is not None
    return Argument(
        name=found["name"],
        base={"SymInt": "int"}.get(found["base"], found["base"]),
        listed=listed,
        nullable=bool(found["nullable"] if listed else found["item"]),
        items_nullable=listed and bool(found["item"]),
        broadcast=listed and bool(found["length"]),
        required=found["default"] is None,
        by_keyword=by_keyword,
        alias=found["alias"] or "",
        written=found["written"] is not None,
    )


def _split(text: str) -> list[str]:
    """Parts between commas that stand in no bracket."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    return [*parts, text[start:].strip()] if text.strip() else parts
