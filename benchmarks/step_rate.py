"""Steps per second: our loop as a job runs it, beside the loops that people write and the trainers that they install.

The same model, rows, batch and optimizer (AdamW, constant rate, gradients clipped by norm at 1) in every loop. Ours is
a job's own: full telemetry at its default cadence, a channel that another process drains. Every loop lives in a process
of its own; ours and another take turns, each time in the other order, and a ratio is the median over such pairs.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from _household import scratch_directory
from _our_loop import our_loop, rebuilt_from_its_graph
from _report import Figure, arguments, report
from _step_cases import CASES, Case
from _step_loops import OTHERS, missing
from _turns import LoopProcess, Turn, measure_processor_time

from gradsight_worker.training.computing import set_up_processor

OURS, PROGRAM = "ours", "ours, exported program"
_OF_EAGER = 0.95
_SLICES = 4
"""Pairs of a round: turns are so short that a machine whose speed wanders wanders for both."""


def main() -> None:
    options = _options()
    loops = _installed([OURS, PROGRAM, *OTHERS] if options.loop is None else [OURS, *options.loop])
    figures = []
    for name in options.case or CASES:
        pairs = _measure(CASES[name], name, loops, options)
        title = f"{name}, {options.threads} threads" if options.threads > 1 else name
        figures += _figures(title, name, pairs)
    report("step_rate", figures, as_json=options.json)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--threads", type=int, default=1, help="torch's threads in every loop")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="not the wall's: for a machine that has other things to do",
    )
    parser.add_argument("--rounds", type=int, help="turns of each loop (5; quick: 3)")
    parser.add_argument("--case", action="append", choices=CASES, help="only this one (repeatable)")
    parser.add_argument("--loop", action="append", choices=[PROGRAM, *OTHERS], help="only ours and this one")
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 5)
    return options


def _installed(loops: list[str]) -> list[str]:
    absent = {name: package for name in loops if (package := missing(name))}
    for name, package in absent.items():
        print(f"{name}: not installed (pip install {package})", file=sys.stderr)
    return [name for name in loops if name not in absent]


def _measure(
    case: Case, name: str, loops: list[str], options: argparse.Namespace
) -> dict[str, list[tuple[float, float]]]:
    """Pairs of turns by loop: steps per second of ours and of the loop, one right after the other.

    A ratio is taken within a pair, because a neighbour on the machine may double any time for seconds. Each comparison
    has fresh processes, so that both loops have taken equally many steps.
    """
    return {loop: _pairs(case, name, loop, options) for loop in loops if loop != OURS}


def _pairs(case: Case, name: str, loop: str, options: argparse.Namespace) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    with ExitStack() as stack:
        directory = stack.enter_context(scratch_directory())
        processes = {
            one: stack.enter_context(LoopProcess(_set_up, name, one, options, directory / one))
            for one in (OURS, loop)
        }
        for process in processes.values():
            process.take(case.warm_up)
        for number in range(options.rounds * (1 if options.quick else _SLICES)):
            order = (OURS, loop) if number % 2 else (loop, OURS)
            rates = {one: case.steps / processes[one].take(case.steps) for one in order}
            found.append((rates[OURS], rates[loop]))
    return found


def _figures(title: str, name: str, pairs: Mapping[str, list[tuple[float, float]]]) -> list[Figure]:
    ours = [rate for found in pairs.values() for rate, _ in found]
    figures = [Figure(name=f"{title}: {OURS}", value=statistics.median(ours), unit="steps/s")]
    figures += [
        Figure(name=f"{title}: {loop}", value=statistics.median(rate for _, rate in found), unit="steps/s")
        for loop, found in pairs.items()
    ]
    bar: float | None
    for loop, found in pairs.items():
        if loop == PROGRAM:
            ratio = statistics.median(program / eager for eager, program in found)
            said, bar = "exported program, times the eager module", _OF_EAGER
        else:
            ratio = statistics.median(one / other for one, other in found)
            said, bar = f"ours, times {loop}", CASES[name].bars.get(loop)
        figures.append(Figure(name=f"{title}: {said}", value=ratio, unit="ratio", bar=bar))
    return figures


# The loop's process


def _set_up(name: str, loop: str, options: argparse.Namespace, directory: Path) -> Turn:
    # As a trainer does it; the others as their users leave it.
    if loop in (OURS, PROGRAM):
        set_up_processor(options.threads)
    else:
        torch.set_num_threads(options.threads)
    if options.processor_time:
        measure_processor_time()
    case = CASES[name]
    if loop == OURS:
        return our_loop(case, case.model(), directory)
    if loop == PROGRAM:
        return our_loop(case, rebuilt_from_its_graph(case), directory)
    return OTHERS[loop](case)


if __name__ == "__main__":
    main()
