"""What telemetry costs: the time of a step with everything measured and judged, over that of a step with nothing.

The loop is a job's own, and so are its signals: numbers of every step, probes of layers and of the update, the channel
to a process that drains it, and the detectors' looks. Three cadences: the default one after its dense beginning (until
step 200, which is in the warm-up), a probe at every step, and one at every 50th.

A process is faster than another of the same program for as long as it lives, by up to a fifth: by the places of its
memory, the pages that it gives back and gets again, the core. So the steps with telemetry and those without are taken
by the same loop of the same process, in turns of a few steps each. A pair of turns is a whole number of intervals
between probes, so that probes count with their share of the steps: a median over shorter turns would not see them. A
process's ratio is that of the sums over its pairs; the figure is the median over processes, and the spread beside it is
where that median lies with 90 % confidence (of five processes: the lowest and the highest). A bar within the spread is
neither met nor missed. All of it takes 20 to 25 minutes.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from _household import scratch_directory
from _our_loop import Spent, loop_by_turns
from _report import Figure, arguments, median_figure, report
from _step_cases import CASES
from _turns import LoopProcess, measure_processor_time

from gradsight_worker.training.computing import set_up_processor

_CADENCES: Mapping[str, int | None] = {"default": None, "every step": 1, "every 50 steps": 50}
_BARS = {"mlp": 1.10}
_BAR_OF_LONG_STEPS = 1.03


def main() -> None:
    options = _options()
    figures = []
    for case in options.case or CASES:
        for cadence in options.cadence or _CADENCES:
            processes = [_process(case, cadence, options) for _ in range(options.processes)]
            figures += _figures(case, cadence, processes)
    report("telemetry_cost", figures, as_json=options.json)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--case", action="append", choices=CASES, help="only this one (repeatable)")
    parser.add_argument("--cadence", action="append", choices=_CADENCES, help="only this one (repeatable)")
    parser.add_argument("--processes", type=int, help="fresh processes for each ratio (5; quick: 2)")
    parser.add_argument("--pairs", type=int, help="pairs of turns in each process (4; quick: 2)")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="not the wall's: for a machine that has other things to do",
    )
    options = parser.parse_args()
    options.processes = options.processes or (2 if options.quick else 5)
    options.pairs = options.pairs or (2 if options.quick else 4)
    return options


def _process(case: str, cadence: str, options: argparse.Namespace) -> Spent:
    """What the steps of all pairs took in a fresh process."""
    with (
        scratch_directory() as directory,
        LoopProcess(_set_up, case, cadence, options.processor_time, directory) as process,
    ):
        pairs = process.take(options.pairs)
    return Spent(
        measured=sum(pair.measured for pair in pairs),
        silent=sum(pair.silent for pair in pairs),
        steps=sum(pair.steps for pair in pairs),
    )


def _set_up(case: str, cadence: str, processor_time: bool, directory: Path) -> Callable[[int], list[Spent]]:
    set_up_processor(1)
    if processor_time:
        measure_processor_time()
    return loop_by_turns(CASES[case], directory, _CADENCES[cadence])


def _figures(case: str, cadence: str, processes: list[Spent]) -> list[Figure]:
    ratios = [spent.measured / spent.silent for spent in processes]
    bar = _BARS.get(case, _BAR_OF_LONG_STEPS) if cadence == "default" else None
    name = f"{case}, {cadence}: time of a step, times that of one with nothing"
    figures = [median_figure(name, ratios, unit="ratio", bar=bar, direction="at_most")]
    if cadence == "default":
        alone = [1000 * spent.silent / spent.steps for spent in processes]
        figures.insert(0, median_figure(f"{case}: a step with nothing", alone, unit="ms"))
    return figures


if __name__ == "__main__":
    main()
