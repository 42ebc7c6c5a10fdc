"""Findings for people: one in full on a page, or all of them in a list."""

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradsight._figures import number
from gradsight._insight import Finding
from gradsight.cli._insight import (
    SEVERITY_STYLES,
    first_sentence,
    in_order_of_cause,
    quantity,
    steps,
    where,
    words,
)
from gradsight.cli._tables import lineless, page

_SHOWN_ROWS = 15


def print_finding(finding: Finding, console: Console | None = None) -> None:
    """Prints what was found, on what evidence, what it means and what to do."""
    console = console or page()
    console.print(_head(finding))
    for title, section in _sections(finding):
        console.print()
        if title:
            console.print(Text(title, style="bold"))
        console.print(Padding(section, (0, 0, 0, 2)) if title else section)


def listed(found: Sequence[Finding]) -> RenderableType:
    """Returns findings as a list, two lines each, consequences indented below their causes."""
    parts: list[RenderableType] = []
    for each, depth in in_order_of_cause(found):
        color = SEVERITY_STYLES.get(each.severity, "")
        line = Text.assemble((each.severity, f"bold {color}" if each.open else "dim"), f"  {each.finding_id}")
        line.append(f" in {where(each)}" if where(each) != "run" else "")
        line.append(
            f"  steps {steps(each.first_step, each.last_step)}{'' if each.open else ', closed'}", "dim"
        )
        parts += [Padding(line, (0, 0, 0, 2 * depth))]
        parts += [Padding(Text(first_sentence(each.explanation)), (0, 0, 0, 2 * depth + 4))]
    return Group(*parts)


def _head(finding: Finding) -> Text:
    style = SEVERITY_STYLES.get(finding.severity, "")
    head = Text.assemble((words(finding.kind), "bold"), "  ", (finding.severity.upper(), f"bold {style}"))
    head.append(f" in {where(finding)}" if where(finding) != "run" else "")
    facts = [
        finding.finding_id,
        "open" if finding.open else "closed",
        f"steps {steps(finding.first_step, finding.last_step)}",
        f"confidence {finding.confidence:.0%}",
    ]
    if finding.cause_finding_id:
        facts.append(f"consequence of {finding.cause_finding_id}")
    return Text("\n").join([head, Text(" · ".join(facts), style="dim")])


def _sections(finding: Finding) -> list[tuple[str, RenderableType]]:
    sections: list[tuple[str, RenderableType]] = [("", Text(finding.explanation))]
    if finding.evidence:
        sections.append(("evidence", _evidence(finding)))
    if finding.actions:
        sections.append(("what to do", _actions(finding)))
    if finding.suspect_rows:
        sections.append(("rows to look at", _rows(finding)))
    if finding.page_url:
        sections.append(("", Text.assemble("more about it: ", (finding.page_url, "underline"))))
    return sections


def _evidence(finding: Finding) -> Table:
    table = lineless("number", "observed>", "threshold>", "steps")
    for each in finding.evidence:
        table.add_row(
            words(each.name),
            quantity(each.observed, each.unit),
            number(each.threshold),
            steps(each.first_step, each.last_step),
        )
    return table


def _actions(finding: Finding) -> Table:
    table = Table.grid(padding=(0, 1))
    for place, action in enumerate(finding.actions, 1):
        table.add_row(f"{place}.", action)
    return table


def _rows(finding: Finding) -> Table:
    table = lineless("row", "split", "category", "says", "model says", "loss>", "rank>")
    for row in finding.suspect_rows[:_SHOWN_ROWS]:
        table.add_row(
            row.row_id,
            row.split,
            row.category or "–",
            row.target or "–",
            row.predicted or "–",
            number(row.loss),
            f"{row.rank:,}",
        )
    rest = len(finding.suspect_rows) - _SHOWN_ROWS
    if rest > 0:
        table.add_row(Text(f"… {rest} more", style="dim"))
    return table
