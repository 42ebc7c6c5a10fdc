"""The root command: names every verb, loads only the one that is called, and turns errors into exit codes."""

import importlib
import importlib.metadata
import os
import sys
from typing import Any

import click

from gradsight._version import __version__

# Module and function, and the line that `--help` shows.
_OWN = {
    "demo": (
        "gradsight.cli.demo:demo",
        "Train last week's and this week's model on this machine, from nothing.",
    ),
    "submit": (
        "gradsight.cli.submit:submit",
        "Submit a job; --follow shows it live, --wait waits for its end.",
    ),
    "validate": ("gradsight.cli.submit:validate", "Check a spec without creating anything."),
    "extend": ("gradsight.cli.submit:extend", "Go on with a job that succeeded, for longer."),
    "jobs": (
        "gradsight.cli.jobs:jobs",
        "List jobs, newest first; --follow shows their states as they change.",
    ),
    "show": ("gradsight.cli.jobs:show", "Show a job on one page; without one, the service at a glance."),
    "watch": ("gradsight.cli.watch:watch", "Follow a job live: loss, gradients by layer, held-out error."),
    "logs": ("gradsight.cli.watch:logs", "Print what happened to a job, line by line."),
    "history": ("gradsight.cli.history:history", "Print curves of a job."),
    "findings": ("gradsight.cli.findings:findings", "Print what the service found in a run, and what to do."),
    "compare": ("gradsight.cli.compare:compare", "Compare the models of two jobs, old against new."),
    "report": ("gradsight.cli.report:report", "Write a report about a job, as one file."),
    "wait": ("gradsight.cli.jobs:wait", "Wait for jobs to end; the exit code is the outcome."),
    "cancel": ("gradsight.cli.jobs:cancel", "Ask jobs to end."),
    "download": ("gradsight.cli.download:download", "Fetch the files of a job's result."),
    "recipes": ("gradsight.cli.recipes:recipes", "List the recipes that the workers have."),
    "version": ("gradsight.cli.version:version", "Print the versions of this client and of the service."),
}
# Verbs that other packages register: the extra that brings each, and its line.
_OTHERS = {
    "up": ("all", "Start store, service, exporter and a worker per device on this machine."),
    "down": ("all", "Stop what `up -d` started."),
    "status": ("all", "Show what `up` runs, and whether it is well."),
    "serve": ("service", "Run the service alone."),
    "exporter": ("service", "Run the Prometheus exporter alone."),
    "worker": ("worker", "Run one worker on one device."),
}
_SECTIONS = {
    "Start": ("demo", "up", "down", "status"),
    "Jobs": (
        "submit",
        "validate",
        "extend",
        "jobs",
        "show",
        "watch",
        "logs",
        "history",
        "findings",
        "compare",
        "report",
        "wait",
        "cancel",
        "download",
        "recipes",
    ),
    "Parts": ("serve", "exporter", "worker"),
}


def run(arguments: list[str]) -> int:
    """Runs one command line and returns its exit code; everything that can go wrong is said on stderr."""
    try:
        outcome = root.main(arguments, prog_name="gradsight", standalone_mode=False)
        sys.stdout.flush()
        return outcome if isinstance(outcome, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): nothing to say and nowhere to say it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        from gradsight._errors import GradsightError
        from gradsight.cli._outcome import exit_code, report

        if not isinstance(error, GradsightError):
            raise
        report(error)
        return exit_code(error)


class _Root(click.Group):
    """A group whose verbs are known by name and loaded when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*_OWN, *_OTHERS, *_registered()})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in _OWN:
            module, attribute = _OWN[name][0].split(":")
            return _load(name, module, attribute)
        entry = _registered().get(name)
        if entry is not None:
            return _load(name, entry.module, entry.attr)
        if name in _OTHERS:
            raise click.UsageError(_missing(name, "it is not installed"))
        return None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        import difflib

        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            if near and "No such command" in error.message:
                raise click.UsageError(f"no such command: {args[0]}; did you mean {near[0]}?", ctx) from None
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        lines = {name: line for name, (_, line) in {**_OWN, **_OTHERS}.items()}
        names = self.list_commands(ctx)
        grouped = {name for members in _SECTIONS.values() for name in members}
        sections = {**_SECTIONS, "More": tuple(name for name in names if name not in grouped)}
        for title, members in sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, lines.get(name, "")) for name in members if name in names])


def _registered() -> dict[str, importlib.metadata.EntryPoint]:
    return {entry.name: entry for entry in importlib.metadata.entry_points(group="gradsight.commands")}


def _load(name: str, module: str, attribute: str) -> click.Command:
    try:
        command = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise click.UsageError(_missing(name, f"no module {error.name}")) from None
    assert isinstance(command, click.Command), f"{module}:{attribute} is a verb"
    return command


def _missing(name: str, why: str) -> str:
    extra = _OTHERS[name][0] if name in _OTHERS else "cli"
    return f"`gradsight {name}` cannot run here ({why}); it comes with: pip install 'gradsight[{extra}]'"


@click.command(cls=_Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gradsight", message="%(prog)s %(version)s")
def root() -> None:
    """Training as a service that tells you whether the model is really learning."""
