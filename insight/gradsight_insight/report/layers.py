"""How the gradient flows through the layers, and how far each layer moves."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gradsight_insight.report.data import Floats, ReportData
from gradsight_insight.report.svg import Picture, draw, log_values, power, whole_steps
from gradsight_insight.report.theme import paint
from gradsight_insight.report.words import number, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GUIDE = 1e-3
"""Update over weight that is usual: cs231n.github.io/neural-networks-3."""

_COLUMNS = 320
_NOT_FINITE = (224, 48, 96, 255)
_ZERO = (120, 120, 120, 255)
_LEAST_RATIO = 1e-7


def gradient_flow(data: ReportData) -> Picture | None:
    """Heat map of layers × steps; None without probes."""
    values, steps = data.probes.gradient_rms, data.probes.steps
    if not len(steps) or not values.shape[1] or not np.any(~np.isnan(values)):
        return None
    grid = on_columns(steps, values, min(_COLUMNS, max(1, int(steps[-1] - steps[0]) + 1)))
    low, high = _bounds(values)

    def painter(figure: "Figure") -> None:
        axes, scale = figure.subplots(1, 2, width_ratios=[60, 1])
        last = max(float(steps[-1]), float(steps[0]) + 1)
        axes.imshow(
            _coloured(grid, low, high),
            aspect="auto",
            interpolation="none",
            extent=(float(steps[0]), last, values.shape[1] - 0.5, -0.5),
        )
        _name_layers(axes, data.layers, values.shape[1])
        whole_steps(axes, float(steps[0]), last)
        axes.set_xlabel("step")
        axes.spines[:].set_visible(False)
        _paint_scale(scale, low, high)

    height = 0.9 + _row_height(values.shape[1]) * values.shape[1]
    return draw("gradient-flow", "Gradient flow", _flow_summary(data), height, painter)


def update_ratios(data: ReportData) -> Picture | None:
    """Range of update over weight by layer, at the beginning and at the end; None without probes."""
    ratios = data.probes.update_ratio
    if not ratios.size or not np.any(np.isfinite(ratios)):
        return None
    layers = ratios.shape[1]
    shown = np.where(np.isfinite(ratios), np.maximum(ratios, _LEAST_RATIO), np.nan)

    def painter(figure: "Figure") -> None:
        axes = figure.subplots()
        axes.axvspan(GUIDE / 10, GUIDE * 10, color=paint("good"), alpha=0.1, linewidth=0)
        axes.axvline(GUIDE, color=paint("good"), linewidth=1.2, linestyle=(0, (4, 3)))
        for layer in range(layers):
            _paint_range(axes, shown[:, layer], layer)
        _name_layers(axes, data.layers, layers)
        axes.set_ylim(layers - 0.4, -0.6)
        known = [column[np.isfinite(column)] for column in shown.T if np.isfinite(column).any()]
        low = min(float(np.percentile(column, 5)) for column in known)
        high = max(float(np.percentile(column, 95)) for column in known)
        axes.set_xscale("log")
        axes.set_xlim(min(low / 1.6, GUIDE / 12), max(high * 1.6, GUIDE * 12))
        log_values(axes, "x")
        axes.grid(axis="x", color=paint("line"), linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_xlabel("size of an update over size of the weights")

    return draw(
        "update-ratios", "Update ratios", _ratio_summary(data), 0.9 + _row_height(layers) * layers, painter
    )


def on_columns(steps: npt.NDArray[np.int64], values: Floats, columns: int) -> Floats:
    """The probes on equally wide columns over the steps, shape (layers, columns).

    Several probes in a column: their geometric mean, and not-a-number or infinity when one of them is that. None: the
    nearest probe's.
    """
    edges = np.linspace(float(steps[0]), float(steps[-1]), columns + 1)
    of_step = np.clip(np.searchsorted(edges, steps, side="right") - 1, 0, columns - 1)
    middles = (edges[:-1] + edges[1:]) / 2
    nearest = np.abs(middles[:, None] - steps[None, :]).argmin(axis=1) if len(steps) <= columns * 4 else None
    grid = np.full((values.shape[1], columns), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(values)
        for column in range(columns):
            here = np.flatnonzero(of_step == column)
            if len(here):
                grid[:, column] = np.exp(logs[here].mean(axis=0))
            elif nearest is not None:
                grid[:, column] = values[nearest[column]]
            elif column:
                grid[:, column] = grid[:, column - 1]
    return grid


def _bounds(values: Floats) -> tuple[float, float]:
    """Decimal logarithms of the scale's ends, at least two apart."""
    usable = values[np.isfinite(values) & (values > 0)]
    if not len(usable):
        return -4.0, -2.0
    low, high = np.log10(np.percentile(usable, [1, 99]))
    spare = max(0.0, 2.0 - (high - low)) / 2
    return float(low - spare), float(high + spare)


def _coloured(grid: Floats, low: float, high: float) -> npt.NDArray[np.uint8]:
    from matplotlib import colormaps

    with np.errstate(divide="ignore", invalid="ignore"):
        places = (np.log10(grid) - low) / (high - low)
    colours: npt.NDArray[np.uint8] = colormaps["viridis"](np.clip(np.nan_to_num(places), 0, 1), bytes=True)
    colours[grid == 0] = _ZERO
    colours[~np.isfinite(grid)] = _NOT_FINITE
    return colours


def _paint_scale(axes: "Axes", low: float, high: float) -> None:
    ramp = np.linspace(low, high, 64)[::-1, None]
    axes.imshow(_coloured(10**ramp, low, high), aspect="auto", interpolation="none", extent=(0, 1, low, high))
    axes.set_xticks([])
    axes.yaxis.tick_right()
    first, last = int(np.ceil(low)), int(np.floor(high))
    ticks = range(first, last + 1, max(1, (last - first) // 5))
    axes.set_yticks(list(ticks), [power(10.0**tick) for tick in ticks])
    axes.spines[:].set_visible(False)


def _name_layers(axes: "Axes", names: tuple[str, ...], layers: int) -> None:
    labels = [short(names[layer]) if layer < len(names) else f"layer {layer}" for layer in range(layers)]
    axes.set_yticks(range(layers), labels, fontsize=8.5 if layers <= 20 else 7.5)
    axes.tick_params(axis="y", length=0, labelcolor=paint("ink"))


def _row_height(layers: int) -> float:
    return 0.34 if layers <= 6 else 0.26 if layers <= 16 else 0.19


def _paint_range(axes: "Axes", ratios: Floats, row: int) -> None:
    known = ratios[np.isfinite(ratios)]
    if not len(known):
        return
    third = max(1, len(known) // 3)
    low, high = np.percentile(known, [5, 95])
    lower, upper = np.percentile(known, [25, 75])
    axes.plot([low, high], [row, row], color=paint("old"), linewidth=1.2)
    axes.plot([lower, upper], [row, row], color=paint("old"), linewidth=4.5, alpha=0.55)
    axes.plot(
        [np.median(known[:third])],
        [row],
        marker="o",
        markersize=6.5,
        color=paint("train"),
        markerfacecolor=paint("surface"),
        markeredgecolor=paint("train"),
        markeredgewidth=1.6,
        zorder=4,
    )
    axes.plot([np.median(known[-third:])], [row], marker="o", markersize=6.5, color=paint("train"), zorder=5)


def _flow_summary(data: ReportData) -> str:
    rms = data.probes.gradient_rms
    with np.errstate(all="ignore"):
        usual = [
            float(np.median(column[np.isfinite(column)])) if np.isfinite(column).any() else np.nan
            for column in rms.T
        ]
    bad = int((~np.isfinite(rms)).any(axis=1).sum())
    text = (
        f"{rms.shape[1]} layers at {len(rms)} measured steps. The median gradient per weight is {number(usual[0])} in "
        f"the first layer and {number(usual[-1])} in the last."
    )
    return f"{text} At {bad} of these steps a gradient was not finite." if bad else text


def _ratio_summary(data: ReportData) -> str:
    ratios = data.probes.update_ratio
    last = ratios[-max(1, len(ratios) // 3) :]
    usual = [float(np.median(column[np.isfinite(column)])) for column in last.T if np.isfinite(column).any()]
    if not usual:
        return ""
    return (
        f"In the last third of the run, an update changes a layer's weights by a share of {number(min(usual))} to "
        f"{number(max(usual))} of their size."
    )
