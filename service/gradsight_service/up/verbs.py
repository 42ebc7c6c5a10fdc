"""The verbs `up`, `down` and `status`."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from gradsight_service.up.household import Addresses, Household, HouseholdTaken

_DOWN_TIMEOUT_S = 90.0
_DETACHED_START_S = 90.0

data_option = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=lambda: default_data_directory(),  # read when called: the environment may change
    show_default="~/.local/share/gradsight",
    envvar="GRADSIGHT_DATA",
    help="Directory for the store, artifacts, logs and state.",
)


@click.command()
@data_option
@click.option(
    "-d", "--detach", is_flag=True, help="Return once everything is up; end it with `gradsight down`."
)
@click.option(
    "--store", default="", envvar="GRADSIGHT_STORE", help="Use this store instead of an embedded one."
)
@click.option(
    "--address", default="127.0.0.1:7117", show_default=True, envvar="GRADSIGHT_ADDRESS", help="Service."
)
@click.option(
    "--exporter-address", default="127.0.0.1:9117", show_default=True, envvar="GRADSIGHT_EXPORTER_ADDRESS"
)
@click.option(
    "--metrics-address", default="127.0.0.1:9118", show_default=True, envvar="GRADSIGHT_METRICS_ADDRESS"
)
@click.option(
    "--worker-metrics-port",
    default=9119,
    show_default=True,
    envvar="GRADSIGHT_WORKER_METRICS_PORT",
    help="Metrics port of the first worker; the next ones count on. 0 takes free ones.",
)
@click.option(
    "--device", "devices", multiple=True, envvar="GRADSIGHT_DEVICE", help="One worker each: cpu, cuda:0, …"
)
@click.option(
    "--threads", type=click.IntRange(1), envvar="GRADSIGHT_THREADS", help="CPU threads of a training process."
)
@click.option(
    "--profile",
    type=click.Choice(["standard", "fast"]),
    default="standard",
    show_default=True,
    envvar="GRADSIGHT_PROFILE",
    help="fast: losses are noticed within 2 s instead of 15 s.",
)
@click.option(
    "--insecure-listen", is_flag=True, envvar="GRADSIGHT_INSECURE_LISTEN", help="TLS ends in front of me."
)
def up(*, detach: bool, data: Path, devices: tuple[str, ...], **options: Any) -> None:
    """Start a store, the service, the exporter and one worker per device on this machine."""
    from gradsight_service.up.keeper import Keeper, StartFailed, UpSettings

    if detach:
        _report(_start_detached(data))
        return
    settings = UpSettings(
        data=data,
        devices=devices or ("cpu",),
        service_metrics_address=options.pop("metrics_address"),
        **options,
    )
    keeper = Keeper(settings, say=lambda line: click.echo(line, err=True))
    try:
        _report(keeper.start())
        click.echo("Ctrl-C ends everything.")
        keeper.keep()
    except (HouseholdTaken, StartFailed) as error:
        raise click.ClickException(str(error)) from None
    finally:
        keeper.stop()


@click.command()
@data_option
def down(data: Path) -> None:
    """End what `gradsight up` started; running jobs are saved first and go on at the next `up`."""
    household = Household(data)
    addresses = household.read()
    if not household.is_locked() or addresses is None:
        click.echo(f"nothing runs in {data}")
        return
    os.kill(addresses.process_id, signal.SIGTERM)
    if not household.wait_released(_DOWN_TIMEOUT_S):
        raise click.ClickException(
            f"process {addresses.process_id} still runs after {_DOWN_TIMEOUT_S:.0f} s; its logs are in {household.logs}"
        )
    click.echo("down")


@click.command()
@data_option
def status(data: Path) -> None:
    """Say what runs here and how it is. Exit status 0: everything answers; 6: nothing runs or it does not answer."""
    from gradsight import Client, GradsightError

    household = Household(data)
    addresses = household.read()
    if not household.is_locked() or addresses is None:
        click.echo(f"nothing runs in {data}: start it with `gradsight up`")
        raise SystemExit(6)
    _report(addresses)
    try:
        with Client(addresses.service) as client:
            info = client.server_info()
            click.echo(f"version     {info.version}, store schema {info.schema_version}")
            workers = list(client.workers())
            for worker in workers:
                job = f", job {worker.job_id}" if worker.job_id else ""
                click.echo(f"worker      {worker.worker_id} on {worker.device}: {worker.state}{job}")
    except GradsightError as error:
        click.echo(str(error), err=True)
        raise SystemExit(6) from None
    if not workers:
        click.echo(f"no worker is alive: jobs wait until one is; the logs are in {household.logs}", err=True)
        raise SystemExit(6)


def default_data_directory() -> Path:
    """Where `up` keeps its data unless told otherwise: the user's data directory, as the XDG base directories say."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "gradsight"


def _start_detached(data: Path) -> Addresses:
    """Run this very command without `--detach` in a session of its own and wait until it has written its addresses."""
    household = Household(data)
    household.logs.mkdir(parents=True, exist_ok=True)
    arguments = [argument for argument in sys.argv[1:] if argument not in ("-d", "--detach")]
    log = household.logs / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gradsight.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + _DETACHED_START_S
    while time.monotonic() < deadline:
        addresses = household.read()
        if addresses is not None and addresses.process_id == process.pid:
            return addresses
        if process.poll() is not None:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise click.ClickException(
                lines[-1].removeprefix("Error: ") if lines else f"it ended; its log is {log}"
            )
        time.sleep(0.05)
    process.terminate()
    raise click.ClickException(f"not up within {_DETACHED_START_S:.0f} s; its logs are in {household.logs}")


def _report(addresses: Addresses) -> None:
    click.echo(f"service     {addresses.service}")
    click.echo(f"store       {addresses.store}")
    click.echo(f"exporter    http://{addresses.exporter}/metrics")
    others = [addresses.service_metrics, *addresses.worker_metrics]
    click.echo("metrics     " + ", ".join(f"http://{address}/metrics" for address in others))
