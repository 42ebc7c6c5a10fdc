"""The verb `exporter`."""

from pathlib import Path

import click


@click.command()
@click.option(
    "--store", envvar="GRADSIGHT_STORE", help="Address of the store: redis://, rediss:// or unix://."
)
@click.option(
    "--store-password-file", type=click.Path(path_type=Path), envvar="GRADSIGHT_STORE_PASSWORD_FILE"
)
@click.option(
    "--address",
    default="127.0.0.1:9117",
    show_default=True,
    envvar="GRADSIGHT_EXPORTER_ADDRESS",
    help="HTTP address.",
)
@click.option(
    "--grace",
    default=300.0,
    show_default=True,
    type=click.FloatRange(min=0),
    envvar="GRADSIGHT_EXPORTER_GRACE",
    help="Seconds for which the series of an ended job stay.",
)
@click.option("--ready-file", type=click.Path(path_type=Path), help="Written as JSON once it answers.")
def exporter(
    store: str | None, store_password_file: Path | None, address: str, grace: float, ready_file: Path | None
) -> None:
    """Show every job and the fleet to Prometheus. Run one; it reads records and changes nothing."""
    from gradsight_service.exporter.process import Exporter, ExporterSettings, run_until_signalled
    from gradsight_service.logs import configure_logs
    from gradsight_store.settings import StoreSettings

    configure_logs()
    host, _, port = address.rpartition(":")
    try:
        settings = StoreSettings.from_environment(url=store, password_file=store_password_file)
        process = Exporter(ExporterSettings(store=settings, host=host, port=int(port), grace_s=grace))
    except (ValueError, OSError) as error:
        raise click.ClickException(f"the exporter cannot listen on {address}: {error}") from None
    run_until_signalled(process, ready_file)
