"""How a command ends: the exit codes, and what an error says to the person who reads it."""

import enum

import click

from gradsight._enums import JobState
from gradsight._errors import (
    DeadlineExceeded,
    GradsightError,
    InvalidRequest,
    InvalidSpec,
    JobCancelled,
    MissingExtra,
    NotFound,
    NotSupportedYet,
    RequestIdReused,
    ServiceUnreachable,
    StoreUnavailable,
    Unavailable,
    WaitTimeout,
)


class Exit(enum.IntEnum):
    """Exit codes of every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CANCELLED = 3
    REQUIREMENT_NOT_MET = 4
    TIMEOUT = 5
    UNREACHABLE = 6
    DETACHED = 130


_CODES: tuple[tuple[type[GradsightError], Exit], ...] = (
    (Unavailable, Exit.UNREACHABLE),
    (DeadlineExceeded, Exit.UNREACHABLE),
    (WaitTimeout, Exit.TIMEOUT),
    (JobCancelled, Exit.CANCELLED),
    (InvalidSpec, Exit.USAGE),
    (InvalidRequest, Exit.USAGE),
    (NotSupportedYet, Exit.USAGE),
    (NotFound, Exit.USAGE),
    (RequestIdReused, Exit.USAGE),
    (MissingExtra, Exit.USAGE),
)

_HINTS: tuple[tuple[type[GradsightError], str], ...] = (
    (
        ServiceUnreachable,
        "Start one with `gradsight up`, or name another with --address or GRADSIGHT_ADDRESS.",
    ),
    (
        StoreUnavailable,
        "The service runs, its store does not answer: `gradsight status` shows more, or ask the operator.",
    ),
    (DeadlineExceeded, "The service is reachable but slow; try again."),
    (RequestIdReused, "Use a new --request-id for a new spec, or leave it out."),
)

# The flag that sets a field, by the field's path in the contract and in a spec file.
_FLAGS = {
    "name": "--name",
    "labels": "--label",
    "queue": "--queue",
    "seed": "--seed",
    "model": "--model",
    "model.program.graph": "--graph",
    "model.program.weights": "--weights",
    "data.train": "--train",
    "data.validation": "--validation",
    "data.test": "--test",
    "data.target_column": "--target",
    "data.target": "--target",
    "data.input_columns": "--input or --text",
    "data.inputs": "--input or --text",
    "data.category_column": "--category",
    "data.category": "--category",
    "data.id_column": "--id",
    "data.id": "--id",
    "data.batch_size": "--batch-size",
    "budget.epochs": "--epochs",
    "budget.steps": "--steps",
    "objective": "--objective",
    "optimizer": "--optimizer",
    "optimizer.learning_rate": "--learning-rate",
    "schedule": "--schedule",
    "compute.precision": "--precision",
    "start.weights_job_id": "--from-job",
    "start.from_job": "--from-job",
    "monitoring.policy": "--policy",
    "evaluation.patience": "--patience",
    "evaluation.baseline_job_id": "--baseline",
    "evaluation.baseline": "--baseline",
    "evaluation.category_impacts": "--impact",
}


def outcome_of(state: JobState) -> Exit:
    """Returns the exit code for a job that ended in `state`."""
    return {JobState.SUCCEEDED: Exit.OK, JobState.CANCELLED: Exit.CANCELLED}.get(state, Exit.FAILED)


def exit_code(error: GradsightError) -> Exit:
    """Returns the exit code for an error."""
    return next((code for cls, code in _CODES if isinstance(error, cls)), Exit.FAILED)


def report(error: GradsightError) -> None:
    """Says on stderr what happened and what to do, in a line or two and one line per wrong field."""
    fields = getattr(error, "fields", ())
    if fields:
        what = "not supported yet" if isinstance(error, NotSupportedYet) else "the spec is wrong"
        click.echo(f"gradsight: {what}", err=True)
        for field, message in fields:
            click.echo(f"  {field}{_flag(field)}: {message}", err=True)
    else:
        click.echo(f"gradsight: {error.message}", err=True)
    for cls, hint in _HINTS:
        if isinstance(error, cls):
            click.echo(hint, err=True)


def _flag(field: str) -> str:
    """Returns the flag behind a field or behind what the field is part of, in brackets; nothing where there is none."""
    while field:
        if field in _FLAGS:
            return f" ({_FLAGS[field]})"
        field = field.rpartition(".")[0] if "." in field else field.partition("[")[0] if "[" in field else ""
    return ""
