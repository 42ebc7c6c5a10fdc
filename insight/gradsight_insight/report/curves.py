"""Loss, held-out error, gradient norm and learning rate over the steps, with findings and repairs marked on them."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gradsight_insight.history import thinned_places
from gradsight_insight.report.data import Curve, Floats, ReportData
from gradsight_insight.report.marks import mark, marks_of
from gradsight_insight.report.order import flat, numbered
from gradsight_insight.report.svg import Picture, draw, log_values, quiet_axes, whole_steps
from gradsight_insight.report.theme import paint
from gradsight_insight.report.words import number, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_BINS = 240
_MOST_POINTS = 600
_LOG_FROM = 15.0
"""Largest over smallest value from which an axis is logarithmic."""


class Binned(NamedTuple):
    """A long curve in stretches of equally many points."""

    steps: Floats
    mean: Floats
    low: Floats
    high: Floats
    nonfinite: Floats
    """Steps at which the value was not finite, at most 60."""


class _Panel(NamedTuple):
    label: str
    height: float
    paint: "Callable[[Axes], None]"


def binned(curve: Curve) -> Binned:
    """The curve in at most 240 stretches; its extremes stay visible as their range."""
    finite = np.isfinite(curve.values)
    steps, values = curve.steps[finite].astype(float), curve.values[finite]
    bad = curve.steps[~finite].astype(float)
    bad = bad[np.unique(np.linspace(0, len(bad) - 1, 60).astype(int))] if len(bad) else bad
    size = len(values)
    if not size:
        nothing = np.zeros(0)
        return Binned(nothing, nothing, nothing, nothing, bad)
    bins = size if size <= 60 else int(np.clip(size // 8, 60, _MOST_BINS))
    starts = np.arange(bins) * size // bins
    lengths = np.diff(np.append(starts, size))
    return Binned(
        np.add.reduceat(steps, starts) / lengths,
        np.add.reduceat(values, starts) / lengths,
        np.minimum.reduceat(values, starts),
        np.maximum.reduceat(values, starts),
        bad,
    )


def thinned(curve: Curve) -> Curve:
    """At most 600 points, extremes and the last among them; values finite."""
    places = thinned_places(curve.values.tolist(), _MOST_POINTS)
    return Curve(steps=curve.steps[places], values=curve.values[places])


def learning_curves(data: ReportData) -> Picture | None:
    """The picture; None before the first step."""
    panels = _panels(data)
    if not panels:
        return None
    entries = list(flat(numbered(data.findings)))
    marks = marks_of(entries, data.mitigations)
    heights = [panel.height for panel in panels]

    def painter(figure: "Figure") -> None:
        axes = list(figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0])
        for axis, panel in zip(axes, panels, strict=True):
            quiet_axes(axis)
            panel.paint(axis)
        whole_steps(axes[-1], *_range(data))
        axes[-1].set_xlabel("step")
        levels = mark(axes, marks)
        for axis, panel in zip(axes, panels, strict=True):
            axis.set_title(panel.label, pad=4 + (15 * levels + 4 if axis is axes[0] and levels else 0))

    extra = 0.5 if marks else 0.0  # for the badges
    return draw("learning-curves", "Learning curves", _summary(data), sum(heights) + 0.6 + extra, painter)


def _panels(data: ReportData) -> list[_Panel]:
    panels = []
    if len(data.train_loss) or len(data.validation_loss):
        panels.append(_Panel("Loss", 2.7, lambda axes: _paint_loss(axes, data)))
    if len(data.validation_figure):
        label = f"Held-out {data.figure_name}" + (", %" if data.figure_name == "error" else "")
        panels.append(_Panel(label, 1.7, lambda axes: _paint_figure(axes, data)))
    if len(data.gradient_norm):
        panels.append(
            _Panel(
                "Gradient norm, before clipping",
                1.1,
                lambda axes: _paint_steps(axes, data.gradient_norm, log=True),
            )
        )
    if len(data.learning_rate):
        panels.append(
            _Panel("Learning rate", 0.8, lambda axes: _paint_learning_rate(axes, data.learning_rate))
        )
    return panels


def _range(data: ReportData) -> tuple[float, float]:
    ends = [
        curve.steps[[0, -1]]
        for curve in (data.train_loss, data.validation_loss, data.validation_figure, data.gradient_norm)
        if len(curve)
    ]
    first, last = min(int(end[0]) for end in ends), max(int(end[1]) for end in ends)
    return min(first, 1), last


def _paint_loss(axes: "Axes", data: ReportData) -> None:
    values = [_paint_curve(axes, data.train_loss, "train"), _paint_evaluations(axes, data.validation_loss)]
    _log_if_wide(axes, np.concatenate(values))
    if data.prior_loss is not None and np.isfinite(data.prior_loss):
        axes.axhline(data.prior_loss, color=paint("quiet"), linewidth=1.0, linestyle=(0, (2, 3)))
        axes.annotate(
            "a model that ignores its inputs",
            (1, data.prior_loss),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=paint("quiet"),
            bbox={"facecolor": paint("surface"), "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
            zorder=6,
        )
    _mark_kept(axes, data, data.validation_loss)


def _paint_figure(axes: "Axes", data: ReportData) -> None:
    scale = 100.0 if data.figure_name == "error" else 1.0
    curve = Curve(steps=data.validation_figure.steps, values=data.validation_figure.values * scale)
    _paint_evaluations(axes, curve)
    _mark_kept(axes, data, curve)
    if data.figure_name == "error":
        axes.set_ylim(bottom=0)
    else:
        _log_if_wide(axes, curve.values)


def _paint_steps(axes: "Axes", curve: Curve, *, log: bool) -> None:
    values = _paint_curve(axes, curve, "train")
    if log and np.any(values > 0):
        log_values(axes)


def _paint_learning_rate(axes: "Axes", curve: Curve) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    shown = binned(curve)
    axes.plot(shown.steps, shown.mean, color=paint("quiet"), linewidth=1.4)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=2))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def _paint_curve(axes: "Axes", curve: Curve, shade: str) -> Floats:
    shown = binned(curve)
    if np.any(shown.high > shown.low):
        axes.fill_between(shown.steps, shown.low, shown.high, color=paint(shade), alpha=0.2, linewidth=0)
    marker = "o" if len(shown.steps) == 1 else ""
    axes.plot(shown.steps, shown.mean, color=paint(shade), marker=marker, markersize=5)
    if len(shown.nonfinite):
        axes.plot(
            shown.nonfinite,
            np.full(len(shown.nonfinite), 0.96),
            linestyle="",
            marker="x",
            markersize=5,
            color=paint("critical"),
            transform=axes.get_xaxis_transform(),
        )
    return np.concatenate([shown.low, shown.high])


def _paint_evaluations(axes: "Axes", curve: Curve) -> Floats:
    finite = np.isfinite(curve.values)
    shown = thinned(Curve(steps=curve.steps[finite], values=curve.values[finite]))
    steps, values = shown.steps, shown.values
    if not len(values):
        return values
    axes.plot(
        steps,
        values,
        color=paint("held-out"),
        clip_on=False,
        linewidth=1.8,
        marker="o" if len(steps) <= 60 else "",
        markersize=3.5,
    )
    return values


def _mark_kept(axes: "Axes", data: ReportData, curve: Curve) -> None:
    if data.kept is None or not np.any(here := curve.steps == data.kept.step):
        return
    value = curve.values[here][-1]
    if np.isfinite(value):
        axes.plot(
            [data.kept.step],
            [value],
            marker="D",
            markersize=7,
            color=paint("held-out"),
            markeredgecolor=paint("surface"),
            markeredgewidth=1.2,
            zorder=5,
        )


def _log_if_wide(axes: "Axes", values: Floats) -> None:
    if len(values) and values.min() > 0 and values.max() / values.min() > _LOG_FROM:
        log_values(axes)


def _summary(data: ReportData) -> str:
    parts = [
        _course("Training loss goes", binned(data.train_loss).mean, number),
        _course("Held-out loss goes", data.validation_loss.values, number),
        _course(
            f"Held-out {data.figure_name} goes",
            data.validation_figure.values,
            percent if data.figure_name == "error" else number,
        ),
    ]
    if data.nonfinite_steps:
        parts.append(f"{data.nonfinite_steps} steps were not finite.")
    return " ".join(part for part in parts if part)


def _course(what: str, values: Sequence[float] | Floats, say: Callable[[float], str]) -> str:
    return f"{what} from {say(float(values[0]))} to {say(float(values[-1]))}." if len(values) else ""
