"""What every benchmark prints: a table for people and, with `--json`, one JSON object on the last line for programs."""

import argparse
import json
import math
import os
import platform
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured number.

    `bar` is what it must reach: at least that (`direction` "at_least") or at most ("at_most"); None for figures that
    only stand beside the others. `spread` is from where to where the value may lie, for medians of repetitions.
    """

    name: str
    value: float
    unit: str
    bar: float | None = None
    direction: Literal["at_least", "at_most"] = "at_least"
    spread: tuple[float, float] | None = None

    @property
    def met(self) -> bool | None:
        """True when the bar is reached; None without one."""
        if self.bar is None:
            return None
        return self.value >= self.bar if self.direction == "at_least" else self.value <= self.bar


def median_figure(
    name: str,
    values: list[float],
    *,
    unit: str,
    bar: float | None = None,
    direction: Literal["at_least", "at_most"] = "at_least",
) -> Figure:
    """The median of repetitions, with where it may lie beside it."""
    return Figure(
        name=name,
        value=statistics.median(values),
        unit=unit,
        bar=bar,
        direction=direction,
        spread=_interval_of_median(values),
    )


def _interval_of_median(values: list[float]) -> tuple[float, float]:
    """From where to where the median lies that these values were drawn around, with 90 % confidence or more.

    Two order statistics: each value lies above that median with probability 1/2, whatever the distribution. Of fewer
    than five values it is the lowest and the highest, with less confidence.
    """
    ordered, count, cut = sorted(values), len(values), 0
    # Cutting one more off each end must leave it 90 %: so many coins of `count` show heads with probability ≤ 5 %.
    while 20 * sum(math.comb(count, heads) for heads in range(cut + 2)) <= 2**count:
        cut += 1
    return ordered[cut], ordered[-1 - cut]


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    return parser


def report(benchmark: str, figures: list[Figure], *, as_json: bool) -> None:
    """Print the table, and the object when asked for."""
    width = max(len(figure.name) for figure in figures)
    print(f"{benchmark} on {machine()}")
    for figure in figures:
        sign = {"at_least": "≥", "at_most": "≤"}[figure.direction]
        bar = (
            "" if figure.bar is None else f"  bar {sign} {figure.bar:g}  {'met' if figure.met else 'NOT MET'}"
        )
        if figure.spread is not None:
            low, high = figure.spread
            bar = f"  {low:.4g} to {high:.4g}{bar}"
            if figure.bar is not None and low <= figure.bar <= high:
                bar += ", but within the spread"
        print(f"  {figure.name:<{width}}  {figure.value:>10.4g} {figure.unit:<10}{bar}")
    if as_json:
        rows = [
            {key: value for key, value in asdict(figure).items() if key != "direction"} | {"met": figure.met}
            for figure in figures
        ]
        print(json.dumps({"benchmark": benchmark, "machine": machine(), "figures": rows}))
    sys.stdout.flush()


def machine() -> str:
    """Cores, processor and Python, in a line."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = next(
        (line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")),
        platform.processor(),
    )
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}"


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie, by nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
