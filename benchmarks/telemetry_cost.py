"""What telemetry costs: the time of a step with everything measured and judged, over that of a step with nothing.

The loop is a job's own, and so are its signals: numbers of every step, probes of layers and of the update, the channel
to a process that drains it, and the detectors' looks. Against it the same loop whose steps leave nothing behind. Three
cadences: the default one after its dense beginning (until step 200, which is in the warm-up), a probe at every step,
and one at every 50th. Both loops live in processes of their own and take turns, one right after the other and each time
in the other order; a ratio is the median over such pairs.
"""

import argparse
import statistics
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from _household import scratch_directory
from _our_loop import measured_loop, silent_loop
from _report import Figure, arguments, report
from _step_cases import CASES
from _turns import LoopProcess, Turn, measure_processor_time

from gradsight_worker.training.computing import set_up_processor

_SILENT = "nothing"
_CADENCES: Mapping[str, int | None] = {"default": None, "every step": 1, "every 50 steps": 50}
_BARS = {"mlp": 1.10}
_BAR_OF_LONG_STEPS = 1.03


def main() -> None:
    options = _options()
    figures = []
    for case in options.case or CASES:
        for cadence in options.cadence or _CADENCES:
            pairs = _pairs(case, cadence, options)
            figures += _figures(case, cadence, pairs)
    report("telemetry_cost", figures, as_json=options.json)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--case", action="append", choices=CASES, help="only this one (repeatable)")
    parser.add_argument("--cadence", action="append", choices=_CADENCES, help="only this one (repeatable)")
    parser.add_argument("--pairs", type=int, help="pairs of turns (20; quick: 4)")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="not the wall's: for a machine that has other things to do",
    )
    options = parser.parse_args()
    options.pairs = options.pairs or (4 if options.quick else 20)
    return options


def _pairs(case: str, cadence: str, options: argparse.Namespace) -> list[tuple[float, float]]:
    """Seconds for one step with telemetry and without, one right after the other."""
    steps, found = CASES[case].steps, []
    with ExitStack() as stack:
        directory = stack.enter_context(scratch_directory())
        processes = {
            which: stack.enter_context(
                LoopProcess(_set_up, case, which, options.processor_time, directory / which)
            )
            for which in (cadence, _SILENT)
        }
        for process in processes.values():
            process.take(CASES[case].warm_up)
        for number in range(options.pairs):
            order = (cadence, _SILENT) if number % 2 else (_SILENT, cadence)
            seconds = {which: processes[which].take(steps) / steps for which in order}
            found.append((seconds[cadence], seconds[_SILENT]))
    return found


def _set_up(case: str, which: str, processor_time: bool, directory: Path) -> Turn:
    set_up_processor(1)
    if processor_time:
        measure_processor_time()
    if which == _SILENT:
        return silent_loop(CASES[case], directory)
    return measured_loop(CASES[case], directory, _CADENCES[which])


def _figures(case: str, cadence: str, pairs: list[tuple[float, float]]) -> list[Figure]:
    bar = _BARS.get(case, _BAR_OF_LONG_STEPS) if cadence == "default" else None
    figures = [
        Figure(
            name=f"{case}, {cadence}: time of a step, times that of one with nothing",
            value=statistics.median(measured / silent for measured, silent in pairs),
            unit="ratio",
            bar=bar,
            direction="at_most",
        )
    ]
    if cadence == "default":
        alone = 1000 * statistics.median(silent for _, silent in pairs)
        figures.insert(0, Figure(name=f"{case}: a step with nothing", value=alone, unit="ms"))
    return figures


if __name__ == "__main__":
    main()
