"""Findings and repairs marked on an axis of steps: numbers for findings, letters for repairs."""

import string
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from gradsight_insight.report.data import Mitigation
from gradsight_insight.report.order import Numbered
from gradsight_insight.report.theme import SEVERITIES, paint

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 18
_LEVELS = 3
_ROOM = 0.028  # of the axis, which a badge takes


class Mark(NamedTuple):
    """A sign at a step."""

    step: int
    sign: str
    shade: str
    repair: bool


def letter(place: int) -> str:
    """The sign of a repair: A, B, …, Z, A1 and so on."""
    return string.ascii_uppercase[place % 26] + (str(place // 26) if place >= 26 else "")


def marks_of(findings: Sequence[Numbered], mitigations: Sequence[Mitigation]) -> list[Mark]:
    """The marks by step: the first findings in reading order and the first repairs, at most 18 of each."""
    marks = [
        Mark(
            entry.finding.first_step,
            str(entry.number),
            SEVERITIES.get(entry.finding.severity, "neutral"),
            False,
        )
        for entry in findings[:_MOST]
    ]
    marks += [
        Mark(repair.step, letter(place), "good" if repair.outcome == "kept" else "old", True)
        for place, repair in enumerate(mitigations[:_MOST])
    ]
    return sorted(marks)


def mark(panels: "Sequence[Axes]", marks: Sequence[Mark]) -> int:
    """Draw a line through every panel at each mark, its badge above the first; badges that would touch are stacked.

    Returns:
        Rows of badges.
    """
    first, end = panels[0].get_xlim()
    taken = [-1.0] * _LEVELS
    for entry in marks:
        place = min(max((entry.step - first) / (end - first), 0.0), 1.0)
        level = next((level for level in range(_LEVELS) if place - taken[level] > _ROOM), None)
        for panel in panels:
            style = (0, (4, 3)) if entry.repair else (0, (1, 2))
            panel.axvline(entry.step, color=paint(entry.shade), linewidth=1.0, linestyle=style, zorder=1)
        if level is None:
            continue  # the list below the picture has its step
        taken[level] = place
        panels[0].annotate(
            entry.sign,
            (place, 1.0),
            xycoords="axes fraction",
            xytext=(0, 9 + 15 * level),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8.5,
            fontweight="bold",
            color=paint("surface"),
            bbox={
                "boxstyle": "square,pad=0.25" if entry.repair else "circle,pad=0.22",
                "facecolor": paint(entry.shade),
                "edgecolor": "none",
            },
        )
    return sum(last >= 0 for last in taken)
