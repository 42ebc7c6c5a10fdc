"""From a worker's options to a running supervisor: check everything that can be wrong, then register."""

import gc
import logging
import os
import re
import secrets
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from gradsight._version import __version__
from gradsight.v1 import worker_pb2
from gradsight_store.artifacts import Artifacts
from gradsight_store.errors import StoreError
from gradsight_store.settings import StoreSettings
from gradsight_store.startcheck import check_store
from gradsight_store.store import Store
from gradsight_worker import processes
from gradsight_worker.attempt import AttemptSettings
from gradsight_worker.devices import Device, find_device
from gradsight_worker.errand import Errand, ErrandFailed
from gradsight_worker.logs import log_as_json
from gradsight_worker.metrics import Description, MetricsServer, listen
from gradsight_worker.scratch import Scratch, default_spool
from gradsight_worker.supervisor import Supervisor, SupervisorSettings
from gradsight_worker.trainer_process import Rehearse, RunTrainer

__all__ = ["StoreError", "WorkerOptions", "die_with_parent", "run_worker"]

DEFAULT_METRICS_ADDRESS = "127.0.0.1:9119"
_QUEUE = re.compile(r"[a-z0-9-]{1,64}")
_DRAIN_SHARE = 0.85  # of the drain's time for the attempt; the rest is the supervisor's

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What an operator says about a worker. None: the default, or the environment's word. Durations in seconds."""

    store_url: str | None = None
    artifacts: str | None = None
    device: str = "cpu"
    queue: str = "default"
    name: str | None = None
    threads: int | None = None
    metrics_address: str | None = None
    """`HOST:PORT`, `off`, or None for the first free port from 9119."""
    profile: str = "standard"
    drain_timeout_s: float = 60.0
    stall_timeout_s: float = 300.0
    data_memory_bytes: int = 1 << 30
    memory_limit_bytes: int | None = None
    spool: Path | None = None
    trainer: RunTrainer | None = None
    """Another trainer's entry. None: the real one."""


def run_worker(options: WorkerOptions, ready: Callable[[dict[str, str]], None]) -> None:
    """Run a worker in this process until it was told to stop. `ready` gets its addresses once it takes jobs.

    Raises:
        ValueError: An option is wrong or cannot be met on this machine.
        StoreError: The store cannot be reached or is unfit.
    """
    os.umask(0o077)
    environ = {**os.environ, "GRADSIGHT_PROFILE": options.profile}
    settings = StoreSettings.from_environment(environ, url=options.store_url)
    offer = _offer(options, device := find_device(options.device))
    log_as_json(worker_id=offer.worker_id)
    _check_store(settings)
    artifacts = _artifacts(options.artifacts)
    if options.memory_limit_bytes is not None and device.name != "cpu":
        raise ValueError("--memory-limit works for --device cpu only: CUDA reserves far more than it uses")
    with ExitStack() as stack:
        scratch = Scratch.open((options.spool or default_spool()).absolute(), offer.worker_id)
        stack.callback(scratch.close)
        metrics = _serve_metrics(options, offer, scratch.directory.parent, settings)
        if metrics is not None:
            stack.callback(metrics.close)
        device.make_visible(os.environ)
        # Not in the user's own directory for temporary files, where nobody would remove it.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(scratch.directory / "compiled"))
        run_trainer, rehearse = _load_trainer(options, device, scratch)
        if options.trainer is None:
            offer.recipes.extend(_recipes())
        attempt = AttemptSettings(
            store=settings,
            artifacts=artifacts,
            worker_id=offer.worker_id,
            device=device,
            scratch=scratch,
            run_trainer=run_trainer,
            rehearse=rehearse,
            threads=options.threads,
            stall_timeout_s=options.stall_timeout_s,
            drain_s=_DRAIN_SHARE * options.drain_timeout_s,
            data_memory_bytes=options.data_memory_bytes,
            memory_limit_bytes=options.memory_limit_bytes,
        )
        supervisor = Supervisor(
            SupervisorSettings(
                attempt=attempt,
                offer=offer,
                drain_timeout_s=options.drain_timeout_s,
                report=metrics.report if metrics is not None else lambda report: None,
                ready=lambda: ready({"metrics": metrics.address if metrics is not None else ""}),
            )
        )
        supervisor.work()
        if not supervisor.stopped_on_request:
            raise RuntimeError("the worker's loop ended by an error; the log says which")


def die_with_parent() -> None:
    """Have this process killed when the one that started it ends."""
    processes.die_with_parent(os.getppid())


def _offer(options: WorkerOptions, device: Device) -> worker_pb2.Worker:
    if not _QUEUE.fullmatch(options.queue):
        raise ValueError(f"--queue: got {options.queue!r}, allowed: 1 to 64 characters of a-z, 0-9 and -")
    host = socket.gethostname()
    # Random at the end: after a kill, the same name would be taken until the old record's lease is over.
    name = re.sub(r"[^a-z0-9-]+", "-", (options.name or host.partition(".")[0]).lower()).strip("-")[:40]
    return worker_pb2.Worker(
        worker_id=f"{name or 'worker'}-{secrets.token_hex(4)}",
        queue=options.queue,
        device_class=device.device_class,
        device=device.name,
        device_name=device.model,
        host=host,
        process_id=os.getpid(),
        version=__version__,
    )


def _check_store(settings: StoreSettings) -> None:
    store = Store.open(settings)
    # Whether the server keeps what it acknowledged is the service's question: here a warning will do.
    for warning in store.run(check_store(dev=True)):
        _log.warning(warning)
    store.close()


def _artifacts(address: str | None) -> str:
    if not address:
        raise ValueError(
            "--artifacts (GRADSIGHT_ARTIFACTS): got nothing, allowed: a directory or an fsspec URL"
        )
    check = Errand(lambda: Artifacts(address) and None)  # in a child: file systems may bring threads
    while not check.take():
        pass
    try:
        check.result()
    except ErrandFailed as error:
        raise ValueError(str(error)) from error
    return address


def _serve_metrics(
    options: WorkerOptions, offer: worker_pb2.Worker, spool: Path, settings: StoreSettings
) -> MetricsServer | None:
    if options.metrics_address == "off":
        return None
    chosen = options.metrics_address or DEFAULT_METRICS_ADDRESS
    listening = listen(chosen, or_next=options.metrics_address is None)
    description = Description(
        worker_id=offer.worker_id,
        queue=offer.queue,
        device=offer.device,
        device_name=offer.device_name,
        version=offer.version,
        spool=str(spool),
        lease_s=settings.worker_lease_s,
    )
    return MetricsServer(listening, description)


def _load_trainer(
    options: WorkerOptions, device: Device, scratch: Scratch
) -> tuple[RunTrainer, Rehearse | None]:
    """Import everything a first step imports, once for all forks, and keep the collector's hands off it."""
    if options.trainer is not None:
        return options.trainer, None
    from gradsight_worker.rehearsal import rehearse  # torch comes with these
    from gradsight_worker.training.trainer import run_trainer, warm_up_imports

    def rehearse_here(wanted: Callable[[], bool]) -> None:
        place = scratch.directory / f"rehearsal.{os.getpid()}"
        rehearse(place, device.trainer_name, options.threads, wanted)

    warm_up_imports()
    gc.collect()
    gc.freeze()  # a collection in a child would write to, and so copy, every page that it shares
    return run_trainer, rehearse_here


def _recipes() -> list[worker_pb2.Recipe]:
    from gradsight_worker.recipes import offered_recipes  # torch comes with these, too

    return offered_recipes()
