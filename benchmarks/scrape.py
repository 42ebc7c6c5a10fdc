"""A scrape of 1,000 jobs of 50 series: `gradsight exporter` in its own process, over real records in a real store.

A feeder appends 1,000 events per second meanwhile, so that every job is new at every scrape. Afterwards, with all jobs
at rest, one more page is compared with what the jobs' event logs say, value by value.
"""

import gzip
import http.client
import itertools
import multiprocessing
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event as StopEvent

from _attempts import FedJob, feeder_settings
from _household import scratch_directory, verb
from _report import Figure, arguments, percentile, report

from gradsight.v1 import event_pb2
from gradsight_store import events
from gradsight_store.artifacts import Artifacts
from gradsight_store.embedded import start_embedded
from gradsight_store.operations import JobRef
from gradsight_store.store import Store

_JOBS = 1000
_LAYERS = 9
_CATEGORIES = 9
_SERIES = 12 + 2 * _LAYERS + 2 + 2 * _CATEGORIES  # 50: the job's own, by layer, held-out, by category
_EVENTS_PER_S = 1000
_STEPS = 16


def main() -> None:
    options = arguments(__doc__).parse_args()
    scrapes, every_s = (10, 1.0) if options.quick else (30, 2.0)
    with ExitStack() as stack:
        directory = stack.enter_context(scratch_directory())
        server = stack.enter_context(start_embedded(directory / "store"))
        feeder = _Feeder(server.url)
        stack.callback(feeder.stop)
        refs = feeder.start()
        exporter = ["--store", server.url, "--address", "127.0.0.1:0"]
        address = stack.enter_context(verb("exporter", exporter, directory))["metrics"]
        _scrape(address)  # a Prometheus that starts waits for the first page, too, but only once
        times, sizes = [], []
        for _ in range(scrapes):
            time.sleep(every_s * random.uniform(0.8, 1.2))  # not in step with the feeder
            began = time.perf_counter()
            body = _scrape(address)
            times.append(time.perf_counter() - began)
            sizes.append(len(body))
        fed = feeder.stop()
        page = gzip.decompress(_scrape(address)).decode()
        store = Store.open(feeder_settings(server.url))
        stack.callback(store.close)
        expected = _expected(store, refs, Artifacts(directory / "artifacts"))
    report("scrape", _figures(times, sizes, fed, page, expected), as_json=options.json)


def _figures(
    times: list[float], sizes: list[int], fed: float, page: str, expected: dict[str, float]
) -> list[Figure]:
    shown = _of_jobs(page)
    mismatches = sum(shown.get(series) != value for series, value in expected.items())
    return [
        Figure(
            name="scrape, gzip, p50", value=statistics.median(times), unit="s", bar=0.5, direction="at_most"
        ),
        Figure(name="scrape, gzip, p90", value=percentile(times, 0.9), unit="s"),
        Figure(name="scrape, gzip, slowest", value=max(times), unit="s", bar=0.5, direction="at_most"),
        Figure(name="series of jobs on the page", value=len(shown), unit="series", bar=_JOBS * _SERIES),
        Figure(name="size, gzip", value=statistics.median(sizes) / 1e6, unit="MB"),
        Figure(name="events appended meanwhile", value=fed, unit="events/s", bar=0.95 * _EVENTS_PER_S),
        Figure(name="values compared with the logs", value=len(expected), unit="values"),
        Figure(name="mismatches", value=mismatches, unit="values", bar=0, direction="at_most"),
    ]


def _scrape(address: str) -> bytes:
    """One scrape as Prometheus makes it; the body as it came, compressed."""
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
        response = connection.getresponse()
        assert response.status == 200, response.status
        assert response.headers["Content-Encoding"] == "gzip"
        return response.read()
    finally:
        connection.close()


def _of_jobs(page: str) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in page.splitlines() if line.startswith("gradsight_job_"))
    return {series: float(value) for series, _, value in lines}


# What the logs say, computed from the events alone and not by the exporter's code


def _expected(store: Store, refs: list[JobRef], artifacts: Artifacts) -> dict[str, float]:
    expected: dict[str, float] = {}
    for ref in refs:
        log = _log(store, ref, artifacts)
        for series, value in _series_of(log):
            name, _, labels = series.partition("{")
            expected[f'gradsight_job_{name}{{job_id="{ref.job_id}"{"," + labels if labels else ""}}}'] = value
    return expected


def _log(store: Store, ref: JobRef, artifacts: Artifacts) -> list[event_pb2.JobEvent]:
    found: list[event_pb2.JobEvent] = []
    while True:
        page = store.run(events.read_events(ref, len(found), 1000, artifacts))
        found += page.events
        if page.end:
            return found


def _series_of(log: list[event_pb2.JobEvent]) -> Iterator[tuple[str, float]]:
    """Name, labels but the job's, and value of what the newest events of each kind say."""
    batches = [event.steps_recorded for event in log if event.HasField("steps_recorded")]
    built = next(event.model_built for event in log if event.HasField("model_built"))
    last, probe = batches[-1], batches[-1].probes[-1]
    yield "step", last.first_step + len(last.loss) - 1
    yield "steps_total", sum(len(batch.loss) for batch in batches)
    yield "samples_total", last.samples_total
    yield "nonfinite_steps_total", sum(len(batch.nonfinite_steps) for batch in batches)
    yield "progress_ratio", (last.first_step + len(last.loss) - 1) / built.total_steps
    yield "last_step_timestamp_seconds", last.last_step_time.ToNanoseconds() / 1e9
    yield 'loss{split="train"', last.loss[-1]
    yield "gradient_norm", last.gradient_norm[-1]
    yield "learning_rate", last.learning_rate[-1]
    yield "gain_ratio", probe.gain_ratio
    for layer, norm, ratio in zip(
        built.layers, probe.layer_gradient_norm, probe.layer_update_ratio, strict=True
    ):
        yield f'layer_gradient_norm{{layer="{layer.path}",depth="{layer.index}"', norm
        yield f'layer_update_ratio{{layer="{layer.path}",depth="{layer.index}"', ratio
    evaluation = [event.evaluation_completed for event in log if event.HasField("evaluation_completed")][-1]
    yield 'loss{split="validation"', evaluation.loss
    yield 'error_ratio{split="validation"', evaluation.error_ratio
    for category in evaluation.categories:
        labels = f'{{split="validation",category="{category.category}"'
        yield f"category_error_ratio{labels}", category.error_ratio
        yield f"category_examples{labels}", category.examples


# The feeder, a process of its own


class _Feeder:
    """Appends events to all jobs in turn, at a pace, until it is stopped."""

    def __init__(self, url: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_feed, args=(url, self._stop, theirs), daemon=True)
        self._rate = 0.0

    def start(self) -> list[JobRef]:
        """Make the jobs and begin; returns when every job has all its series."""
        self._process.start()
        refs: list[JobRef] = self._ours.recv()
        return refs

    def stop(self) -> float:
        """End, and tell how many events per second were appended. Twice is once."""
        if self._process.is_alive() and not self._stop.is_set():
            self._stop.set()
            self._rate = self._ours.recv()
        self._process.join()
        return self._rate


def _feed(url: str, stop: StopEvent, parent: Connection) -> None:
    store = Store.open(feeder_settings(url))
    jobs = [FedJob(store, number) for number in range(_JOBS)]
    for job in jobs:
        job.append(*job.beginning(layers=_LAYERS, categories=_CATEGORIES), job.steps(_STEPS, layers=_LAYERS))
    parent.send([job.ref for job in jobs])
    begin, appended = time.perf_counter(), 0
    for job in itertools.cycle(jobs):
        ahead = begin + appended / _EVENTS_PER_S - time.perf_counter()
        if ahead > 0.001:
            time.sleep(ahead)
        if stop.is_set():
            break
        job.append(job.steps(_STEPS, layers=_LAYERS))
        appended += 1
    parent.send(appended / (time.perf_counter() - begin))
    store.close()


if __name__ == "__main__":
    main()
