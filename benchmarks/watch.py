"""Events delivered to watchers: one `gradsight serve`, raw gRPC streams, and a feeder that appends through the store.

*Throughput*: 100 streams on 10 jobs; the feeder appends a fixed number of events as fast as the store takes them, and
the clock runs until every stream has every event. *Latency*: from before the append to the arrival at the client, at
half the bar's rate on 100 streams, and on 1,000 streams of 1,000 jobs at an event per job and second. Every stream
counts its events: each sequence exactly once, in order.
"""

import asyncio
import multiprocessing
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import grpc
from _attempts import FedJob, feeder_settings
from _household import scratch_directory, verb
from _report import Figure, arguments, percentile, report

from gradsight.v1 import training_service_pb2 as pb
from gradsight.v1 import training_service_pb2_grpc
from gradsight_store.embedded import start_embedded
from gradsight_store.store import Store

_JOBS, _WATCHERS = 10, 100
_MANY_JOBS = 1000
_STEPS = 16
_POINTS_PER_EVENT = 4 * _STEPS
_PACED_PER_S = 500  # appended; each is delivered to ten streams
_CONNECTIONS = 4  # a connection carries at most 100 streams by default; more are opened for more


@dataclass(frozen=True)
class Watched:
    """What all streams of a round received."""

    events: int
    seconds: float
    latencies_s: list[float]


def main() -> None:
    options = arguments(__doc__).parse_args()
    rounds, events, paced_s = (2, 2_000, 4.0) if options.quick else (5, 5_000, 10.0)
    with ExitStack() as stack:
        directory = stack.enter_context(scratch_directory())
        server = stack.enter_context(start_embedded(directory / "store"))
        store = Store.open(feeder_settings(server.url))
        stack.callback(store.close)
        jobs = [FedJob(store, number) for number in range(_MANY_JOBS)]
        serve = [
            "--store",
            server.url,
            "--artifacts",
            str(directory / "artifacts"),
            "--address",
            "127.0.0.1:0",
        ]
        serve += ["--metrics-address", "127.0.0.1:0", "--log-level", "warning"]
        address = stack.enter_context(verb("serve", serve, directory))["address"]
        fan_out = [job for job in jobs[:_JOBS] for _ in range(_WATCHERS // _JOBS)]
        full = [_round(address, fan_out, jobs[:_JOBS], events, per_second=None) for _ in range(rounds)]
        paced = _round(address, fan_out, jobs[:_JOBS], int(_PACED_PER_S * paced_s), per_second=_PACED_PER_S)
        many = _round(address, jobs, jobs, int(_MANY_JOBS * paced_s), per_second=_MANY_JOBS)
    report("watch", _figures(full, paced, many), as_json=options.json)


def _figures(full: list[Watched], paced: Watched, many: Watched) -> list[Figure]:
    rate = statistics.median(watched.events / watched.seconds for watched in full)
    return [
        Figure(name=f"delivered to {_WATCHERS} streams", value=rate, unit="events/s", bar=10_000),
        Figure(
            name=f"metric points to {_WATCHERS} streams",
            value=rate * _POINTS_PER_EVENT,
            unit="points/s",
            bar=100_000,
        ),
        *_latencies(f"{_WATCHERS} streams of {_JOBS} jobs", paced, bar=None),
        *_latencies(f"{_MANY_JOBS} streams of {_MANY_JOBS} jobs", many, bar=60),
    ]


def _latencies(name: str, watched: Watched, bar: float | None) -> list[Figure]:
    rate = watched.events / watched.seconds
    half, almost_all = (1e3 * percentile(watched.latencies_s, share) for share in (0.5, 0.99))
    return [
        Figure(name=f"delivered at that pace, {name}", value=rate, unit="events/s"),
        Figure(name=f"write to delivery p50, {name}", value=half, unit="ms"),
        Figure(
            name=f"write to delivery p99, {name}", value=almost_all, unit="ms", bar=bar, direction="at_most"
        ),
    ]


def _round(
    address: str, streams: list[FedJob], jobs: list[FedJob], events: int, *, per_second: float | None
) -> Watched:
    """Watch, feed the jobs in turn, and collect what the streams received."""
    share = events // len(jobs)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    job_ids = [stream.ref.job_id for stream in streams]
    watchers = context.Process(target=_watch_all, args=(address, job_ids, share, theirs), daemon=True)
    watchers.start()
    try:
        assert ours.recv() == "watching"
        begin = time.time()
        _feed(jobs, share, per_second)
        last_arrival, latencies = ours.recv()
    finally:
        watchers.join(10)
        watchers.kill()
    return Watched(len(latencies), last_arrival - begin, latencies)


def _feed(jobs: list[FedJob], share: int, per_second: float | None) -> None:
    begin, appended = time.perf_counter(), 0
    for _ in range(share):
        for job in jobs:
            if per_second is not None:
                ahead = begin + appended / per_second - time.perf_counter()
                if ahead > 0.001:
                    time.sleep(ahead)
            job.append(job.steps(_STEPS))
            appended += 1


# The watchers' process


def _watch_all(address: str, job_ids: list[str], share: int, parent: Connection) -> None:
    parent.send(asyncio.run(_Watchers(address, share, parent).run(job_ids)))


class _Watchers:
    """Streams over a few connections; tells the parent when all of them stand."""

    def __init__(self, address: str, share: int, parent: Connection) -> None:
        self._address, self._share, self._parent = address, share, parent
        self._standing = 0
        self._latencies: list[float] = []

    async def run(self, job_ids: list[str]) -> tuple[float, list[float]]:
        """Time of the last arrival, and the seconds that each event took."""
        own = [("grpc.use_local_subchannel_pool", 1)]
        count = max(_CONNECTIONS, len(job_ids) // 100)
        channels = [grpc.aio.insecure_channel(self._address, options=own) for _ in range(count)]
        try:
            await asyncio.gather(
                *(
                    self._watch(channels[index % count], job_id, len(job_ids))
                    for index, job_id in enumerate(job_ids)
                )
            )
        finally:
            for channel in channels:
                await channel.close()
        return time.time(), self._latencies

    async def _watch(self, channel: grpc.aio.Channel, job_id: str, streams: int) -> None:
        training: Any = training_service_pb2_grpc.TrainingServiceStub(channel)
        job = (await training.GetJob(pb.GetJobRequest(job_id=job_id))).job
        expected, last = job.last_sequence, job.last_sequence + self._share
        call = training.WatchJob(pb.WatchJobRequest(job_id=job_id, after_sequence=expected))
        assert (await call.read()).snapshot.last_sequence == expected
        self._standing += 1
        if self._standing == streams:
            self._parent.send("watching")
        while expected < last:
            frame: pb.WatchJobResponse = await call.read()
            if not frame.HasField("event"):
                continue
            now = time.time()
            expected += 1
            assert frame.event.sequence == expected, "an event is missing, or came twice"
            written = frame.event.steps_recorded.last_step_time
            self._latencies.append(now - written.seconds - written.nanos / 1e9)
        call.cancel()


if __name__ == "__main__":
    main()
