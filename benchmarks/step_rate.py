"""Steps per second: our loop as a job runs it, beside the loops that people write and the trainers that they install.

The same model, rows, batch and optimizer (AdamW, constant rate, gradients clipped by norm at 1) in every loop. Ours is
a job's own: full telemetry at its default cadence, a channel that another process drains. Every loop lives in a process
of its own; ours and another take turns, each time in the other order. A process is faster than another of the same
program for as long as it lives, so every round has fresh ones: a ratio is the median over rounds of the median over the
round's pairs, and the spread beside it is where that median lies with 90 % confidence.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from _household import scratch_directory
from _our_loop import our_loop, rebuilt_from_its_graph
from _report import Figure, arguments, median_figure, report
from _step_cases import CASES
from _step_loops import OTHERS, missing
from _turns import LoopProcess, Turn, measure_processor_time

from gradsight_worker.training.computing import set_up_processor

OURS, PROGRAM = "ours", "ours, exported program"
_OF_EAGER = 0.95
_PAIRS = 4
"""Of turns, in a round: turns are so short that a machine whose speed wanders wanders for both."""


def main() -> None:
    options = _options()
    loops = _installed([OURS, PROGRAM, *OTHERS] if options.loop is None else [OURS, *options.loop])
    figures = []
    for name in options.case or CASES:
        rounds = _measure(name, loops, options)
        title = f"{name}, {options.threads} threads" if options.threads > 1 else name
        figures += _figures(title, name, rounds)
    report("step_rate", figures, as_json=options.json)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--threads", type=int, default=1, help="torch's threads in every loop")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="not the wall's: for a machine that has other things to do",
    )
    parser.add_argument("--rounds", type=int, help="fresh pairs of processes (5; quick: 1)")
    parser.add_argument("--case", action="append", choices=CASES, help="only this one (repeatable)")
    parser.add_argument("--loop", action="append", choices=[PROGRAM, *OTHERS], help="only ours and this one")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 5)
    return options


def _installed(loops: list[str]) -> list[str]:
    absent = {name: package for name in loops if (package := missing(name))}
    for name, package in absent.items():
        print(f"{name}: not installed (pip install {package})", file=sys.stderr)
    return [name for name in loops if name not in absent]


def _measure(name: str, loops: list[str], options: argparse.Namespace) -> dict[str, list["_Round"]]:
    """Rounds by loop. Each has fresh processes, so that both loops have taken equally many steps."""
    return {
        loop: [_round(name, loop, options) for _ in range(options.rounds)] for loop in loops if loop != OURS
    }


@dataclass(frozen=True, kw_only=True)
class _Round:
    """Medians over the pairs of turns that two processes took: steps per second, and ours times the loop's.

    The ratio is taken within a pair, because a neighbour on the machine may double any time for seconds.
    """

    ours: float
    loop: float
    ratio: float


def _round(name: str, loop: str, options: argparse.Namespace) -> _Round:
    case, ours, theirs = CASES[name], [], []
    with ExitStack() as stack:
        directory = stack.enter_context(scratch_directory())
        processes = {
            one: stack.enter_context(LoopProcess(_set_up, name, one, options, directory / one))
            for one in (OURS, loop)
        }
        for process in processes.values():
            process.take(case.warm_up)
        for number in range(_PAIRS):
            order = (OURS, loop) if number % 2 else (loop, OURS)
            rates = {one: case.steps / processes[one].take(case.steps) for one in order}
            ours.append(rates[OURS])
            theirs.append(rates[loop])
    return _Round(
        ours=statistics.median(ours),
        loop=statistics.median(theirs),
        ratio=statistics.median(one / other for one, other in zip(ours, theirs, strict=True)),
    )


def _figures(title: str, name: str, rounds: Mapping[str, list[_Round]]) -> list[Figure]:
    rates = {OURS: [one.ours for found in rounds.values() for one in found]}
    rates |= {loop: [one.loop for one in found] for loop, found in rounds.items()}
    figures = [median_figure(f"{title}: {loop}", found, unit="steps/s") for loop, found in rates.items()]
    bar: float | None
    for loop, found in rounds.items():
        if loop == PROGRAM:
            ratios = [1 / one.ratio for one in found]
            said, bar = "exported program, times the eager module", _OF_EAGER
        else:
            ratios = [one.ratio for one in found]
            said, bar = f"ours, times {loop}", CASES[name].bars.get(loop)
        figures.append(median_figure(f"{title}: {said}", ratios, unit="ratio", bar=bar))
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
