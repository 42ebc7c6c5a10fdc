"""From a matplotlib figure to SVG that can stand in a page: no ids that clash, text as text, colours as variables."""

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup, escape

from gradsight_insight.report.theme import paint, with_variables
from gradsight_insight.report.words import number, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_INCHES = 9.6
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Picture(NamedTuple):
    """A picture and the same in words."""

    svg: Markup
    summary: str
    """What it shows of this run, for those who do not see it."""


def draw(name: str, title: str, summary: str, height: float, painter: "Callable[[Figure], None]") -> Picture:
    """Draw a picture.

    Args:
        name: Unique in the page; `a-z` and `-`.
        title: Read out instead of the picture, with the summary.
        summary: What it shows.
        height: In inches; the width is WIDTH_INCHES.
        painter: Draws into an empty figure, in colours of `theme.paint`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_settings()):
        figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
        painter(figure)
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return Picture(Markup(_embedded(file.getvalue(), name, title, summary)), summary)  # noqa: S704 -- matplotlib escapes text


def power(value: float, _place: Any = None) -> str:
    """A power of ten as a tick's label; nothing for what is none."""
    exponent = f"{value:.0e}".partition("e")
    return f"10{str(int(exponent[2])).translate(_SUPERSCRIPTS)}" if exponent[0] == "1" else ""


def quiet_axes(axes: "Axes") -> None:
    """Only what is needed to read: a left and a lower edge, faint lines across."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=paint("line"), linewidth=0.6)
    axes.set_axisbelow(True)


def whole_steps(axes: "Axes", first: float, last: float) -> None:
    """An axis of steps from first to last."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlim(first, last if last > first else first + 1)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def log_values(axes: "Axes", name: str = "y") -> None:
    """A logarithmic axis: powers of ten as labels, and some between them where it is short."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axis = axes.yaxis if name == "y" else axes.xaxis
    (axes.set_yscale if name == "y" else axes.set_xscale)("log")
    low, high = axis.get_view_interval()
    if 0 < low < high < 2000 * low:
        between = (1.0, 2.0, 5.0) if high < 60 * low else (1.0, 3.0)
        axis.set_major_locator(LogLocator(subs=between, numticks=12))
        axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    else:
        axis.set_major_locator(LogLocator(numticks=8))
        axis.set_major_formatter(FuncFormatter(power))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _settings() -> Any:  # matplotlib's own type lists every setting there is
    ink, quiet, line = paint("ink"), paint("quiet"), paint("line")
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "gradsight",
        "text.parse_math": False,  # a name may hold a dollar sign
        "axes.formatter.use_mathtext": False,
        "font.family": "DejaVu Sans",
        "font.size": 9.0,
        "text.color": ink,
        "axes.labelcolor": quiet,
        "axes.edgecolor": line,
        "axes.linewidth": 0.8,
        "axes.labelsize": 9.0,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.titlecolor": ink,
        "xtick.color": line,
        "ytick.color": line,
        "xtick.labelcolor": quiet,
        "ytick.labelcolor": quiet,
        "xtick.major.size": 3.0,
        "ytick.major.size": 0.0,
        "ytick.minor.size": 0.0,
        "xtick.minor.size": 0.0,
        "lines.linewidth": 1.6,
        "lines.solid_capstyle": "round",
        "path.simplify": True,
        "path.simplify_threshold": 0.2,
    }


def _embedded(svg: str, name: str, title: str, summary: str) -> str:
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = _own_ids(body, name)
    body = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--font)", body)  # the page's font
    body = re.sub(r"\n\s*", "\n", body)
    view = re.search(r'viewBox="([^"]*)"', body)
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{view.group(1) if view else ""}" role="img" '
        f'aria-labelledby="{name}-title {name}-text"><title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-text">{escape(visible(summary))}</desc>'
    )
    return with_variables(re.sub(r"<svg[^>]*>", lambda _: opening, body, count=1))


def _own_ids(body: str, name: str) -> str:
    """Ids under the picture's name, numbered; those that nothing refers to are left out."""
    used = dict.fromkeys(re.findall(r'(?:url\(#|href="#)([^)"]+)', body))
    names = {old: f"{name}-{place}" for place, old in enumerate(used)}

    def renamed(found: re.Match[str]) -> str:
        return f' id="{names[found.group(1)]}"' if found.group(1) in names else ""

    body = re.sub(r'\sid="([^"]*)"', renamed, body)
    return re.sub(r'(url\(#|href="#)([^)"]+)', lambda found: found.group(1) + names[found.group(2)], body)
