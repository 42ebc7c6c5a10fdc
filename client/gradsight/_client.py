"""The client for ordinary code. `gradsight.aio.Client` is the same for asyncio."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from gradsight import _operations, _transfer, _watch
from gradsight._enums import ArtifactKind, JobState, ReportFormat, WatchMode
from gradsight._events import FeedEvent, JobEvent
from gradsight._insight import Finding, JobComparison, Report
from gradsight._job import Job, JobResult
from gradsight._records import Artifact, Recipe, Series, ServerInfo, Worker
from gradsight._requirements import Required
from gradsight._retry import Patience
from gradsight._spec import JobOptions, JobSpec
from gradsight._watch import OnGap


class Client:
    """A connection to one gradsight service; use it as a context manager, from as many threads as you like.

        with gradsight.Client() as client:
            job = client.submit(model="text_classifier", train="train.csv", text="text", target="intent")
            for event in job.watch():
                print(event.kind)
            job.download("model/")

    Calls are repeated while the service is away, as `patience` says, and only then; a repeated `submit` makes one job.
    Every method raises errors of `gradsight.GradsightError` and nothing of gRPC's.
    """

    def __init__(
        self, address: str | None = None, *, timeout: float | None = None, patience: Patience | None = None
    ) -> None:
        """Prepares a connection; nothing is sent before the first call.

        Args:
            address: `host:port` of the service. Default: `GRADSIGHT_ADDRESS`, else `127.0.0.1:7117`.
            timeout: Longest wait for the answer to one call, in seconds; short for `Patience(call_timeout=…)`.
            patience: How long to wait for a service that is away.
        """
        # Here and not at the top: `import gradsight` stays free of grpc.
        from gradsight._driver import Driver
        from gradsight._rpc import DEFAULT_ADDRESS

        self.address = address or os.environ.get("GRADSIGHT_ADDRESS") or DEFAULT_ADDRESS
        self._patience = patience or Patience(call_timeout=timeout or Patience.call_timeout)
        self._driver = Driver(self.address)

    def submit(
        self,
        spec: JobSpec | Mapping[str, Any] | None = None,
        *,
        request_id: str | None = None,
        **options: Unpack[JobOptions],
    ) -> "JobHandle":
        """Uploads the files that the spec names, creates the job and returns its handle.

        `spec` and the keyword arguments together describe the job as `JobSpec` says; the arguments win. The same
        `request_id` with the same spec gives the same job, however often; by default every call makes a new one.
        Raises InvalidSpec, NotSupportedYet, RequestIdReused.
        """
        created = self._driver.run(
            _operations.create_job(
                _spec(spec, options), self._patience, request_id=request_id, validate_only=False
            )
        )
        return JobHandle(self, created.job.job_id)

    def validate(
        self, spec: JobSpec | Mapping[str, Any] | None = None, **options: Unpack[JobOptions]
    ) -> JobSpec:
        """Checks a spec as `submit` would, creates nothing, and returns it with the defaults filled in.

        Files that the spec names are uploaded, because their headers are checked too.
        """
        operation = _operations.create_job(
            _spec(spec, options), self._patience, request_id=None, validate_only=True
        )
        return self._driver.run(operation).job.spec

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
    ) -> Iterator[Job]:
        """Yields jobs, newest first, fetching page after page: of these states, with all of these labels."""
        return self._driver.iterate(
            _operations.list_jobs(self._patience, states=states, labels=labels or {}, name=name, queue=queue)
        )

    def compare(self, baseline: "str | Job | JobHandle", job: "str | Job | JobHandle") -> JobComparison:
        """Compares the kept models of two jobs on the test rows that both answered, old against new.

        Jobs are given by id, as a `Job` or as a handle; both must have succeeded. Where their specs differ is said,
        too. Raises JobNotFound, StateTransitionRefused.
        """
        return self._driver.run(
            _operations.compare_jobs(
                _operations.job_id_of(baseline), _operations.job_id_of(job), self._patience
            )
        )

    def watch_jobs(self, after: str = "") -> Iterator[FeedEvent]:
        """Yields the state events of all jobs, without end, through restarts of the service.

        After a cursor of an earlier event; by default from now on; `0` from the beginning of what is kept.
        """
        return self._driver.iterate(_watch.watch_jobs(self._patience, after=after))

    def workers(self) -> Iterator[Worker]:
        """Yields the workers, by id."""
        return self._driver.iterate(_operations.list_workers(self._patience))

    def recipes(self) -> tuple[Recipe, ...]:
        """Returns the recipes that workers alive now have, by name."""
        return self._driver.run(_operations.list_recipes(self._patience))

    def server_info(self) -> ServerInfo:
        """Returns what the service is and can do."""
        return self._driver.run(_operations.server_info(self._patience))

    def upload(self, path: str | os.PathLike[str]) -> Artifact:
        """Makes the service hold the file's content, sending only what it does not hold yet.

        Raises OSError when the file cannot be read.
        """
        return self._driver.run(_transfer.upload(Path(path), self._patience))

    def artifact(self, digest: str) -> Artifact:
        """Returns what is known of a file. Raises ArtifactNotFound."""
        return self._driver.run(_operations.get_artifact(digest, self._patience))

    def artifacts(self, *, job_id: str = "", kind: ArtifactKind | None = None) -> Iterator[Artifact]:
        """Yields the files of a job, newest first; without a job the uploads."""
        return self._driver.iterate(_operations.list_artifacts(self._patience, job_id=job_id, kind=kind))

    def download(self, artifacts: Sequence[Artifact], directory: str | os.PathLike[str]) -> tuple[Path, ...]:
        """Fetches files into a directory, verified by their digests, and returns their paths."""
        return self._driver.run(_operations.download_files(artifacts, Path(directory), self._patience))

    def close(self) -> None:
        """Closes the connection."""
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class JobHandle:
    """A job to do things with. Made by `Client.submit` and `Client.job`; raises JobNotFound on use if there is none."""

    def __init__(self, client: Client, job_id: str) -> None:
        self.job_id = job_id
        self._client = client
        self._run = client._driver.run
        self._iterate = client._driver.iterate
        self._patience = client._patience

    def get(self) -> Job:
        """Returns the job as it stands."""
        return self._run(_operations.get_job(self.job_id, self._patience))

    def watch(
        self,
        after: int = 0,
        *,
        kinds: Sequence[str] = (),
        mode: WatchMode = WatchMode.EVERY,
        on_gap: OnGap | None = None,
        timeout: float | None = None,
    ) -> Iterator[JobEvent]:
        """Yields the job's events, history then live, until it has ended: in order, each once, none left out.

        Reconnects by itself when the connection or the service goes away.

        Args:
            after: Only events after this sequence; 0 from the beginning.
            kinds: Only events of these kinds, `("steps_recorded", "evaluation_completed")` say. Empty: all.
            mode: `WatchMode.LATEST` leaves out batches of steps when the reader is slow.
            on_gap: Called with every `Gap`. Without it, events that retention deleted raise WatchGap, and those that
                mode LATEST leaves out are passed over.
            timeout: Raises WaitTimeout after that many seconds. Default: none.
        """
        return self._iterate(
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

    def events(self, after: int = 0, *, kinds: Sequence[str] = ()) -> Iterator[JobEvent]:
        """Yields the events that exist now, fetching page after page, and does not wait for more."""
        return self._iterate(_operations.list_events(self.job_id, self._patience, after=after, kinds=kinds))

    def wait(self, timeout: float | None = None, *, require: Required = ()) -> Job:
        """Returns the job once it has ended, well or not. Raises WaitTimeout after `timeout` seconds; it goes on.

        With `require`, `"no-regression"` say, returns only a job that succeeded and meets all of it: raises
        RequirementNotMet otherwise, JobFailed or JobCancelled without a result.
        """
        return self._run(_operations.wait(self.job_id, self._patience, timeout=timeout, require=require))

    def result(self, timeout: float | None = None) -> JobResult:
        """Waits for the job and returns what it brought home.

        Raises JobFailed or JobCancelled when it ended without a result, WaitTimeout after `timeout` seconds.
        """
        return self._run(_operations.result(self.job_id, self._patience, timeout=timeout))

    def cancel(self) -> Job:
        """Asks the job to end and returns it, cancelling or cancelled.

        Raises StateTransitionRefused when it has succeeded or failed.
        """
        return self._run(_operations.cancel_job(self.job_id, self._patience))

    def extend(
        self, *, epochs: int | None = None, steps: int | None = None, request_id: str | None = None
    ) -> "JobHandle":
        """Creates a job that goes on where this one ended, and returns its handle.

        It has this job's spec with a larger budget, counted from the beginning: a job of 10 epochs goes on with
        `extend(epochs=20)` for 10 more. The job must have succeeded. Raises InvalidSpec when there is nothing to add.
        """
        operation = _operations.extend_job(
            self.job_id, self._patience, epochs=epochs, steps=steps, request_id=request_id
        )
        return JobHandle(self._client, self._run(operation).job.job_id)

    def history(
        self,
        metrics: Sequence[str] = (),
        *,
        layers: Sequence[str] = (),
        first_step: int = 0,
        last_step: int = 0,
        max_points: int = 0,
    ) -> tuple[Series, ...]:
        """Returns curves of the job, without superseded points.

        Args:
            metrics: `loss`, `gradient_norm`, `learning_rate`, `clip_factor`, `gain_ratio`, `layer_gradient_norm`,
                `layer_gradient_rms`, `layer_weight_norm`, `layer_update_ratio`, `validation_loss`,
                `validation_error_ratio`, `category_error_ratio`. Empty: loss, gradient norm and validation.
            layers: Only these layers, by path. Empty: all.
            first_step: First step, from 1. 0: the first.
            last_step: Last step. 0: the newest.
            max_points: Most points per curve, 2 to 10000. 0: 1000. Extremes are kept.
        """
        return self._run(
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

    def findings(self, *, open_only: bool = False) -> tuple[Finding, ...]:
        """Returns what the service found in the run, most severe first; `open_only` leaves out the closed."""
        return self._run(_operations.list_findings(self.job_id, self._patience, open_only=open_only))

    def report(self, format: ReportFormat | str = ReportFormat.HTML) -> Report:  # noqa: A002 (the contract's word)
        """Returns a report for people as one file that needs nothing else: `html` or `markdown`."""
        return self._run(_operations.report(self.job_id, self._patience, report_format=format))

    def download(
        self,
        directory: str | os.PathLike[str],
        *,
        kinds: Sequence[ArtifactKind] = (),
        timeout: float | None = None,
    ) -> tuple[Path, ...]:
        """Fetches the job's result into a directory, verified by digest, and returns the paths.

        Waits for the job as `result` does. With `kinds`, checkpoints say, fetches the files that exist now instead.
        """
        return self._run(
            _operations.download_job(
                self.job_id, Path(directory), self._patience, kinds=kinds, timeout=timeout
            )
        )

    def __repr__(self) -> str:
        return f"JobHandle({self.job_id!r})"


def _spec(spec: JobSpec | Mapping[str, Any] | None, options: JobOptions) -> JobSpec:
    return spec if isinstance(spec, JobSpec) and not options else JobSpec(spec, **options)
