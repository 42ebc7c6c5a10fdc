"""The verb `serve`. Nothing heavy is imported before it runs, so that `--help` stays quick."""

from pathlib import Path

import click


@click.command()
@click.option(
    "--address",
    default="127.0.0.1:7117",
    show_default=True,
    envvar="GRADSIGHT_ADDRESS",
    help="Where to take calls: HOST:PORT or unix:/PATH; port 0 takes a free one.",
)
@click.option(
    "--store", envvar="GRADSIGHT_STORE", help="Address of the store: redis://, rediss:// or unix://."
)
@click.option(
    "--store-password-file",
    type=click.Path(path_type=Path),
    envvar="GRADSIGHT_STORE_PASSWORD_FILE",
    help="File with the store's password.",
)
@click.option(
    "--artifacts",
    required=True,
    envvar="GRADSIGHT_ARTIFACTS",
    help="Where files are kept, shared with the workers: a directory or an fsspec URL.",
)
@click.option(
    "--metrics-address",
    default="127.0.0.1:9118",
    show_default=True,
    envvar="GRADSIGHT_METRICS_ADDRESS",
    help="HTTP address of /metrics, /livez and /readyz.",
)
@click.option(
    "--profile",
    type=click.Choice(["standard", "fast"]),
    envvar="GRADSIGHT_PROFILE",
    help="fast: notices losses within two seconds; for tests.",
)
@click.option(
    "--store-durability",
    type=click.Choice(["checked", "managed"]),
    default="checked",
    show_default=True,
    envvar="GRADSIGHT_STORE_DURABILITY",
    help="managed: you vouch that the store keeps what it acknowledged.",
)
@click.option(
    "--dev", is_flag=True, envvar="GRADSIGHT_DEV", help="Only warn about a store that could lose jobs."
)
@click.option(
    "--insecure-listen",
    is_flag=True,
    envvar="GRADSIGHT_INSECURE_LISTEN",
    help="Listen beyond this machine: TLS and access control end in front of the service.",
)
@click.option(
    "--reflection/--no-reflection",
    default=None,
    envvar="GRADSIGHT_REFLECTION",
    help="Tell clients the contract. Default: on where only this machine can ask.",
)
@click.option(
    "--max-watchers",
    type=click.IntRange(1, 100_000),
    default=1000,
    show_default=True,
    envvar="GRADSIGHT_MAX_WATCHERS",
    help="Streams open at once.",
)
@click.option(
    "--heartbeat",
    type=click.FloatRange(0.1, 3600),
    default=10.0,
    show_default=True,
    envvar="GRADSIGHT_HEARTBEAT",
    help="Seconds after which a quiet stream gets a heartbeat.",
)
@click.option(
    "--stream-age",
    type=click.FloatRange(0.1, 86400),
    default=1800.0,
    show_default=True,
    envvar="GRADSIGHT_STREAM_AGE",
    help="Seconds after which a stream ends and its client watches again, at any replica.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    envvar="GRADSIGHT_LOG_LEVEL",
)
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path),
    envvar="GRADSIGHT_READY_FILE",
    help="Written as JSON once calls are taken.",
)
def serve(
    address: str,
    store: str | None,
    store_password_file: Path | None,
    artifacts: str,
    metrics_address: str,
    profile: str | None,
    store_durability: str,
    dev: bool,
    insecure_listen: bool,
    reflection: bool | None,
    max_watchers: int,
    heartbeat: float,
    stream_age: float,
    log_level: str,
    ready_file: Path | None,
) -> None:
    """Take calls: the gRPC service with its dispatcher. Several may run on one store."""
    import asyncio
    import os

    # gRPC's own lines on stderr would stand between ours, which are JSON; what they say reaches us as exceptions.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    from gradsight_service.hub import HubSettings
    from gradsight_service.logs import configure_logs
    from gradsight_service.serve import CannotServe, ServeSettings
    from gradsight_service.serve import serve as run
    from gradsight_store.errors import StoreError, StoreUnavailable
    from gradsight_store.settings import StoreSettings

    configure_logs(log_level)
    try:
        environ = {**os.environ, "GRADSIGHT_PROFILE": profile or "standard"}
        settings = ServeSettings(
            store=StoreSettings.from_environment(environ, url=store, password_file=store_password_file),
            artifacts=artifacts,
            address=address,
            metrics_address=metrics_address,
            durability="managed" if store_durability == "managed" else "checked",
            dev=dev,
            insecure_listen=insecure_listen,
            reflection=reflection,
            ready_file=ready_file,
            hub=HubSettings(most_watchers=max_watchers, heartbeat_s=heartbeat, stream_age_s=stream_age),
        )
        asyncio.run(run(settings, click.echo))
    except StoreUnavailable as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(6) from None
    except (CannotServe, StoreError, ValueError) as error:
        raise click.ClickException(str(error)) from None
