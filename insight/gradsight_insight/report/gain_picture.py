"""Did the updates do what they promised? The gain ratio over the steps, and the judgement of each window."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gradsight_insight.report.curves import thinned
from gradsight_insight.report.data import Curve, Efficacy, ReportData
from gradsight_insight.report.svg import Picture, draw, quiet_axes, whole_steps
from gradsight_insight.report.theme import paint
from gradsight_insight.report.words import EFFICACIES, number, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OVERSHOOT = 0.25
CAUTIOUS = 0.9
_LOW, _HIGH = -0.5, 1.3
_MOST_STRETCHES = 120
_BANDS = (
    (CAUTIOUS, _HIGH, "neutral", "cautious"),
    (OVERSHOOT, CAUTIOUS, "good", "as it should be"),
    (0.0, OVERSHOOT, "warning", "overshoot"),
    (_LOW, 0.0, "critical", "loss went up"),
)


class Stretch(NamedTuple):
    """Steps with one judgement."""

    first_step: int
    last_step: int
    verdict: str


def gain_ratio(data: ReportData) -> Picture | None:
    """The picture; None without a reading."""
    curve = data.gain_ratio
    if not len(curve) or not np.any(np.isfinite(curve.values)):
        return None
    windows = [window for window in data.efficacies if window.verdict in EFFICACIES]

    def painter(figure: "Figure") -> None:
        if windows:
            axes, strip = figure.subplots(2, 1, sharex=True, height_ratios=[8, 1])
            _paint_strip(strip, windows)
            strip.set_xlabel("step")
        else:
            axes = figure.subplots()
            axes.set_xlabel("step")
        _paint_ratio(axes, data)
        ends = [float(step) for step in curve.steps[[0, -1]]] + [
            float(window.last_step) for window in windows
        ]
        whole_steps(axes, min(1.0, *ends), max(ends))

    return draw("gain-ratio", "Gain ratio", _summary(data), 3.5 if windows else 3.0, painter)


def _paint_ratio(axes: "Axes", data: ReportData) -> None:
    curve = data.gain_ratio
    finite = np.isfinite(curve.values)
    shown = thinned(Curve(steps=curve.steps[finite], values=curve.values[finite]))
    steps, values = shown.steps, shown.values
    quiet_axes(axes)
    axes.grid(False)
    for low, high, shade, name in _BANDS:
        axes.axhspan(low, high, color=paint(shade), alpha=0.1, linewidth=0)
        axes.annotate(
            name,
            (1, (low + high) / 2),
            xycoords=("axes fraction", "data"),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=paint(shade),
            annotation_clip=False,
        )
    marker = "o" if len(steps) <= 60 else ""
    axes.plot(steps, np.clip(values, _LOW, _HIGH), color=paint("train"), marker=marker, markersize=3.5)
    for outside, sign in ((values < _LOW, "v"), (values > _HIGH, "^")):
        edge = _LOW + 0.05 if sign == "v" else _HIGH - 0.05
        axes.plot(
            steps[outside], np.full(outside.sum(), edge), linestyle="", marker=sign, color=paint("critical")
        )
    axes.set_ylim(_LOW, _HIGH)
    axes.set_yticks([0, OVERSHOOT, 0.5, CAUTIOUS, 1.0], ["0", "0.25", "0.5", "0.9", ""])
    axes.set_ylabel("gain ratio")


def stretches(windows: Sequence[Efficacy]) -> list[Stretch]:
    """Which judgement was the newest where: windows overlap, so each stands from the last one's end to its own."""
    found: list[Stretch] = []
    for window in windows:
        first = found[-1].last_step if found else window.first_step
        if found and found[-1].verdict == window.verdict:
            first = found.pop().first_step
        if window.last_step > first:
            found.append(Stretch(first, window.last_step, window.verdict))
    return found


def _paint_strip(axes: "Axes", windows: Sequence[Efficacy]) -> None:
    shown = stretches(windows[:: -(-len(windows) // _MOST_STRETCHES)] if windows else [])
    whole = max((stretch.last_step for stretch in shown), default=1)
    for first, last, verdict in shown:
        judgement = EFFICACIES[verdict]
        axes.broken_barh(
            [(first, last - first)],
            (0, 1),
            facecolor=paint(judgement.tone),
            edgecolor=paint("surface"),
            linewidth=1.0,
        )
        if (last - first) / whole > 0.012 * len(judgement.title):
            axes.text(
                (first + last) / 2,
                0.5,
                judgement.title,
                ha="center",
                va="center",
                fontsize=8,
                color=paint("surface"),
                fontweight="bold",
            )
    axes.set_yticks([])
    axes.set_ylim(0, 1)
    axes.spines[:].set_visible(False)


def _summary(data: ReportData) -> str:
    values = data.gain_ratio.values[np.isfinite(data.gain_ratio.values)]
    inside = float(np.mean((values >= OVERSHOOT) & (values <= CAUTIOUS)))
    text = (
        f"The gain ratio has the median {number(float(np.median(values)))} and ends at {number(float(values[-1]))}; "
        f"{100 * inside:.0f} % of the readings lie between {OVERSHOOT} and {CAUTIOUS}."
    )
    if data.efficacies:
        text += f" The newest window is judged: {plain(data.efficacies[-1].verdict).lower()}."
    return text
