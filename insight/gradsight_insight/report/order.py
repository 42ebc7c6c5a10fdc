"""What comes first: findings in reading order, and from them, the verdict and the comparison, what to do next."""

from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

from gradsight_insight.report.data import Comparison, Finding, ReportData
from gradsight_insight.report.words import percent, plain

_SEVERITIES = ("critical", "warning", "info")
_MOST_ADVICE = 8
_MOST_OF_ONE_FINDING = 3
_IN_A_SPEC = ("tighten_clipping", "scale_learning_rate", "roll_back", "reinitialize", "standardize_inputs")
"""Repairs that the next run can begin with."""


class Numbered(NamedTuple):
    """A finding with its number in the report."""

    number: int
    finding: Finding
    consequences: "tuple[Numbered, ...]"
    """Findings that it explains."""


class Advice(NamedTuple):
    """Something to do."""

    text: str
    because: str
    number: int = 0
    """The finding that it answers; 0 when none."""
    further: tuple[str, ...] = ()
    """What can be done then, or instead."""


def numbered(findings: tuple[Finding, ...]) -> tuple[Numbered, ...]:
    """First causes, the worst that are still open first; below each what it explains. Numbered as they are read."""
    known = {finding.finding_id for finding in findings}
    causes = [
        finding
        for finding in findings
        if finding.cause_finding_id not in known or _is_loop(finding, findings)
    ]
    numbers = count(1)
    return tuple(
        _with_consequences(cause, findings, numbers, frozenset()) for cause in sorted(causes, key=_rank)
    )


def flat(findings: tuple[Numbered, ...]) -> Iterator[Numbered]:
    """All of them in the order of their numbers."""
    for entry in findings:
        yield entry
        yield from flat(entry.consequences)


def advice(data: ReportData) -> tuple[Advice, ...]:
    """What to do next, most urgent first; at most 8, none twice."""
    seen: dict[str, Advice] = {}
    for entry in _all_advice(data):
        seen.setdefault(entry.text.strip().rstrip(".").casefold(), entry)
    return tuple(seen.values())[:_MOST_ADVICE]


def is_alarmed(data: ReportData) -> bool:
    """Whether something critical is still open."""
    return any(finding.severity == "critical" and finding.open for finding in data.findings)


def _all_advice(data: ReportData) -> Iterator[Advice]:
    if data.failure:
        where = f" (field {data.failure.field})" if data.failure.field else ""
        yield Advice(f"Put right what ended the job: {data.failure.message}{where}", "the job failed")
    if data.verdict and data.done and not data.verdict.kept_checkpoint_usable and not data.failure:
        yield Advice("Do not put the kept model to use.", "it was judged not worth using")
    elif data.comparison:
        yield from _of_comparison(data.comparison, alarmed=is_alarmed(data))
    entries = numbered(data.findings)
    for entry in entries:
        if entry.finding.open and entry.finding.severity != "info":
            yield from _of_finding(entry)
    if data.done:
        yield from _of_repairs(data, entries)
    if data.done and data.verdict and data.verdict.verdict == "still_improving":
        yield Advice(
            f"Train longer: `gradsight extend {data.job_id}`.",
            "held-out rows were still getting better at the end",
        )
    for entry in entries:
        if entry.finding.open and entry.finding.severity == "info":
            yield from _of_finding(entry)


def _of_comparison(comparison: Comparison, *, alarmed: bool) -> Iterator[Advice]:
    worse = [change for change in comparison.categories if change.verdict == "regressed"]
    for change in sorted(worse, key=lambda change: -change.impact)[:_MOST_OF_ONE_FINDING]:
        yield Advice(
            f"Look at the rows of {change.category} before the new model replaces the old one.",
            f"its error rose from {percent(change.baseline_error.ratio)} to {percent(change.error.ratio)}",
        )
    if comparison.verdict == "regressed" and not worse:
        yield Advice("Keep the old model.", "the new one errs more on the same rows")
    if comparison.verdict == "improved" and not alarmed:
        yield Advice(
            "Put the new model in the old one's place.", "it is better on the same rows, and nowhere worse"
        )


def _of_finding(entry: Numbered) -> Iterator[Advice]:
    finding = entry.finding
    about = f": {finding.subject}" if finding.subject else ""
    if finding.actions:
        first, *further = finding.actions[:_MOST_OF_ONE_FINDING]
        yield Advice(first, f"{plain(finding.kind)}{about}", entry.number, tuple(further))


def _of_repairs(data: ReportData, entries: tuple[Numbered, ...]) -> Iterator[Advice]:
    numbers = {entry.finding.finding_id: entry.number for entry in flat(entries)}
    lasting = [
        repair for repair in data.mitigations if repair.outcome == "kept" and repair.action in _IN_A_SPEC
    ]
    for repair in lasting[-_MOST_OF_ONE_FINDING:]:
        yield Advice(
            f"Write into the next spec what helped in this run: {repair.description}.",
            "the repair passed its trial on held-out rows",
            numbers.get(repair.finding_id, 0),
        )


def _with_consequences(
    finding: Finding, findings: tuple[Finding, ...], numbers: Iterator[int], above: frozenset[str]
) -> Numbered:
    number, here = next(numbers), above | {finding.finding_id}
    followers = [
        other
        for other in findings
        if other.cause_finding_id == finding.finding_id and other.finding_id not in here
    ]
    return Numbered(
        number,
        finding,
        tuple(_with_consequences(other, findings, numbers, here) for other in sorted(followers, key=_rank)),
    )


def _is_loop(finding: Finding, findings: tuple[Finding, ...]) -> bool:
    """Whether its causes lead back to itself: then it has no first cause, and must not be lost."""
    by_id = {other.finding_id: other for other in findings}
    at, seen = finding, {finding.finding_id}
    while (at := by_id.get(at.cause_finding_id)) is not None:  # type: ignore[assignment]
        if at.finding_id in seen:
            return at.finding_id == finding.finding_id and finding.finding_id == min(seen)
        seen.add(at.finding_id)
    return False


def _rank(finding: Finding) -> tuple[bool, int, int, str]:
    severity = _SEVERITIES.index(finding.severity) if finding.severity in _SEVERITIES else len(_SEVERITIES)
    return (not finding.open, severity, finding.first_step, finding.finding_id)
