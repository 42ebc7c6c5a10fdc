"""`gradsight history`: curves of a job."""

import click

from gradsight._figures import number, sparkline
from gradsight._records import Series
from gradsight.cli._follow import on_terminal
from gradsight.cli._verb import Session, option, verb


@verb
@click.argument("job_id", metavar="JOB")
@option(
    "--metric",
    "metrics",
    multiple=True,
    help="Curve, `layer_gradient_norm` say; repeat it. Default: the main four.",
)
@option("--layer", "layers", multiple=True, help="Only this layer, by path; repeat it.")
@option("--first-step", type=click.IntRange(1), default=1, help="First step. Default: 1.")
@option("--last-step", type=click.IntRange(0), default=0, help="Last step. Default: the newest.")
@option(
    "--points", type=click.IntRange(2, 10_000), default=1000, show_default=True, help="Most points per curve."
)
def history(
    session: Session,
    job_id: str,
    metrics: tuple[str, ...],
    layers: tuple[str, ...],
    first_step: int,
    last_step: int,
    points: int,
) -> int:
    """Print curves of a job, without superseded points.

    On a terminal a line per curve; in a pipe a tab-separated row per point: metric, layer or category, step, value.
    Metrics: loss, gradient_norm, learning_rate, clip_factor, gain_ratio, layer_gradient_norm, layer_gradient_rms,
    layer_weight_norm, layer_update_ratio, validation_loss, validation_error_ratio, validation_macro_f1,
    validation_root_mean_square_error, validation_mean_absolute_error, validation_perplexity, category_error_ratio.
    """
    with session.client() as client:
        curves = client.job(job_id).history(
            metrics, layers=layers, first_step=first_step, last_step=last_step, max_points=points
        )
    for series in curves:
        if session.json:
            session.line(series)
        elif on_terminal():
            _draw(series)
        else:
            subject = series.layer or series.category or ""
            for step, value in zip(series.steps, series.values, strict=True):
                click.echo(f"{series.metric}\t{subject}\t{step}\t{value!r}")
    if not curves:
        click.echo("nothing was recorded yet", err=True)
    return 0


def _draw(series: Series) -> None:
    name = " ".join(filter(None, (series.metric, series.layer, series.category)))
    curve = sparkline(series.values, 48, logarithmic=series.metric.endswith(("norm", "rms")))
    ends = f"{number(series.values[0])} → {number(series.values[-1])}" if series.values else "–"
    click.echo(f"{name:<34} {curve:<48}  {ends}")
