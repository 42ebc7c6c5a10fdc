"""The figures of `faults.py` with their bars, and the tables beside them."""

from collections.abc import Iterator, Mapping
from typing import Any

from _fault_design import AGAIN, REPORTED, TUNING
from _fault_measures import (
    Rate,
    Results,
    alarms,
    any_alarms,
    attributed,
    by,
    detected,
    false_alarms,
    holds,
    latencies,
    median,
    published,
    repair_rate,
    trials,
)
from _fault_prevented import PREVENTED
from _report import Figure

_TREATMENTS = ("repaired", *AGAIN)


def figures(reported: Results, tuning: Results) -> list[Figure]:
    """What must be reached on the families that judge; the same of the others stands beside it, without a bar."""
    return [*_figures("", reported, bars=True), *_figures("tuning families: ", tuning, bars=False)]


def _figures(prefix: str, results: Results, *, bars: bool) -> list[Figure]:
    faulty = list(results.faulty())
    healthy = false_alarms(results)
    tried = repair_rate(trials(results, "repaired"))
    shares = [
        ("faults detected", Rate.among(detected(*pair) for pair in faulty), 97.0),
        ("first cause named", Rate.among(attributed(*pair) for pair in faulty), 90.0),
        ("repairable runs repaired", tried, 90.0),
    ]
    found = [
        Figure(name=prefix + name, value=100 * rate.share, unit="%", bar=bar if bars else None)
        for name, rate, bar in shares
    ]
    return [
        *found,
        Figure(
            name=f"{prefix}healthy runs with a false alarm",
            value=100 * healthy.share,
            unit="%",
            bar=2.0 if bars else None,
            direction="at_most",
        ),
        Figure(name=f"{prefix}healthy runs", value=healthy.of, unit="runs", bar=100 if bars else None),
    ]


def table(results: Results) -> Iterator[str]:
    """All that stands in docs/detection.md, as Markdown."""
    yield "\n## Rates\n\n| families | detected | first cause named | healthy runs with a false alarm | with any |"
    yield "|---|---|---|---|---|"
    for families in (REPORTED, TUNING):
        part = results.of(families)
        faulty = list(part.faulty())
        rates = (
            Rate.among(detected(*pair) for pair in faulty),
            Rate.among(attributed(*pair) for pair in faulty),
        )
        yield f"| {', '.join(families)} | {rates[0]} | {rates[1]} | {false_alarms(part)} | {any_alarms(part)} |"
    for families in (REPORTED, TUNING):
        yield from _by_fault(results.of(families), families)
    yield from _latency(results)
    yield from _repairs(results)
    yield from _published(results)
    yield from _false(results)
    yield "\n## Prevented\n\n| fault | why it cannot happen | checked by |\n|---|---|---|"
    yield from (f"| {fault.name} | {fault.reason} | {fault.checked} |" for fault in PREVENTED)


def _by_fault(results: Results, families: tuple[str, ...]) -> Iterator[str]:
    yield f"\n## By fault: {', '.join(families)}\n"
    yield "| fault | expected | detected | first cause | other first alarms |\n|---|---|---|---|---|"
    for name, pairs in by(results.faulty(), lambda pair: pair[0].name).items():
        fault = pairs[0][0]
        first = [next((f["kind"] for f in alarms(line) if not f["cause"]), "none") for _, line in pairs]
        others = by([kind for kind in first if kind not in fault.expected], str)
        said = ", ".join(f"{kind} {len(kinds)}" for kind, kinds in others.items())
        seen, named = Rate.among(detected(*p) for p in pairs), Rate.among(attributed(*p) for p in pairs)
        expected = " or ".join(fault.expected)
        yield f"| {name} | {expected} | {seen.count}/{seen.of} | {named.count}/{named.of} | {said} |"


def _latency(results: Results) -> Iterator[str]:
    yield "\n## Steps until a fault was named\n\n| kind | runs | median | slowest |\n|---|---|---|---|"
    for kind, steps in sorted(latencies(results).items()):
        yield f"| {kind} | {len(steps)} | {median(steps):.0f} | {max(steps)} |"


def _repairs(results: Results) -> Iterator[str]:
    yield "\n## Repair\n\nOf the runs that the fault harmed, all families.\n"
    yield "| failure mode | harmed | " + " | ".join(_TREATMENTS) + " |\n|---|---|" + "---|" * len(_TREATMENTS)
    groups = {arm: by(trials(results, arm), lambda trial: trial.code) for arm in _TREATMENTS}
    for code, tried in groups["repaired"].items():
        harmed = Rate.among(trial.harmed for trial in tried)
        rates = [repair_rate(groups[arm].get(code, [])) for arm in _TREATMENTS]
        yield (
            f"| {code} | {harmed.count}/{harmed.of} | "
            + " | ".join(f"{r.count}/{r.of}" for r in rates)
            + " |"
        )
    for families in (REPORTED, TUNING):
        rates = [repair_rate(trials(results.of(families), arm)) for arm in _TREATMENTS]
        yield f"| {', '.join(families)} | | " + " | ".join(str(rate) for rate in rates) + " |"


def _published(results: Results) -> Iterator[str]:
    yield "\n## Published rules on the same runs\n"
    rules: Mapping[str, Mapping[str, Rate]] = {
        "SageMaker Debugger": published(results, "SMD"),
        "AUTOTRAINER": published(results, "AT"),
    }
    questions = list(rules["AUTOTRAINER"])
    yield "| rules | " + " | ".join(questions) + " |\n|---|" + "---|" * len(questions)
    for origin, rates in rules.items():
        yield f"| {origin} | " + " | ".join(str(rates[question]) for question in questions) + " |"
    faulty = list(results.faulty())
    ours: list[Any] = [
        Rate.among(bool(alarms(line)) for _, line in faulty),
        Rate.among(detected(*pair) for pair in faulty),
        any_alarms(results),
    ]
    yield "| gradsight | " + " | ".join(str(rate) for rate in ours) + " |"


def _false(results: Results) -> Iterator[str]:
    yield "\n## Alarms on healthy runs\n\n| run | false | confirmed by the test rows |\n|---|---|---|"
    for line in results.healthy():
        found = {True: "", False: ""}
        for alarm in alarms(line):
            found[holds(line, alarm)] += f"{alarm['kind']} {alarm['subject']} @{alarm['step']} "
        if any(found.values()):
            yield f"| {line['key']} | {found[False]} | {found[True]} |"
