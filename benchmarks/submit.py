"""Durable submits per second: 32 clients create valid jobs at one `gradsight serve`, dispatcher and one worker on.

Three situations. *Worker idle*: the jobs pile up in a queue that nobody serves, and the worker waits. *A job a second*:
the same, while once a second a job is created for the worker, which trains it; its way from the record to the worker
is the dispatch lag. *Worker busy*: the jobs wait in the worker's own queue and the worker trains one after the other,
which on a machine of few cores takes one away from all others. In turns with them: an empty call on a bare grpc.aio
server.
"""

import asyncio
import itertools
import json
import multiprocessing
import statistics
import time
from contextlib import ExitStack
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
from _calls import CREATE_JOB, Calls, ClientProcess, Load
from _household import household, processor_seconds, scratch_directory
from _report import Figure, arguments, percentile, report

from gradsight import Client, JobState
from gradsight.v1 import spec_pb2, training_service_pb2_grpc
from gradsight.v1 import training_service_pb2 as pb
from gradsight_service.up.household import Addresses

CLIENTS = 32
_EMPTY = "/benchmark/Empty"
_PAUSE_S = 1.0
_ROWS = "width,height,label\n" + "".join(f"{n},{n * n},{n % 2}\n" for n in range(100))


def main() -> None:
    options = arguments(__doc__).parse_args()
    rounds, seconds = (2, 3.0) if options.quick else (5, 5.0)
    with ExitStack() as stack:
        directory = stack.enter_context(scratch_directory())
        empty = stack.enter_context(_EmptyServer())
        clients = ClientProcess()
        stack.callback(clients.close)
        addresses = stack.enter_context(household(directory))
        bench = _Bench(addresses, empty.address, clients, seconds, directory)
        figures = bench.measure(rounds)
        bench.close()
    report("submit", figures, as_json=options.json)


class _Bench:
    """The measurements over one household."""

    def __init__(
        self,
        addresses: Addresses,
        empty_address: str,
        clients: ClientProcess,
        seconds: float,
        directory: Path,
    ) -> None:
        self._addresses = addresses
        self._service, self._empty = addresses.service, empty_address
        self._clients, self._seconds = clients, seconds
        self._log = directory / "home" / "logs" / "service.log"
        self._client = Client(addresses.service)
        self._channel = grpc.insecure_channel(addresses.service)
        self._training = training_service_pb2_grpc.TrainingServiceStub(self._channel)
        rows = directory / "rows.csv"
        rows.write_text(_ROWS)
        self._digest = self._client.upload(rows).digest

    def measure(self, rounds: int) -> list[Figure]:
        """All figures; medians over the rounds."""
        self._run_one()  # nothing is done for the first time while it counts
        ceilings: list[float] = []
        floods: dict[str, list[Calls]] = {"worker idle": [], "a job a second": [], "worker busy": []}
        costs: dict[str, list[float]] = {"service": [], "store": []}
        for _ in range(rounds):
            ceilings.append(self._clients.run(self._load(self._empty, _EMPTY, b"")).per_second)
            before = self._processor_seconds()
            idle = self._clients.run(self._load(self._service, CREATE_JOB, self._request("unserved")))
            floods["worker idle"].append(idle)
            for name, seconds in self._processor_seconds().items():
                costs[name].append((seconds - before[name]) / idle.made)
            flood = self._clients.start(self._load(self._service, CREATE_JOB, self._request("unserved")))
            while not flood.done():
                self._run_one()
                time.sleep(_PAUSE_S)
            floods["a job a second"].append(flood.result())
        lags = self._dispatch_lags()
        for _ in range(rounds):
            ceilings.append(self._clients.run(self._load(self._empty, _EMPTY, b"")).per_second)
            busy = self._clients.run(self._load(self._service, CREATE_JOB, self._request("default")))
            floods["worker busy"].append(busy)
        return [
            *_figures(statistics.median(ceilings), floods),
            *(
                Figure(
                    name=f"processor time per submit, {name}", value=1e3 * statistics.median(cost), unit="ms"
                )
                for name, cost in costs.items()
            ),
            *_lag_figures(lags, self._idle_gaps()),
        ]

    def close(self) -> None:
        """Disconnect."""
        self._client.close()
        self._channel.close()

    def _load(self, address: str, method: str, request: bytes) -> Load:
        return Load(address=address, method=method, request=request, clients=CLIENTS, seconds=self._seconds)

    def _request(self, queue: str) -> bytes:
        return pb.CreateJobRequest(spec=self._spec(queue)).SerializeToString()

    def _spec(self, queue: str) -> spec_pb2.JobSpec:
        spec = spec_pb2.JobSpec(name="submitted", queue=queue)
        spec.model.builtin.mlp.hidden_sizes.append(8)
        spec.data.train.artifact = self._digest
        spec.data.target_column = "label"
        spec.budget.steps = 1
        spec.resources.threads = 1
        return spec

    def _processor_seconds(self) -> dict[str, float]:
        return {
            "service": processor_seconds(self._addresses, "serve"),
            "store": processor_seconds(self._addresses, "-server"),
        }

    def _run_one(self) -> None:
        """Create a job for the worker and wait for its end."""
        created = self._training.CreateJob(pb.CreateJobRequest(spec=self._spec("default")))
        self._client.job(created.job.job_id).wait(60)

    def _dispatch_lags(self) -> list[float]:
        """Seconds from a job's creation to its hand-out, by the service's own log."""
        created: dict[str, datetime] = {}
        lags = []
        for line in self._log.read_text().splitlines():
            entry = json.loads(line) if line.startswith("{") else {}
            if entry.get("event") == "job created":
                created[entry["job_id"]] = datetime.fromisoformat(entry["timestamp"])
            elif entry.get("event") == "job handed out":
                at = datetime.fromisoformat(entry["timestamp"])
                # An idle worker may have the job before its creator has written the line.
                lags.append(max(0.0, (at - created.get(entry["job_id"], at)).total_seconds()))
        return lags[1:]

    def _idle_gaps(self) -> list[float]:
        """Seconds from the end of a job to the start of the next one while jobs waited."""
        spans = sorted(
            (job.start_time, job.end_time, job.create_time)
            for job in self._client.jobs(states=[JobState.SUCCEEDED])
            if job.start_time and job.end_time and job.create_time
        )
        return [
            (start - end).total_seconds()
            for (_, end, _), (start, _, created) in itertools.pairwise(spans)
            if created < end
        ]


def _figures(ceiling: float, floods: dict[str, list[Calls]]) -> list[Figure]:
    figures = [Figure(name="empty unary calls, bare grpc.aio server", value=ceiling, unit="calls/s")]
    for name, measured in floods.items():
        # A worker that trains competes for the cores: what is left is for the machine to say.
        least, most = (1000, 50) if name == "worker idle" else (None, None)
        rate = statistics.median(calls.per_second for calls in measured)
        p50, p99 = _milliseconds(measured, 0.50), _milliseconds(measured, 0.99)
        figures += [
            Figure(name=f"durable submits, {name}", value=rate, unit="submits/s", bar=least),
            Figure(name=f"  share of the empty call, {name}", value=rate / ceiling, unit="ratio"),
            Figure(name=f"  p50, {name}", value=p50, unit="ms"),
            Figure(name=f"  p99, {name}", value=p99, unit="ms", bar=most, direction="at_most"),
        ]
    return figures


def _lag_figures(lags: list[float], gaps: list[float]) -> list[Figure]:
    return [
        Figure(name="dispatch lag under this load, p50", value=1e3 * percentile(lags, 0.5), unit="ms"),
        Figure(name="dispatch lag under this load, p99", value=1e3 * percentile(lags, 0.99), unit="ms"),
        Figure(
            name="busy worker, end of a job to start of the next",
            value=1e3 * percentile(gaps, 0.5),
            unit="ms",
        ),
    ]


def _milliseconds(measured: list[Calls], share: float) -> float:
    """The median over the rounds of a percentile, in milliseconds."""
    return 1e3 * statistics.median(percentile(calls.seconds, share) for calls in measured)


class _EmptyServer:
    """A grpc.aio server in a process of its own that answers nothing with nothing. A context manager."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve_empty, args=(theirs,), daemon=True)

    def __enter__(self) -> "_EmptyServer":
        self._process.start()
        self.address = f"127.0.0.1:{self._ours.recv()}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()


def _serve_empty(port_to: Connection) -> None:
    asyncio.run(_serve_empty_forever(port_to))


async def _serve_empty_forever(port_to: Connection) -> None:
    async def answer(_request: bytes, _context: object) -> bytes:
        return b""

    server = grpc.aio.server()
    service, _, method = _EMPTY.lstrip("/").partition("/")
    handler: Any = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port_to.send(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    main()
