"""Reports about jobs: the record, the findings and the log go to a process of their own, a file comes back."""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator

import structlog

from gradsight._reasons import Reason
from gradsight.v1 import training_service_pb2 as pb
from gradsight_service.calls import Context, time_left
from gradsight_service.errors import CallError, invalid_request
from gradsight_service.event_pages import whole_log
from gradsight_service.report_process import frame
from gradsight_service.store_access import StoreAccess
from gradsight_store import run_with_parent
from gradsight_store.artifacts import Artifacts
from gradsight_store.findings import MOST_KEPT, list_findings
from gradsight_store.jobs import get_job
from gradsight_store.operations import JobRef

log = structlog.get_logger()

_FORMS = {
    pb.REPORT_FORMAT_UNSPECIFIED: ("html", "html"),
    pb.REPORT_FORMAT_HTML: ("html", "html"),
    pb.REPORT_FORMAT_MARKDOWN: ("markdown", "md"),
}
"""What to ask the process for, and how the file's name ends."""
_MOST_BYTES = 3_500_000
"""Below the 4 MiB that clients of gRPC take in one message."""


class Reports:
    """Renders reports, a few at once.

    Args:
        store: Where records and logs are.
        artifacts: Where the older parts of long logs are.
        at_once: Reports in the making; others wait.
        limit_s: Longest time for one, waiting included, in seconds.
    """

    def __init__(
        self, store: StoreAccess, artifacts: Artifacts, *, at_once: int = 2, limit_s: float = 60.0
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._places = asyncio.Semaphore(at_once)
        self._limit_s = limit_s
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def close(self) -> None:
        """Leave nothing behind."""
        if self._directory:
            self._directory.cleanup()

    async def make(
        self, ref: JobRef, request: pb.GetJobReportRequest, context: Context
    ) -> pb.GetJobReportResponse:
        """The report that a request asks for.

        Raises:
            CallError: There is no such format, or the time is over.
            StoreError: The store does not answer, or the job is gone.
        """
        if request.format not in _FORMS:
            raise invalid_request("format", f"got {request.format}, allowed html, markdown")
        form, ending = _FORMS[request.format]
        job = await self._store.run(get_job(ref), context)
        left = time_left(context)
        try:
            async with (
                asyncio.timeout(self._limit_s if left is None else min(left, self._limit_s)),
                self._places,
            ):
                content = await self._rendered(ref, form, context)
        except TimeoutError as error:
            raise CallError(
                Reason.DEADLINE_EXCEEDED,
                "the report was not ready in time; allow more, try again when the machine has less to do, or ask for "
                "Markdown, which takes least",
            ) from error
        if len(content) > _MOST_BYTES:
            raise RuntimeError(f"a report of {len(content)} bytes does not fit into one message")
        return pb.GetJobReportResponse(
            content=content,
            media_type=f"text/{form}; charset=utf-8",
            filename=f"{job.spec.name or 'job'}-{ref.job_id}.{ending}",
        )

    async def _rendered(self, ref: JobRef, form: str, context: Context) -> bytes:
        async with self._process(form) as process:
            assert process.stdin, process.stdout
            reading = asyncio.gather(_all_of(process.stdout), _all_of(process.stderr))
            with contextlib.suppress(
                ConnectionError
            ):  # it ended before it had read all: its status says more
                async for part in self._input(ref, context):
                    process.stdin.write(part)
                    await process.stdin.drain()
                process.stdin.close()
            content, errors = await reading
            if await process.wait():
                told = errors.decode(errors="replace")[-2000:]
                raise RuntimeError(
                    f"the process that renders reports ended with {process.returncode}: {told}"
                )
            return content

    async def _input(self, ref: JobRef, context: Context) -> AsyncIterator[bytes]:
        async for event in whole_log(self._store, self._artifacts, ref, context):
            yield frame(b"e", event)
        findings = await self._store.run(list_findings(ref, page_size=MOST_KEPT), context)
        for finding in findings.findings:
            yield frame(b"f", finding)
        # The record comes last: it knows all that the log told.
        yield frame(b"j", await self._store.run(get_job(ref), context))

    @contextlib.asynccontextmanager
    async def _process(self, form: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A process that renders; it does not outlive the block, nor this process."""
        tied = run_with_parent.launcher(signal.SIGKILL)
        process = await asyncio.create_subprocess_exec(
            *tied,
            sys.executable,
            "-m",
            "gradsight_service.report_process",
            form,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment(),
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def _environment(self) -> dict[str, str]:
        """Without our own settings: who renders needs no address and no password."""
        if self._directory is None:
            # The plotting library keeps what it knows of fonts here: only the first report has to look for them.
            self._directory = tempfile.TemporaryDirectory(
                prefix="gradsight-report-", ignore_cleanup_errors=True
            )
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GRADSIGHT_")}
        return kept | {
            "MPLCONFIGDIR": self._directory.name,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }


async def _all_of(stream: asyncio.StreamReader | None) -> bytes:
    return await stream.read() if stream else b""
