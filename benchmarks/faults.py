"""Faults injected into training runs: what is found, which cause is named, what is repaired, what healthy runs hear.

Runs are a job's own: a real spec through the service's defaults, a real trainer in a process of its own, telemetry at
its default cadence. The design is every fault in each of four model families with five seeds, over three data sets, and
healthy runs; for faults that can be repaired also the run under the policy repair and, for comparison, a second start
of the same and one with a random configuration. Thresholds were chosen with the runs of MLP and CNN in view and then
frozen; the bars are for GRU and transformer.

Every run is a line of `results/faults.jsonl`; a run that has a line under the present thresholds is not made again, so
it can be interrupted. `--quick` makes 20 of the runs again and compares. `--table` only reads the file.
"""

import argparse
import hashlib
import importlib.util
import json
import multiprocessing
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from _fault_design import REPORTED, TUNING, Row, design
from _fault_figures import figures, table
from _fault_measures import Results, alarms
from _household import scratch_directory
from _report import Figure, arguments, report

from gradsight_insight.catalogue import default_thresholds

RESULTS = Path(__file__).parent / "results" / "faults.jsonl"
_QUICK_RUNS = 20
_SAME_ERROR = 0.05
"""How far a repeated run's test error may be from the committed one: the cadence of probes follows the clock."""


def main() -> None:
    options = _options()
    if lacking := [name for name in ("sklearn", "mnist1d") if not importlib.util.find_spec(name)]:
        sys.exit(f"{', '.join(lacking)}: not installed; install the dependency group bench")
    version = thresholds_version()
    known = read(options.results, version)
    if options.quick:
        report("faults", _repeat(known, options), as_json=options.json)
        return
    if not options.table:
        missing = [row for row in design() if row.key not in known and _wanted(row, options)]
        for line in _lines(missing[: options.most], options):
            line["thresholds"] = version
            known[line["key"]] = line
            with options.results.open("a") as file:
                file.write(json.dumps(line) + "\n")
    print(f"{len(known)} of {len(design())} runs, thresholds {version}")
    results = Results(known)
    for text in table(results):
        print(text)
    report("faults", figures(results.of(REPORTED), results.of(TUNING)), as_json=options.json)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file of lines")
    parser.add_argument("--table", action="store_true", help="make no runs, read the file")
    parser.add_argument("--most", type=int, help="make at most so many runs")
    parser.add_argument("--minutes", type=float, default=90.0, help="begin no run after so many")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time")
    parser.add_argument(
        "--fault", action="append", help="only this one, `healthy` for those without (repeatable)"
    )
    parser.add_argument("--family", action="append", help="only this one (repeatable)")
    parser.add_argument("--arm", action="append", help="only this one (repeatable)")
    return parser.parse_args()


def _wanted(row: Row, options: argparse.Namespace) -> bool:
    return (
        (not options.fault or (row.fault or "healthy") in options.fault)
        and (not options.family or row.family in options.family)
        and (not options.arm or row.arm in options.arm)
    )


def thresholds_version() -> str:
    """A word for the thresholds as they are by default."""
    text = json.dumps(default_thresholds(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read(path: Path, version: str) -> dict[str, dict[str, Any]]:
    """Lines of the file under these thresholds, by key; of several the last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {line["key"]: line for line in lines if line["thresholds"] == version}


def _lines(rows: Sequence[Row], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Make the runs, some at a time, and say how far it is; a line as soon as its run has ended."""
    end = time.monotonic() + 60 * options.minutes
    with scratch_directory() as graphs, _Runs(options.processes) as runs:
        waiting, under_way = list(reversed(rows)), set[Future[dict[str, Any]]]()
        while waiting or under_way:
            while waiting and len(under_way) < options.processes:
                under_way.add(runs.start(waiting.pop(), graphs))
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                line = future.result()
                print(f"{len(waiting):5} to go  {_said(line)}", file=sys.stderr)
                yield line
            if time.monotonic() > end:
                waiting.clear()


class _Runs:
    """Processes that fork trainers, as workers do. A context manager."""

    def __init__(self, processes: int) -> None:
        self._pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))

    def start(self, row: Row, graphs: Path) -> "Future[dict[str, Any]]":
        """Make a run."""
        return self._pool.submit(_run, row, graphs)

    def __enter__(self) -> "_Runs":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


def _run(row: Row, graphs: Path) -> dict[str, Any]:
    # Here, so that only the processes that fork trainers load torch.
    from _fault_runs import run

    return run(row, graphs)


def _said(line: Mapping[str, Any]) -> str:
    error = "no result" if line["test_error"] is None else f"{line['test_error']:.1%}"
    found = ", ".join(f"{f['kind']}@{f['step']}" for f in alarms(line) if not f["cause"])
    return f"{line['key']:<55} {line['seconds']:5.1f} s  {error:>9}  {found or '-'}"


def _repeat(known: Mapping[str, Mapping[str, Any]], options: argparse.Namespace) -> list[Figure]:
    """Some of the runs again: do they say the same?"""
    dice = random.Random()
    rows = [row for row in design() if row.key in known]
    rows = dice.sample(rows, min(_QUICK_RUNS, len(rows)))
    pairs = [(known[line["key"]], line) for line in _lines(rows, options)]
    for old, new in pairs:
        if not (_same_alarms(old, new) and _same_error(old, new)):
            print(f"differs: committed  {_said(old)}\n         now        {_said(new)}")
    return [
        Figure(name="runs made again", value=len(pairs), unit="runs"),
        Figure(
            name="with the same first alarm",
            value=sum(_same_alarms(*pair) for pair in pairs) / max(len(pairs), 1),
            unit="ratio",
            bar=0.9,
        ),
        Figure(
            name="with the same test error, give or take 5 points",
            value=sum(_same_error(*pair) for pair in pairs) / max(len(pairs), 1),
            unit="ratio",
            bar=0.9,
        ),
    ]


def _same_alarms(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return [f["kind"] for f in alarms(old)][:1] == [f["kind"] for f in alarms(new)][:1]


def _same_error(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    errors = [1.0 if line["test_error"] is None else line["test_error"] for line in (old, new)]
    return bool(abs(errors[0] - errors[1]) <= _SAME_ERROR)


if __name__ == "__main__":
    main()
