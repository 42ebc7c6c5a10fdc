"""Two jobs side by side, on one page."""

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from gradsight._enums import ChangeVerdict
from gradsight._figures import date, number, percent, points, sparklines
from gradsight._human import human_path
from gradsight._insight import (
    CategoryChange,
    Comparison,
    JobComparison,
    PairedChange,
    RatioInterval,
    SpecDifference,
)
from gradsight._job import Job
from gradsight._records import Series
from gradsight.cli._headline import METRICS as HEADLINE_METRICS
from gradsight.cli._headline import Headline
from gradsight.cli._insight import CHANGE_STYLES, COMPARISON_STYLES, interval_words, words
from gradsight.cli._tables import lineless, page

METRICS = ("loss", *HEADLINE_METRICS)
_CURVE_WIDTH = 40
_WIDE = 110
_SHOWN_CATEGORIES = 20


def print_comparison(
    compared: JobComparison,
    jobs: Sequence[Job],
    curves: Sequence[Sequence[Series]],
    console: Console | None = None,
) -> None:
    """Prints the verdict, the categories, the curves and the specs' differences; old first, then new."""
    console = console or page()
    console.print(_jobs(jobs, console.width))
    sections: list[RenderableType | None] = [_verdict(compared.comparison)]
    sections += [_changes(compared.comparison, console.width), _curves(curves, console.width)]
    sections += [_differences(compared.differences, console.width)]
    for section in filter(None, sections):
        console.print()
        console.print(section)


def _jobs(jobs: Sequence[Job], width: int) -> Table:
    table = Table.grid(padding=(0, 2))
    for role, job in zip(("old", "new"), jobs, strict=True):
        test = job.summary.test if job.summary else None
        figure = f"test {Headline.of(test).name} {Headline.of(test).figure}" if test else "no test figures"
        created = [Text(f"created {date(job.create_time)}", style="dim")] if width >= _WIDE else []
        table.add_row(Text(role, style="bold"), job.name, job.job_id, figure, *created)
    return table


def _verdict(comparison: Comparison) -> Text:
    style = COMPARISON_STYLES.get(comparison.verdict, "")
    text = Text(words(comparison.verdict).upper(), style=f"bold {style}")
    before, after = comparison.baseline_weighted_error_ratio, comparison.weighted_error_ratio
    if comparison.overall is not None and _weighted(comparison):
        text.append(f"  weighted by impact {percent(before)} → {percent(after)}", style="not bold default")
    if comparison.message:
        text.append(f"\n{comparison.message}", style="not bold default")
    return text


def _changes(comparison: Comparison, width: int) -> Table | None:
    """All rows, then category by category: error before and after with its interval, and what the rows say."""
    if comparison.overall is None:
        return None
    wide = width >= _WIDE
    columns = ["", "rows>", "old>", "new>", "change>", "p>", "least fall>", "says"]
    columns[1:1] = ["impact>"] if _weighted(comparison) else []
    rows = [_row("all rows", None, comparison.overall, wide=wide)]
    rows += [
        _row(each.category, each.impact, each.change, wide=wide)
        for each in _most_telling(comparison.categories)
    ]
    # Where there is little room, the words matter more than the weights and the p-values.
    shown = [column for column in columns if wide or column not in ("impact>", "p>")]
    table = lineless(*shown)
    for row in rows:
        table.add_row(*(row[column] for column in shown))
    rest = len(comparison.categories) - _SHOWN_CATEGORIES
    if rest > 0:
        table.add_row(Text(f"… {rest} more in --format json", style="dim"))
    unit, test = (" with its 95 % interval", "; p: exact McNemar test") if wide else (" in %", "")
    fall = "least fall: the smallest fall of right answers, in points, that these rows could have shown"
    table.caption = f"error{unit}, change in points; {fall}{test}"
    table.caption_style, table.caption_justify = "dim", "left"
    return table


def _weighted(comparison: Comparison) -> bool:
    return any(each.impact != 1 for each in comparison.categories)


def _most_telling(categories: Sequence[CategoryChange]) -> list[CategoryChange]:
    """What got worse first, then what got better; the rest in its order."""
    order = {ChangeVerdict.REGRESSED: 0, ChangeVerdict.IMPROVED: 1}
    found = sorted(categories, key=lambda each: order.get(each.change.verdict or ChangeVerdict.UNKNOWN, 2))
    return found[:_SHOWN_CATEGORIES]


def _row(name: str, impact: float | None, change: PairedChange, *, wide: bool) -> dict[str, str | Text]:
    rows = max(change.examples, 1)
    style = CHANGE_STYLES.get(change.verdict, "") if change.verdict else ""
    fall = change.smallest_detectable_fall
    return {
        "": name,
        "impact>": "" if impact is None else number(impact),
        "rows>": f"{change.examples:,}",
        "old>": _share(change.baseline_error_ratio, change.baseline_errors / rows, wide=wide),
        "new>": _share(change.error_ratio, change.errors / rows, wide=wide),
        "change>": Text(points((change.errors - change.baseline_errors) / rows), style),
        "p>": number(change.p_value),
        "least fall>": "–" if fall is None else points(fall).removeprefix("+"),
        "says": Text(words(change.verdict or "not judged"), style),
    }


def _share(interval: RatioInterval | None, ratio: float, *, wide: bool) -> str:
    if interval is None or not wide:
        return f"{ratio * 100:.1f}"
    return interval_words(interval)


def _curves(curves: Sequence[Sequence[Series]], width: int) -> RenderableType | None:
    """Both jobs' curves, metric by metric, on one scale of values and one of steps."""
    old, new = ({series.metric: series for series in each if series.steps} for each in curves)
    shared = [metric for metric in METRICS if metric in old and metric in new]
    headline = next((metric for metric in HEADLINE_METRICS if metric in shared), "")
    shown = [metric for metric in dict.fromkeys((headline, "validation_loss", "loss")) if metric in shared]
    parts = [part for metric in shown for part in _pair(metric, (old[metric], new[metric]), width)]
    return Group(*parts) if parts else None


def _pair(metric: str, pair: tuple[Series, Series], width: int) -> list[RenderableType]:
    columns = max(10, min(_CURVE_WIDTH, width - 52))
    longest = max(series.steps[-1] for series in pair)
    drawn = sparklines([(_by_steps(series, columns, longest), columns) for series in pair])
    table = Table.grid(padding=(0, 2))
    for role, series, curve, style in zip(("old", "new"), pair, drawn, ("dim", "cyan"), strict=True):
        ends = f"{number(series.values[0])} → {number(series.values[-1])}"
        least = f"least {number(min(series.values))}"
        table.add_row(
            f"  {role}", Text(curve.ljust(columns), style), ends, least, f"{series.steps[-1]:,} steps"
        )
    return [Text(words(metric), style="bold"), table]


def _by_steps(series: Series, columns: int, longest: int) -> list[float]:
    """Returns a curve by equal stretches of steps, up to its own last; the value before where nothing was measured."""
    stretches: dict[int, list[float]] = {}
    for step, value in zip(series.steps, series.values, strict=True):
        stretches.setdefault(min(columns - 1, (step - 1) * columns // longest), []).append(value)
    drawn = [series.values[0]]
    for column in range(max(stretches) + 1):
        values = stretches.get(column)
        drawn.append(sum(values) / len(values) if values else drawn[-1])
    return drawn[1:]


def _differences(differences: Sequence[SpecDifference], width: int) -> RenderableType:
    if not differences:
        return Text("the specs say the same", style="dim")
    table = lineless("spec", "old", "new")
    # Names stay whole; digests and long values give way.
    names = [human_path(each.field) for each in differences]
    room = max(12, (width - max(map(len, names)) - 4) // 2 - 2)
    for name, each in zip(names, differences, strict=True):
        table.add_row(name, _value(each.baseline_value, room), _value(each.value, room))
    return table


def _value(value: str | None, room: int) -> Text:
    if value is None:
        return Text("–", style="dim")
    return Text(value if len(value) <= room else value[: room - 1] + "…")
