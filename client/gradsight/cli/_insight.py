"""What the service makes of a run, in the words and colours of the command line."""

import re
from collections.abc import Iterator, Sequence

from gradsight._enums import (
    ChangeVerdict,
    ComparisonVerdict,
    EfficacyVerdict,
    FindingSubject,
    MitigationAction,
    Severity,
    Verdict,
)
from gradsight._events import MitigationApplied, MitigationKept, MitigationReverted
from gradsight._figures import number, percent
from gradsight._insight import Comparison, Evidence, Finding, RatioInterval, RunVerdict, UpdateEfficacy

SEVERITIES = (Severity.UNKNOWN, Severity.INFO, Severity.WARNING, Severity.CRITICAL)
SEVERITY_STYLES = {Severity.INFO: "cyan", Severity.WARNING: "yellow", Severity.CRITICAL: "red"}
VERDICT_STYLES = {
    Verdict.CONVERGED: "green",
    Verdict.STILL_IMPROVING: "cyan",
    Verdict.PLATEAUED: "yellow",
    Verdict.OVERFIT: "yellow",
    Verdict.UNDERFIT: "yellow",
    Verdict.DIVERGED: "red",
    Verdict.UNSOUND: "red",
}
COMPARISON_STYLES = {
    ComparisonVerdict.IMPROVED: "green",
    ComparisonVerdict.REGRESSED: "red",
    ComparisonVerdict.MIXED: "yellow",
}
CHANGE_STYLES = {ChangeVerdict.IMPROVED: "green", ChangeVerdict.REGRESSED: "red"}
EFFICACY_STYLES = {
    EfficacyVerdict.EFFECTIVE: "green",
    EfficacyVerdict.OVERSHOOT: "yellow",
    EfficacyVerdict.CAUTIOUS: "yellow",
    EfficacyVerdict.INERT: "yellow",
    EfficacyVerdict.ASCENT: "red",
    EfficacyVerdict.MISDIRECTED: "red",
}

EFFICACY_MEANINGS = {
    EfficacyVerdict.EFFECTIVE: "they did what they promised, and held-out rows got better",
    EfficacyVerdict.OVERSHOOT: "the steps go past the minimum along their way",
    EfficacyVerdict.CAUTIOUS: "all happens as promised; larger steps would be faster",
    EfficacyVerdict.ASCENT: "they go against the gradient",
    EfficacyVerdict.INERT: "they do what they promise, and nothing gets better",
    EfficacyVerdict.MISDIRECTED: "the batches get better and held-out rows worse",
    EfficacyVerdict.UNRESOLVED: "the promise is too small to be measured",
}

REPAIR_KINDS = ("mitigation_applied", "mitigation_kept", "mitigation_reverted")
Repair = MitigationApplied | MitigationKept | MitigationReverted


def words(value: str) -> str:
    """Returns a word of the contract as people say it: `still improving`."""
    return value.replace("_", " ")


def interval_words(interval: RatioInterval) -> str:
    """Returns a share with its 95 % interval: `14.5 % (12–16)`."""
    return f"{percent(interval.ratio)} ({interval.lower * 100:.0f}–{interval.upper * 100:.0f})"


def first_sentence(text: str) -> str:
    """Returns the first sentence of a text, on one line."""
    line = " ".join(text.split())
    return re.split(r"(?<=[.!?]) (?=[A-Z`\"'0-9])", line, maxsplit=1)[0]


def verdict_words(verdict: RunVerdict) -> str:
    """Returns a verdict with what qualifies it: `diverged, kept weights are usable`."""
    said = words(verdict.verdict)
    if not verdict.confirmed:
        said += " (provisional)"
    if verdict.verdict is not Verdict.CONVERGED and verdict.kept_checkpoint_usable and verdict.confirmed:
        said += ", the kept weights are worth using"
    elif verdict.confirmed and not verdict.kept_checkpoint_usable:
        said += ", the kept weights are not worth using"
    return said


def where(finding: Finding) -> str:
    """Returns what a finding is about: `layer hidden.0`, `run`."""
    if finding.subject_kind is FindingSubject.RUN or not finding.subject:
        return "run"
    if finding.subject_kind is FindingSubject.SPLIT:
        return f"{finding.subject} rows"
    return f"{finding.subject_kind} {finding.subject}"


def steps(first: int, last: int) -> str:
    """Returns a range of steps: `12–340`, `7`."""
    return f"{first:,}" if first == last else f"{first:,}–{last:,}"


def finding_line(finding: Finding) -> str:
    """Returns a finding in a line: kind, where, since when, what it means."""
    about = "" if where(finding) == "run" else f" in {where(finding)}"
    return f"{words(finding.kind)}{about} since step {finding.first_step:,}: {first_sentence(finding.explanation)}"


def in_order_of_cause(found: Sequence[Finding]) -> Iterator[tuple[Finding, int]]:
    """Yields findings in their order, consequences below their causes, with how deep each stands."""
    known = {each.finding_id for each in found}
    told: set[str] = set()

    def below(cause: str, depth: int) -> Iterator[tuple[Finding, int]]:
        for each in found:
            holder = each.cause_finding_id if each.cause_finding_id in known else None
            if (holder or "") == cause and each.finding_id not in told:
                told.add(each.finding_id)
                yield each, depth
                yield from below(each.finding_id, depth + 1)

    yield from below("", 0)
    # Causes that name each other would hide both.
    yield from ((each, 0) for each in found if each.finding_id not in told)


def efficacy_words(efficacy: UpdateEfficacy) -> str:
    """Returns what updates achieved: `effective · gain ratio 0.97 · held-out −2.1 standard errors`."""
    said = [words(efficacy.verdict)] if efficacy.verdict else []
    if efficacy.gain_ratio is not None:
        said.append(f"gain ratio {number(efficacy.gain_ratio)}")
    if efficacy.held_out_z is not None:
        z = f"{efficacy.held_out_z:+.1f}".replace("-", "−")
        said.append(f"held-out loss {z} standard errors")
    return " · ".join(said)


def comparison_words(comparison: Comparison) -> str:
    """Returns a comparison in half a sentence: `mixed against last-week: returns improved, sizing regressed`."""
    said = f"{words(comparison.verdict)} against {comparison.baseline_job_id}"
    changed = [
        f"{each.category} {words(each.change.verdict)}"
        for wanted in (ChangeVerdict.REGRESSED, ChangeVerdict.IMPROVED)
        for each in comparison.categories
        if each.change.verdict is wanted
    ]
    more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
    return f"{said}: {', '.join(changed[:4])}{more}" if changed else said


def repair_line(event: Repair) -> str:
    """Returns what became of a repair, in a line."""
    match event:
        case MitigationApplied():
            trial = ", on trial" if event.trial else ""
            return f"repair {event.mitigation_id} after step {event.step:,}{trial}: {repair_words(event)}"
        case MitigationKept():
            shown = f": {evidence_words(event.evidence)}" if event.evidence else ""
            return f"repair {event.mitigation_id} kept after step {event.step:,}{shown}"
        case MitigationReverted():
            return f"repair {event.mitigation_id} taken back after step {event.step:,}: {event.message}"


def evidence_words(evidence: tuple[Evidence, ...]) -> str:
    """Returns numbers with what they are held against: `gain ratio 0.12 (threshold 0.5)`."""
    return ", ".join(
        f"{words(each.name)} {quantity(each.observed, each.unit)}"
        + (f" (threshold {number(each.threshold)})" if each.threshold is not None else "")
        for each in evidence
    )


def quantity(value: float | None, unit: str | None) -> str:
    """Returns a number with its unit."""
    return f"{number(value)} {unit}" if unit and value is not None else number(value)


def repair_words(applied: MitigationApplied) -> str:
    """Returns what a repair does."""
    if applied.description:
        return applied.description
    return words(applied.action) if applied.action is not MitigationAction.UNKNOWN else "an unknown repair"
