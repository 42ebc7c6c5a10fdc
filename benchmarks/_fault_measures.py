"""From the lines of the runs to rates, each with its 95 % interval (Wilson)."""

import base64
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from _fault_data import load
from _fault_design import Row, design
from _fault_list import Fault
from _published_rules import NAMES

from gradsight_insight.statistics import mcnemar_z, wilson

Line = Mapping[str, Any]
HARD = ("warning", "critical")
"""Severities of an alarm; `info` is a flag."""
NEAR = 0.02
"""How far a repaired run's test error may lie above its twin's."""
SIGNIFICANT_Z = 2.58


@dataclass(frozen=True, kw_only=True)
class Rate:
    """So many of so many."""

    count: int
    of: int

    @classmethod
    def among(cls, answers: Iterable[bool]) -> "Rate":
        """How many are true."""
        listed = list(answers)
        return cls(count=sum(listed), of=len(listed))

    @property
    def share(self) -> float:
        return self.count / self.of if self.of else float("nan")

    def __str__(self) -> str:
        if not self.of:
            return "none"
        low, high = wilson(self.count, self.of)
        return f"{self.count} of {self.of} = {self.share:.1%} [{low:.1%}, {high:.1%}]"


@dataclass(frozen=True)
class Results:
    """Lines by the key of their run."""

    lines: Mapping[str, Line]

    def of(self, families: Sequence[str]) -> "Results":
        """Those of some families."""
        return Results({key: line for key, line in self.lines.items() if key.split("/")[1] in families})

    def pairs(self, arm: str = "watched") -> Iterator[tuple[Row, Line]]:
        """Runs of the design that were made, with their lines."""
        for row in design():
            if row.arm == arm and row.key in self.lines:
                yield row, self.lines[row.key]

    def faulty(self) -> Iterator[tuple[Fault, Line]]:
        """Runs with a fault that were only watched."""
        for row, line in self.pairs():
            if row.what is not None:
                yield row.what, line

    def healthy(self) -> list[Line]:
        """Runs without a fault."""
        twins = [line for _, line in self.pairs("twin")]
        return [line for row, line in self.pairs() if row.what is None] + twins


# Detection


def alarms(line: Line) -> list[Mapping[str, Any]]:
    """Findings that are more than a flag, in the order in which they were opened."""
    return [finding for finding in line["findings"] if finding["severity"] in HARD]


def detected(fault: Fault, line: Line) -> bool:
    """Whether a finding names the fault or a direct form of it."""
    return any(finding["kind"] in fault.expected for finding in line["findings"])


def attributed(fault: Fault, line: Line) -> bool:
    """Whether the first alarm that is said to be no consequence of another names the fault."""
    first = next((finding for finding in alarms(line) if not finding["cause"]), None)
    return first is not None and first["kind"] in fault.expected


def latencies(results: Results) -> Mapping[str, list[int]]:
    """Steps until a fault was named, by the kind that named it."""
    found: dict[str, list[int]] = defaultdict(list)
    for fault, line in results.faulty():
        named = next((finding for finding in line["findings"] if finding["kind"] in fault.expected), None)
        if named is not None:
            found[named["kind"]].append(named["step"])
    return found


def false_alarms(results: Results) -> Rate:
    """Healthy runs with an alarm that does not hold."""
    return Rate.among(any(not holds(line, alarm) for alarm in alarms(line)) for line in results.healthy())


def any_alarms(results: Results) -> Rate:
    """Healthy runs with an alarm of any sort."""
    return Rate.among(bool(alarms(line)) for line in results.healthy())


def holds(line: Line, alarm: Mapping[str, Any]) -> bool:
    """Whether test rows, which no detector sees, confirm what an alarm says of a run without a fault.

    Data have categories that are harder than others. That one is weak is no false alarm when its test error is above
    the whole's by more than its interval. Nothing else is excused.
    """
    if alarm["kind"] != "weak_category":
        return False
    of_category = load(line["key"].split("/")[2]).test.labels == int(alarm["subject"])
    wrong = _wrong(line, len(of_category))
    low, _ = wilson(int(wrong[of_category].sum()), int(of_category.sum()))
    return bool(low > wrong.mean())


# Published rules


def published(results: Results, prefix: str) -> Mapping[str, Rate]:
    """What rules of one origin (`SMD`, `AT`) make of the same runs: any rule, the right rule, healthy runs."""

    def rules(line: Line) -> set[str]:
        return {name for name in line["published"] if name.startswith(prefix)}

    faulty = list(results.faulty())
    return {
        "any rule fires on a faulty run": Rate.among(bool(rules(line)) for _, line in faulty),
        "a rule that means the fault fires": Rate.among(
            bool(rules(line) & {name for kind in fault.expected for name in NAMES.get(kind, ())})
            for fault, line in faulty
        ),
        "any rule fires on a healthy run": Rate.among(bool(rules(line)) for line in results.healthy()),
    }


# Repair


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A fault that can be repaired: the run left alone, its healthy twin, and what was tried."""

    code: str
    fault: str
    untreated: Line
    twin: Line
    tried: Line

    @property
    def harmed(self) -> bool:
        """Whether there is anything to repair: untreated it is worse than its twin by more than chance and 2 points."""
        return (
            _error(self.untreated) > _error(self.twin) + NEAR
            and _z(self.twin, self.untreated) > SIGNIFICANT_Z
        )

    @property
    def repaired(self) -> bool:
        """Whether the test error is near the twin's and better than untreated by more than chance."""
        near = _error(self.tried) <= _error(self.twin) + NEAR
        return near and _z(self.untreated, self.tried) < -SIGNIFICANT_Z


def trials(results: Results, arm: str) -> list[Trial]:
    """All that can be judged by now."""
    found = []
    for row, line in results.pairs(arm):
        assert row.what is not None
        keys = [row.in_arm("unguarded").key, row.in_arm("watched").key]
        untreated = next((results.lines[key] for key in keys if key in results.lines), None)
        twin = results.lines.get(row.twin.key)
        if untreated is not None and twin is not None:
            found.append(
                Trial(
                    code=row.what.repairable, fault=row.what.name, untreated=untreated, twin=twin, tried=line
                )
            )
    return found


def repair_rate(found: Iterable[Trial]) -> Rate:
    """Of the runs that were harmed."""
    return Rate.among(trial.repaired for trial in found if trial.harmed)


def by(found: Iterable[Any], name: Callable[[Any], str]) -> Mapping[str, list[Any]]:
    """In groups, sorted by their names."""
    groups: dict[str, list[Any]] = defaultdict(list)
    for each in found:
        groups[name(each)].append(each)
    return dict(sorted(groups.items()))


def median(values: Sequence[float]) -> float:
    """Of any number of values; NaN of none."""
    return statistics.median(values) if values else float("nan")


def _error(line: Line) -> float:
    """Test error; a run without a result is always wrong."""
    return 1.0 if line["test_error"] is None else float(line["test_error"])


def _wrong(line: Line, rows: int) -> npt.NDArray[np.bool_]:
    if not line["test_wrong"]:
        return np.ones(rows, dtype=bool)
    bits = np.frombuffer(base64.b64decode(line["test_wrong"]), dtype=np.uint8)
    return np.unpackbits(bits)[:rows].astype(bool)


def _z(old: Line, new: Line) -> float:
    """McNemar's on the same test rows: above 0, new is worse."""
    rows = max(old["test_rows"], new["test_rows"])
    return mcnemar_z(_wrong(old, rows), _wrong(new, rows))
