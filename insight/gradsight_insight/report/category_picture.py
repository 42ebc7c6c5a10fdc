"""Held-out error by category with 95 % intervals: of the new model, and beside it of the old one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from gradsight_insight.report.data import CategoryFigures, Interval, ReportData
from gradsight_insight.report.svg import Picture, draw
from gradsight_insight.report.theme import paint
from gradsight_insight.report.words import CHANGES, number, percent, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ROWS = 30


class _Row(NamedTuple):
    label: str
    new: Interval
    old: Interval | None = None
    note: str = ""
    tone: str = "quiet"
    bold: bool = False


def before_and_after(data: ReportData) -> Picture | None:
    """Old and new model by category; None without a comparison."""
    comparison = data.comparison
    if comparison is None or comparison.overall is None:
        return None
    changes = sorted(comparison.categories, key=lambda change: -change.baseline_error.ratio)[:MOST_ROWS]
    rows = []
    for change in (comparison.overall, *changes):
        judgement = CHANGES.get(change.verdict)
        weight = f"  ×{number(change.impact)}" if change.category and change.impact != 1 else ""
        rows.append(
            _Row(
                (short(change.category) if change.category else "all rows") + weight,
                change.error,
                change.baseline_error,
                judgement.title if judgement else "",
                judgement.tone if judgement and judgement.tone != "neutral" else "quiet",
                not change.category,
            )
        )
    worse = sum(change.verdict == "regressed" for change in comparison.categories)
    better = sum(change.verdict == "improved" for change in comparison.categories)
    summary = (
        f"Error over all rows: {percent(comparison.overall.baseline_error.ratio)} before, "
        f"{percent(comparison.overall.error.ratio)} now. Of {len(comparison.categories)} categories {better} got "
        f"better and {worse} got worse beyond chance."
    )
    return _drawn("before-and-after", "Error by category, old and new model", summary, rows)


def by_category(categories: Sequence[CategoryFigures], overall: Interval | None) -> Picture | None:
    """One model by category, the worst first; None without categories of right and wrong answers."""
    known = [figures for figures in categories if figures.error is not None]
    known.sort(key=lambda figures: -(figures.error.ratio if figures.error else 0.0))
    if not known:
        return None
    rows = [_Row(short(figures.category), figures.error) for figures in known[:MOST_ROWS] if figures.error]
    if overall is not None:
        rows.insert(0, _Row("all rows", overall, bold=True))
    worst = known[0]
    summary = (
        f"The highest error is {percent(worst.error.ratio if worst.error else None)} in {short(worst.category)}, over "
        f"{len(known)} categories."
    )
    return _drawn("by-category", "Error by category", summary, rows)


def _drawn(name: str, title: str, summary: str, rows: Sequence[_Row]) -> Picture:
    def painter(figure: "Figure") -> None:
        axes = figure.subplots()
        most = max(max(row.new.upper, row.old.upper if row.old else 0.0) for row in rows)
        for place, row in enumerate(rows):
            _paint_row(axes, place, row)
        axes.axvline(100 * rows[0].new.ratio, color=paint("line"), linewidth=1.0, zorder=0)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, 100 * min(1.0, most * 1.04) or 1)
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        for label, row in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_fontweight("bold" if row.bold else "normal")
        axes.tick_params(axis="y", length=0, labelcolor=paint("ink"))
        axes.grid(axis="x", color=paint("line"), linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_xlabel("wrong answers, %")

    return draw(name, title, summary, 0.8 + 0.34 * len(rows), painter)


def _paint_row(axes: "Axes", place: int, row: _Row) -> None:
    shift = 0.13 if row.old else 0.0
    if row.old:
        _paint_interval(axes, place - shift, row.old, "old", filled=False)
    _paint_interval(axes, place + shift, row.new, "train", filled=True)
    if row.note:
        axes.annotate(
            row.note,
            (1, place),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=paint(row.tone),
            annotation_clip=False,
            fontweight="bold" if row.tone != "quiet" else "normal",
        )


def _paint_interval(axes: "Axes", height: float, interval: Interval, shade: str, *, filled: bool) -> None:
    axes.plot(
        [100 * interval.lower, 100 * interval.upper],
        [height, height],
        color=paint(shade),
        linewidth=2.0,
        alpha=0.55,
    )
    axes.plot(
        [100 * interval.ratio],
        [height],
        marker="o",
        markersize=6.5,
        color=paint(shade),
        markeredgecolor=paint(shade),
        markeredgewidth=1.6,
        markerfacecolor=paint(shade if filled else "surface"),
        zorder=4,
    )
