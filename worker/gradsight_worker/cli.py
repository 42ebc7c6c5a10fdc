"""The verb `gradsight worker`. Imports what it needs when it is called: `--help` must not wait for torch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class _Size(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases only
    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = str(value).upper().removesuffix("B").removesuffix("I")
        digits, factor = (text[:-1], _SIZES[text[-1]]) if text[-1:] in _SIZES else (text, 1)
        if not digits.isdecimal() or int(digits) == 0:
            self.fail(f"got {value!r}, allowed: bytes, as in 800M or 4G", param, ctx)
        return int(digits) * factor


def _option(flag: str, **attributes: Any) -> Callable[[Any], Any]:
    """An option that the environment can set, too."""
    variable = "GRADSIGHT_" + flag.removeprefix("--").replace("-", "_").upper()
    return click.option(flag, envvar=variable, **attributes)


@click.command()
@_option("--store", metavar="URL", help="The store: redis://HOST:PORT/DB, rediss:// or unix:///PATH.")
@_option("--artifacts", metavar="DIR|URL", help="Where files are: a directory, or an fsspec URL.")
@_option("--device", default="cpu", show_default=True, metavar="cpu|cuda:N", help="The device to train on.")
@_option("--queue", default="default", show_default=True, help="The queue of jobs to serve.")
@_option("--name", help="First part of the worker's id. Default: the host's name.")
@_option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="CPU threads of a training process. Default: torch's choice.",
)
@_option(
    "--metrics-address",
    metavar="HOST:PORT|off",
    help="Where Prometheus scrapes. Default: 127.0.0.1:9119, or the next free port.",
)
@_option(
    "--profile",
    type=click.Choice(["standard", "fast"]),
    default="standard",
    show_default=True,
    help="How soon losses are noticed; fast is for tests.",
)
@_option(
    "--drain-timeout",
    type=click.FloatRange(1.0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="From SIGTERM to the end: time for the running job to save its state.",
)
@_option(
    "--stall-timeout",
    type=click.FloatRange(1.0),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="A training process that is silent for this long is killed.",
)
@_option(
    "--data-memory",
    type=_Size(),
    default="1G",
    show_default=True,
    help="Most memory for the encoded rows of a job; more are kept in files of --spool.",
)
@_option("--memory-limit", type=_Size(), help="Address space of a CPU training process, as in 4G.")
@_option(
    "--spool",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory for files of running jobs; on the file system of --artifacts nothing is copied twice.",
)
@_option("--die-with-parent", is_flag=True, help="Be killed when the process that started this one ends.")
@_option(
    "--ready-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Written once the worker takes jobs: JSON with its addresses.",
)
def worker(
    store: str | None,
    artifacts: str | None,
    device: str,
    queue: str,
    name: str | None,
    threads: int | None,
    metrics_address: str | None,
    profile: str,
    drain_timeout: float,
    stall_timeout: float,
    data_memory: int,
    memory_limit: int | None,
    spool: Path | None,
    die_with_parent: bool,
    ready_file: Path | None,
) -> None:
    """Train jobs on one device, until told to stop (SIGTERM saves the running job's state first)."""
    from gradsight_worker import start

    if die_with_parent:
        start.die_with_parent()
    try:
        options = start.WorkerOptions(
            store_url=store,
            artifacts=artifacts,
            device=device,
            queue=queue,
            name=name,
            threads=threads,
            metrics_address=metrics_address,
            profile=profile,
            drain_timeout_s=drain_timeout,
            stall_timeout_s=stall_timeout,
            data_memory_bytes=data_memory,
            memory_limit_bytes=memory_limit,
            spool=spool,
        )
        start.run_worker(options, lambda addresses: _write_ready(ready_file, addresses))
    except (ValueError, start.StoreError) as error:
        raise click.ClickException(str(error)) from error


def _write_ready(path: Path | None, addresses: dict[str, str]) -> None:
    if path is not None:
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(addresses), encoding="utf-8")
        partial.replace(path)
