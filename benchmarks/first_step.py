"""From submit to the first optimizer step: an `mlp` on 1,000 rows of CSV, a warm worker, one job after the other.

The clock starts before the submitting call and ends with the attempt's first step, on the same machine's clock. In
turns with it, where the same network, rows and step are submitted: a stock RQ worker that forks for every job and
imports torch in it, the same with torch preloaded by hand, and Ray Jobs where `ray` is installed.
"""

import importlib.util
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _plain_training
import redis
from _household import household, program, scratch_directory, wait_until
from _report import Figure, arguments, percentile, report
from rq import Queue, Worker

from gradsight import Client, JobState, StepsRecorded
from gradsight_store.embedded import start_embedded

FirstStep = Callable[[], float]
"""Submits one job; the seconds until its first optimizer step had ended. Returns when the job has ended."""

_COLUMNS = 10
_ROWS = 1000
_STEPS = 5
_WARM_UP = 3
_PAUSE_S = 1.0
"""Between two jobs: a worker that has just ended a job is not at rest."""


def main() -> None:
    options = arguments(__doc__).parse_args()
    jobs, others = (20, 2) if options.quick else (60, 6)
    with ExitStack() as stack:
        directory = stack.enter_context(scratch_directory())
        rows = directory / "rows.csv"
        rows.write_text(_csv())
        peers: dict[str, FirstStep] = {
            "plain RQ": stack.enter_context(_rq(directory / "rq", rows)),
            "RQ, torch preloaded by hand": stack.enter_context(
                _rq(directory / "preloaded", rows, "--preload")
            ),
        }
        if importlib.util.find_spec("ray"):
            peers["Ray Jobs"] = stack.enter_context(_ray_jobs(rows))
        ours = stack.enter_context(_gradsight(directory, rows))
        for _ in range(_WARM_UP):
            ours()
        marks: list[Marks] = []
        seconds: dict[str, list[float]] = {name: [] for name in peers}
        for number in range(jobs):
            time.sleep(_PAUSE_S)
            marks.append(ours())
            if number % (jobs // others) == 0:
                for name, first_step in peers.items():
                    seconds[name].append(first_step())
    if "Ray Jobs" not in peers:
        print("Ray Jobs: not installed (pip install 'ray[default]')", file=sys.stderr)
    report("first_step", _figures(marks, seconds), as_json=options.json)


@dataclass(frozen=True)
class Marks:
    """Seconds from before the submitting call to each of these, of one job. Recorded: in the job's log."""

    answered: float
    created: float
    claimed: float
    prepared_recorded: float
    built_recorded: float
    first_step: float


def _figures(marks: list[Marks], seconds: dict[str, list[float]]) -> list[Figure]:
    ours = [mark.first_step for mark in marks]
    half = statistics.median(ours)
    figures = [
        Figure(name="submit to first step, p50", value=1e3 * half, unit="ms", bar=60, direction="at_most"),
        Figure(name="submit to first step, p90", value=1e3 * percentile(ours, 0.9), unit="ms"),
    ]
    for name, attribute in (
        ("submit to record of the job", "created"),
        ("submit to answer of the call", "answered"),
        ("submit to claim by the worker", "claimed"),
        ("claim to first step", "step"),
        ("submit to record of DataPrepared", "prepared_recorded"),
        ("submit to record of ModelBuilt", "built_recorded"),
    ):
        values = [
            mark.first_step - mark.claimed if attribute == "step" else getattr(mark, attribute)
            for mark in marks
        ]
        figures.append(Figure(name=f"  {name}, p50", value=1e3 * statistics.median(values), unit="ms"))
    for name, values in seconds.items():
        figures.append(Figure(name=f"{name}, p50", value=1e3 * statistics.median(values), unit="ms"))
        bar = 20 if name == "Ray Jobs" else None
        figures.append(
            Figure(
                name=f"{name}, times as long as ours",
                value=statistics.median(values) / half,
                unit="ratio",
                bar=bar,
            )
        )
    return figures


@contextmanager
def _gradsight(directory: Path, rows: Path) -> "Iterator[Callable[[], Marks]]":
    """A household with one warm worker. The rows are uploaded before."""
    with household(directory) as addresses, Client(addresses.service) as client:
        digest = client.upload(rows).digest

        def measure() -> Marks:
            began = time.time()
            job = client.submit(model="mlp", train=digest, target=_plain_training.LABEL, steps=_STEPS)
            answered = time.time()
            assert job.wait(60).state is JobState.SUCCEEDED
            recorded: dict[str, float] = {}
            first_step = 0.0
            for event in job.events():
                assert event.record_time is not None
                recorded.setdefault(event.kind, event.record_time.timestamp() - began)
                if isinstance(event.detail, StepsRecorded) and event.detail.first_step_time:
                    first_step = event.detail.first_step_time.timestamp() - began
            return Marks(
                answered=answered - began,
                created=recorded["state_changed"],
                claimed=recorded["attempt_started"],
                prepared_recorded=recorded["data_prepared"],
                built_recorded=recorded["model_built"],
                first_step=first_step,
            )

        yield measure


@contextmanager
def _rq(directory: Path, rows: Path, *options: str) -> Iterator[FirstStep]:
    """RQ with its defaults, on a store of its own."""
    directory.mkdir()
    with start_embedded(directory / "store") as store, redis.Redis.from_url(store.url) as connection:
        queue = Queue(_plain_training.QUEUE, connection=connection)
        command = [sys.executable, _plain_training.__file__, "work", store.url, *options]

        def measure() -> float:
            began = time.time()
            job = queue.enqueue(_plain_training.train_until_first_step, str(rows))
            return float(wait_until(lambda: job.return_value(refresh=True))) - began

        with program(command, directory / "worker.log") as process:
            wait_until(lambda: Worker.count(connection) or None, process)
            measure()
            yield measure


@contextmanager
def _ray_jobs(rows: Path) -> Iterator[FirstStep]:
    """A local Ray with its job server."""
    ray: Any = importlib.import_module("ray")
    submission: Any = importlib.import_module("ray.job_submission")
    context = ray.init(include_dashboard=True, log_to_driver=False)
    try:
        client = submission.JobSubmissionClient(f"http://{context.dashboard_url}")
        entrypoint = f"{sys.executable} {_plain_training.__file__} train {rows}"

        def ended(job_id: str) -> bool | None:
            return client.get_job_status(job_id).is_terminal() or None

        def measure() -> float:
            began = time.time()
            job_id = client.submit_job(entrypoint=entrypoint)
            wait_until(lambda: ended(job_id))
            told = re.search(r"first step at ([0-9.]+)", client.get_job_logs(job_id))
            assert told, "the Ray job did not get to its first step"
            return float(told[1]) - began

        measure()
        yield measure
    finally:
        ray.shutdown()


def _csv() -> str:
    dice = random.Random(7)
    lines = [",".join([*(f"x{n}" for n in range(_COLUMNS)), _plain_training.LABEL])]
    for _ in range(_ROWS):
        values = [dice.gauss(0, 1) for _ in range(_COLUMNS)]
        lines.append(",".join([*(f"{value:.6f}" for value in values), "ab"[sum(values) > 0]]))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
