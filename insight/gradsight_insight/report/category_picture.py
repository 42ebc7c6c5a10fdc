"""Held-out error by category with 95 % intervals: of the new model, and beside it of the old one."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from gradsight_insight.report.data import EvaluationFigures, Interval, ReportData
from gradsight_insight.report.svg import Picture, draw
from gradsight_insight.report.theme import paint
from gradsight_insight.report.words import CHANGES, number, percent, plain, short

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


def by_category(evaluation: EvaluationFigures) -> Picture | None:
    """One model by category, the worst first: error, or loss where answers are not right or wrong.

    None without categories.
    """
    if evaluation.error:
        values = {figures.category: figures.error for figures in evaluation.categories if figures.error}
        overall, what = evaluation.error, "error"
    else:
        losses = {figures.category: figures.loss for figures in evaluation.categories}
        values = {name: _point(loss) for name, loss in losses.items() if math.isfinite(loss)}
        overall, what = _point(evaluation.loss), "loss"
    if not values or not math.isfinite(overall.ratio):
        return None
    worst = max(values, key=lambda name: values[name].ratio)
    ordered = sorted(values.items(), key=lambda item: -item[1].ratio)[:MOST_ROWS]
    rows = [_Row("all rows", overall, bold=True), *(_Row(short(name), value) for name, value in ordered)]
    say = percent if what == "error" else number
    summary = (
        f"The highest {what} is {say(values[worst].ratio)} in {short(worst)}, over {len(values)} categories."
    )
    return _drawn("by-category", f"{plain(what)} by category", summary, rows, ratios=what == "error")


def _point(value: float) -> Interval:
    """A number that has no interval."""
    return Interval(value, value, value)


def _drawn(name: str, title: str, summary: str, rows: Sequence[_Row], *, ratios: bool = True) -> Picture:
    scale = 100.0 if ratios else 1.0

    def painter(figure: "Figure") -> None:
        axes = figure.subplots()
        most = max(max(row.new.upper, row.old.upper if row.old else 0.0) for row in rows)
        for place, row in enumerate(rows):
            _paint_row(axes, place, row, scale)
        axes.axvline(scale * rows[0].new.ratio, color=paint("line"), linewidth=1.0, zorder=0)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, scale * (min(1.0, most * 1.04) if ratios else most * 1.04) or 1)
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        for label, row in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_fontweight("bold" if row.bold else "normal")
        axes.tick_params(axis="y", length=0, labelcolor=paint("ink"))
        axes.grid(axis="x", color=paint("line"), linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_xlabel("wrong answers, %" if ratios else "loss")

    return draw(name, title, summary, 0.8 + 0.34 * len(rows), painter)


def _paint_row(axes: "Axes", place: int, row: _Row, scale: float) -> None:
    shift = 0.13 if row.old else 0.0
    if row.old:
        _paint_interval(axes, place - shift, row.old, "old", scale, filled=False)
    _paint_interval(axes, place + shift, row.new, "train", scale, filled=True)
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


def _paint_interval(
    axes: "Axes", height: float, interval: Interval, shade: str, scale: float, *, filled: bool
) -> None:
    axes.plot(
        [scale * interval.lower, scale * interval.upper],
        [height, height],
        color=paint(shade),
        linewidth=2.0,
        alpha=0.55,
    )
    axes.plot(
        [scale * interval.ratio],
        [height],
        marker="o",
        markersize=6.5,
        color=paint(shade),
        markeredgecolor=paint(shade),
        markeredgewidth=1.6,
        markerfacecolor=paint(shade if filled else "surface"),
        zorder=4,
    )
