"""`gradsight submit`, `validate` and `extend`: a spec from a file, from flags, or from both, where flags win."""

import os
from collections.abc import Callable
from typing import Any

import click

from gradsight import JobHandle, JobSpec, Requirement, load_spec
from gradsight.cli._follow import conclude, say_if_nobody_works, with_requirements
from gradsight.cli._follow import follow as follow_job
from gradsight.cli._outcome import Exit
from gradsight.cli._verb import Assignment, Duration, Session, option, require_option, verb


def _spec_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in reversed(
        [
            option(
                "-f", "--file", metavar="SPEC", type=click.Path(dir_okay=False), help="Spec in YAML or JSON."
            ),
            option(
                "--model",
                metavar="NAME",
                help="Model: mlp, text_classifier, text_transformer, cnn, gpt, or program.",
            ),
            option("--graph", metavar="FILE", help="With --model program: its graph, from gradsight.export."),
            option("--weights", metavar="FILE", help="With --model program: its initial weights."),
            option(
                "--train",
                metavar="FILE",
                help="Rows to learn from: CSV, JSON Lines, Parquet, npy, safetensors or tar.",
            ),
            option(
                "--validation", metavar="FILE", help="Rows that choose the checkpoint. Default: split off."
            ),
            option("--test", metavar="FILE", help="Rows that judge the result, once. Default: split off."),
            option("--target", metavar="COLUMN", help="Column with the expected output."),
            option("--text", metavar="COLUMN", help="The one column that a text model reads."),
            option(
                "--input",
                "inputs",
                metavar="COLUMN",
                multiple=True,
                help="Column that the model reads; repeat it.",
            ),
            option("--category", metavar="COLUMN", help="Column by which error is broken down."),
            option(
                "--impact",
                "impacts",
                multiple=True,
                type=Assignment(float),
                help="How much errors in a category count; repeat it.",
            ),
            option("--id", metavar="COLUMN", help="Column with a row's own id."),
            option("--baseline", metavar="JOB", help="Earlier job to judge on the same test rows."),
            option("--from-job", metavar="JOB", help="Earlier job to begin with the weights of."),
            option("--objective", metavar="NAME", help="Loss: cross_entropy, mean_squared_error, …"),
            option("--optimizer", metavar="NAME", help="adamw, sgd, adam, adafactor or muon."),
            option(
                "--schedule", metavar="NAME", help="cosine, constant, linear, one_cycle, step or plateau."
            ),
            option("--precision", metavar="NAME", help="float32, bfloat16 or float16."),
            option(
                "--policy", metavar="NAME", help="On findings: advise (default), repair on trial, or stop."
            ),
            option("--patience", type=int, help="Evaluations without improvement that end the run."),
            option("--epochs", type=int, help="Passes over the training rows."),
            option("--steps", type=int, help="Optimizer steps, instead of epochs."),
            option("--batch-size", type=int, help="Rows in one optimizer step."),
            option("--learning-rate", type=float, help="Largest learning rate."),
            option("--seed", type=int, help="Seed of everything random."),
            option("--name", help="Name of the job, stable over the weeks."),
            option(
                "--label", "labels", multiple=True, type=Assignment(), help="Label for filtering; repeat it."
            ),
            option("--queue", help="Queue to wait in."),
        ]
    ):
        function = decorate(function)
    return function


def _ending_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in reversed(
        [
            option("--request-id", metavar="ID", help="Makes submitting again safe: same id, same job."),
            option(
                "--follow",
                is_flag=True,
                help="Show the job live until it ends. Ctrl-C detaches, the job goes on.",
            ),
            option("--wait", is_flag=True, help="Wait until the job ends, quietly."),
            option(
                "--timeout",
                type=Duration(),
                help="With --follow or --wait: exit 5 after this time, 30m say; the job goes on.",
            ),
            require_option("With --follow or --wait: exit 4 unless the result is so; repeat it."),
        ]
    ):
        function = decorate(function)
    return function


@verb
@_spec_options
@_ending_options
def submit(
    session: Session,
    request_id: str | None,
    follow: bool,
    wait: bool,
    timeout: float | None,
    require: tuple[Requirement, ...],
    **options: Any,
) -> int:
    """Submit a job.

    Model, train and target are enough; flags win over the spec file. Prints the job's id; with --follow or --wait the
    exit code is the outcome: 0 succeeded, 1 failed, 3 cancelled, 4 a requirement is not met, 5 timeout.

    \b
      gradsight submit --model text_classifier --train tickets.csv --text message --target intent --follow
      gradsight submit -f job.yaml --baseline LAST_WEEKS_JOB --wait --timeout 2h --require no-regression
    """  # noqa: D301 (click reads the backspace)
    _check_waiting(timeout, require, follow or wait)
    spec = _spec(**options)
    _check_requirements(require, spec)
    with session.client() as client:
        handle = client.submit(spec, request_id=request_id)
        return _tell(session, handle, follow=follow, wait=wait, timeout=timeout, require=require)


@verb
@click.argument("job_id", metavar="JOB")
@option("--epochs", type=int, help="Passes over the rows, counted from the job's beginning.")
@option("--steps", type=int, help="Optimizer steps, counted from the job's beginning.")
@_ending_options
def extend(
    session: Session,
    job_id: str,
    epochs: int | None,
    steps: int | None,
    request_id: str | None,
    follow: bool,
    wait: bool,
    timeout: float | None,
    require: tuple[Requirement, ...],
) -> int:
    """Go on with a job that succeeded: a new job with its spec, its last training state and a larger budget.

    \b
      gradsight extend LAST_WEEKS_JOB --epochs 20 --follow
    """  # noqa: D301 (click reads the backspace)
    if (epochs is None) == (steps is None):
        raise click.UsageError("say one of --epochs and --steps, counted from the job's beginning")
    _check_waiting(timeout, require, follow or wait)
    with session.client() as client:
        handle = client.job(job_id).extend(epochs=epochs, steps=steps, request_id=request_id)
        return _tell(session, handle, follow=follow, wait=wait, timeout=timeout, require=require)


@verb
@_spec_options
def validate(session: Session, **options: Any) -> int:
    """Check a spec without creating anything.

    Takes what submit takes and prints the spec with the defaults filled in. Files it names are uploaded, since their
    headers are checked too.
    """
    spec = _spec(**options)
    with session.client() as client:
        filled = client.validate(spec)
    if session.json:
        session.document(filled)
    else:
        from gradsight._yaml import dump

        click.echo(dump(dict(filled)), nl=False)
        click.echo("the spec is valid", err=True)
    return Exit.OK


def _check_waiting(timeout: float | None, require: tuple[Requirement, ...], waits: bool) -> None:
    if timeout is not None and not waits:
        raise click.UsageError(
            "--timeout needs --follow or --wait; a job's own limit is budget.timeout in its spec"
        )
    if require and not waits:
        raise click.UsageError("--require needs --follow or --wait; `gradsight wait --require` judges later")


def _check_requirements(require: tuple[Requirement, ...], spec: JobSpec) -> None:
    """Refuses what no result of this spec could meet, before anything is trained."""
    hopeless = [each.text for each in require if each.needs_baseline]
    if hopeless and not spec.get("evaluation", {}).get("baseline"):
        raise click.UsageError(f"--require {hopeless[0]} needs a baseline: name an earlier job by --baseline")


def _tell(
    session: Session,
    handle: JobHandle,
    *,
    follow: bool,
    wait: bool,
    timeout: float | None,
    require: tuple[Requirement, ...],
) -> int:
    """Prints the new job, or follows it to its end."""
    if follow or wait:
        click.echo(f"job {handle.job_id}", err=True)
        job = follow_job(session, handle, quiet=not follow, timeout=timeout)
        results = job.check(require)
        if session.json:
            if not follow:
                session.document(with_requirements(job, results))
            elif results:
                session.line({"job_id": job.job_id, "requirements": results})
        return conclude(session, job, results)
    job = handle.get()
    if session.json:
        session.document(job)
    else:
        click.echo(handle.job_id)
        say_if_nobody_works(job)
        click.echo(f"follow it with `{session.command(f'watch {handle.job_id}')}`", err=True)
    return Exit.OK


def _spec(file: str | None, **options: Any) -> JobSpec:
    files = {name: options.pop(name) for name in ("graph", "weights")}
    if any(files.values()):
        if options["model"] not in (None, "program") or not all(files.values()):
            raise click.UsageError("--graph and --weights go together, with --model program")
        # Paths of flags begin at the working directory, whatever a spec file says.
        options["model"] = {"program": {name: os.path.abspath(path) for name, path in files.items()}}
    pairs = {name: dict(options.pop(name)) or None for name in ("labels", "impacts")}
    inputs = list(options.pop("inputs")) or None
    given: Any = {
        name: value for name, value in {**options, **pairs, "inputs": inputs}.items() if value is not None
    }
    return load_spec(file, **given) if file else JobSpec(**given)
