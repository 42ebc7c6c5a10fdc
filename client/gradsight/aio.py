"""The client for asyncio: the same verbs as `gradsight.Client`, awaited; iterators become asynchronous ones."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from gradsight import _operations, _transfer, _watch
from gradsight._effects import Call, Compute, Effect, Emit, Open, Operation, Receive, Send, Sleep
from gradsight._enums import ArtifactKind, JobState, ReportFormat, WatchMode
from gradsight._events import FeedEvent, JobEvent
from gradsight._insight import Finding, JobComparison, Report
from gradsight._job import Job, JobResult
from gradsight._records import Artifact, Recipe, Series, ServerInfo, Worker
from gradsight._requirements import Required
from gradsight._retry import Patience
from gradsight._spec import JobOptions, JobSpec
from gradsight._watch import OnGap

if TYPE_CHECKING:
    import grpc.aio

__all__ = ["Client", "JobHandle"]

T = TypeVar("T")


class Client:
    """A connection to one gradsight service, for one event loop; use it as an asynchronous context manager.

        async with gradsight.aio.Client() as client:
            job = await client.submit(model="text_classifier", train="train.csv", text="text", target="intent")
            async for event in job.watch():
                print(event.kind)
            await job.download("model/")

    Arguments, results and errors are those of `gradsight.Client`.
    """

    def __init__(
        self, address: str | None = None, *, timeout: float | None = None, patience: Patience | None = None
    ) -> None:
        """Prepares a connection, as `gradsight.Client` does; may be called outside of the event loop."""
        from gradsight._rpc import DEFAULT_ADDRESS

        self.address = address or os.environ.get("GRADSIGHT_ADDRESS") or DEFAULT_ADDRESS
        self._patience = patience or Patience(call_timeout=timeout or Patience.call_timeout)
        self._driver = _Driver(self.address)

    async def submit(
        self,
        spec: JobSpec | Mapping[str, Any] | None = None,
        *,
        request_id: str | None = None,
        **options: Unpack[JobOptions],
    ) -> "JobHandle":
        """Uploads the files that the spec names, creates the job and returns its handle."""
        operation = _operations.create_job(
            JobSpec(spec, **options), self._patience, request_id=request_id, validate_only=False
        )
        created = await self._driver.run(operation)
        return JobHandle(self, created.job.job_id)

    async def validate(
        self, spec: JobSpec | Mapping[str, Any] | None = None, **options: Unpack[JobOptions]
    ) -> JobSpec:
        """Checks a spec as `submit` would, creates nothing, and returns it with the defaults filled in."""
        operation = _operations.create_job(
            JobSpec(spec, **options), self._patience, request_id=None, validate_only=True
        )
        return (await self._driver.run(operation)).job.spec

    def job(self, job_id: str) -> "JobHandle":
        """Returns the handle of a job without a call."""
        return JobHandle(self, job_id)

    def jobs(
        self,
        *,
        states: Sequence[JobState | str] = (),
        labels: Mapping[str, str] | None = None,
        name: str = "",
        queue: str = "",
    ) -> AsyncIterator[Job]:
        """Yields jobs, newest first, fetching page after page."""
        return self._driver.iterate(
            _operations.list_jobs(self._patience, states=states, labels=labels or {}, name=name, queue=queue)
        )

    async def compare(self, baseline: "str | Job | JobHandle", job: "str | Job | JobHandle") -> JobComparison:
        """Compares the kept models of two jobs on the test rows that both answered, old against new."""
        return await self._driver.run(
            _operations.compare_jobs(
                _operations.job_id_of(baseline), _operations.job_id_of(job), self._patience
            )
        )

    def watch_jobs(self, after: str = "") -> AsyncIterator[FeedEvent]:
        """Yields the state events of all jobs, without end."""
        return self._driver.iterate(_watch.watch_jobs(self._patience, after=after))

    def workers(self) -> AsyncIterator[Worker]:
        """Yields the workers, by id."""
        return self._driver.iterate(_operations.list_workers(self._patience))

    async def recipes(self) -> tuple[Recipe, ...]:
        """Returns the recipes that workers alive now have, by name."""
        return await self._driver.run(_operations.list_recipes(self._patience))

    async def server_info(self) -> ServerInfo:
        """Returns what the service is and can do."""
        return await self._driver.run(_operations.server_info(self._patience))

    async def upload(self, path: str | os.PathLike[str]) -> Artifact:
        """Makes the service hold the file's content, sending only what it does not hold yet."""
        return await self._driver.run(_transfer.upload(Path(path), self._patience))

    async def artifact(self, digest: str) -> Artifact:
        """Returns what is known of a file."""
        return await self._driver.run(_operations.get_artifact(digest, self._patience))

    def artifacts(self, *, job_id: str = "", kind: ArtifactKind | None = None) -> AsyncIterator[Artifact]:
        """Yields the files of a job, newest first; without a job the uploads."""
        return self._driver.iterate(_operations.list_artifacts(self._patience, job_id=job_id, kind=kind))

    async def download(
        self, artifacts: Sequence[Artifact], directory: str | os.PathLike[str]
    ) -> tuple[Path, ...]:
        """Fetches files into a directory, verified by their digests, and returns their paths."""
        return await self._driver.run(_operations.download_files(artifacts, Path(directory), self._patience))

    async def close(self) -> None:
        """Closes the connection."""
        await self._driver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class JobHandle:
    """A job to do things with; the verbs of `gradsight.JobHandle`, awaited."""

    def __init__(self, client: Client, job_id: str) -> None:
        self.job_id = job_id
        self._client = client
        self._driver = client._driver
        self._patience = client._patience

    async def get(self) -> Job:
        """Returns the job as it stands."""
        return await self._driver.run(_operations.get_job(self.job_id, self._patience))

    def watch(
        self,
        after: int = 0,
        *,
        kinds: Sequence[str] = (),
        mode: WatchMode = WatchMode.EVERY,
        on_gap: OnGap | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[JobEvent]:
        """Yields the job's events, history then live, until it has ended: in order, each once, none left out."""
        return self._driver.iterate(
            _watch.watch_job(
                self.job_id,
                self._patience,
                after=after,
                kinds=kinds,
                mode=mode,
                on_gap=on_gap,
                timeout=timeout,
            )
        )

    def events(self, after: int = 0, *, kinds: Sequence[str] = ()) -> AsyncIterator[JobEvent]:
        """Yields the events that exist now and does not wait for more."""
        return self._driver.iterate(
            _operations.list_events(self.job_id, self._patience, after=after, kinds=kinds)
        )

    async def wait(self, timeout: float | None = None, *, require: Required = ()) -> Job:  # noqa: ASYNC109 (the service is told, too)
        """Returns the job once it has ended, well or not; with `require`, only if its result meets all of it."""
        return await self._driver.run(
            _operations.wait(self.job_id, self._patience, timeout=timeout, require=require)
        )

    async def result(self, timeout: float | None = None) -> JobResult:  # noqa: ASYNC109
        """Waits for the job and returns what it brought home."""
        return await self._driver.run(_operations.result(self.job_id, self._patience, timeout=timeout))

    async def cancel(self) -> Job:
        """Asks the job to end and returns it, cancelling or cancelled."""
        return await self._driver.run(_operations.cancel_job(self.job_id, self._patience))

    async def extend(
        self, *, epochs: int | None = None, steps: int | None = None, request_id: str | None = None
    ) -> "JobHandle":
        """Creates a job that goes on where this one ended, with a larger budget, and returns its handle."""
        operation = _operations.extend_job(
            self.job_id, self._patience, epochs=epochs, steps=steps, request_id=request_id
        )
        return JobHandle(self._client, (await self._driver.run(operation)).job.job_id)

    async def history(
        self,
        metrics: Sequence[str] = (),
        *,
        layers: Sequence[str] = (),
        first_step: int = 0,
        last_step: int = 0,
        max_points: int = 0,
    ) -> tuple[Series, ...]:
        """Returns curves of the job, without superseded points."""
        return await self._driver.run(
            _operations.history(
                self.job_id,
                self._patience,
                metrics=metrics,
                layers=layers,
                first_step=first_step,
                last_step=last_step,
                max_points=max_points,
            )
        )

    async def findings(self, *, open_only: bool = False) -> tuple[Finding, ...]:
        """Returns what the service found in the run, most severe first; `open_only` leaves out the closed."""
        return await self._driver.run(
            _operations.list_findings(self.job_id, self._patience, open_only=open_only)
        )

    async def report(self, format: ReportFormat | str = ReportFormat.HTML) -> Report:  # noqa: A002
        """Returns a report for people as one file that needs nothing else: `html` or `markdown`."""
        return await self._driver.run(_operations.report(self.job_id, self._patience, report_format=format))

    async def download(
        self,
        directory: str | os.PathLike[str],
        *,
        kinds: Sequence[ArtifactKind] = (),
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> tuple[Path, ...]:
        """Fetches the job's result into a directory, verified by digest, and returns the paths."""
        return await self._driver.run(
            _operations.download_job(
                self.job_id, Path(directory), self._patience, kinds=kinds, timeout=timeout
            )
        )

    def __repr__(self) -> str:
        return f"JobHandle({self.job_id!r})"


class _Driver:
    """Carries out operations over an asyncio channel, which is made on first use because it belongs to a loop."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel: grpc.aio.Channel | None = None

    async def run(self, operation: Operation[T]) -> T:
        """Returns what the operation returns; what it emits is dropped."""
        results: list[T] = []
        async for _ in self.iterate(operation, results.append):
            pass
        return results[0]

    async def iterate(self, operation: Operation[T], finish: Any = None) -> AsyncIterator[Any]:
        """Yields what the operation emits; closing the iterator closes its stream."""
        import grpc

        from gradsight import _rpc

        stream = _Stream(self._open_channel())
        try:
            effect = operation.send(None)
            while True:
                if isinstance(effect, Emit):
                    yield effect.value
                    effect = operation.send(None)
                    continue
                try:
                    outcome = await self._perform(effect, stream)
                except grpc.RpcError as error:
                    failure: Exception = _rpc.translate(error, self._address)
                except OSError as error:
                    failure = error
                else:
                    effect = operation.send(outcome)
                    continue
                effect = operation.throw(failure)
        except StopIteration as stop:
            if finish is not None:
                finish(stop.value)
        finally:
            operation.close()
            stream.close()

    async def _perform(self, effect: Effect, stream: "_Stream") -> Any:
        from gradsight import _rpc

        channel = self._open_channel()
        match effect:
            case Call(name, request, timeout):
                path, read = _rpc.method(name)
                return await channel.unary_unary(path, _rpc.serialize, read)(request, timeout=timeout)
            case Send(name, requests):
                path, read = _rpc.method(name)
                return await channel.stream_unary(path, _rpc.serialize, read)(_in_thread(requests))
            case Open(name, request, timeout):
                stream.open(name, request, timeout)
            case Receive():
                return await stream.receive()
            case Sleep(seconds):
                await asyncio.sleep(seconds)
            case Compute(function):
                return await asyncio.to_thread(function)
            case Emit():
                raise AssertionError("emitted values go to the caller")
        return None

    def _open_channel(self) -> "grpc.aio.Channel":
        if self._channel is None:
            import grpc.aio

            from gradsight._rpc import CHANNEL_OPTIONS

            self._channel = grpc.aio.insecure_channel(self._address, options=CHANNEL_OPTIONS)
        return self._channel

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()


class _Stream:
    """The one stream that an operation has open."""

    def __init__(self, channel: "grpc.aio.Channel") -> None:
        self._channel = channel
        self._call: Any = None

    def open(self, name: str, request: Any, timeout: float | None) -> None:
        from gradsight import _rpc

        self.close()
        path, read = _rpc.method(name)
        self._call = self._channel.unary_stream(path, _rpc.serialize, read)(request, timeout=timeout)

    async def receive(self) -> Any:
        import grpc.aio

        response = await self._call.read()
        return None if response is grpc.aio.EOF else response

    def close(self) -> None:
        if self._call is not None:
            self._call.cancel()


async def _in_thread(items: Iterator[Any]) -> AsyncIterator[Any]:
    while (item := await asyncio.to_thread(next, items, None)) is not None:
        yield item
