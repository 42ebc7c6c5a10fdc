"""What every verb shares: its connection, its output format, and flags that the environment can set."""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from gradsight._plain import parse_duration, plain

if TYPE_CHECKING:
    from gradsight._client import Client
    from gradsight._requirements import Requirement


class Session:
    """One run of a verb: where the service is and how to print."""

    def __init__(self, address: str | None, output: str, given: bool) -> None:
        self.json = output == "json"
        self.address = address
        self._given = given

    @contextlib.contextmanager
    def client(self, call_attempts: int = 4) -> Iterator["Client"]:
        """Yields a connected client; it gives up on an absent service sooner than the SDK, as a person waits."""
        from gradsight import Client, Patience

        with Client(self.address, patience=Patience(call_attempts=call_attempts)) as client:
            yield client

    def command(self, verb: str) -> str:
        """Returns a command line that reaches the same service."""
        return f"gradsight {verb}" + (f" --address {self.address}" if self._given else "")

    def document(self, value: Any) -> None:
        """Prints one JSON document, laid out for people too."""
        click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False))

    def line(self, value: Any) -> None:
        """Prints one JSON line of a stream."""
        click.echo(json.dumps(plain(value), ensure_ascii=False))


def verb(function: Callable[..., Any]) -> click.Command:
    """Makes a command of a function that takes a Session and its options."""

    @functools.wraps(function)
    def run(address: str | None, output: str, **arguments: Any) -> Any:
        source = click.get_current_context().get_parameter_source("address")
        given = source is click.core.ParameterSource.COMMANDLINE
        return function(Session(address, output, given), **arguments)

    decorated = option("--address", metavar="HOST:PORT", help="The service. Default: 127.0.0.1:7117.")(run)
    decorated = option(
        "--format",
        "output",
        type=click.Choice(["text", "json"]),
        default="text",
        help="Text for people, or JSON; streams are JSON lines.",
    )(decorated)
    settings = {"help_option_names": ["-h", "--help"]}
    command = click.command(function.__name__, context_settings=settings)(decorated)
    # What all verbs share stands behind what a verb is about.
    command.params = [*command.params[2:], *command.params[:2]]
    return command


def option(*names: str, **attributes: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declares an option that `GRADSIGHT_<FLAG>` can set, too."""
    long = next(name for name in names if name.startswith("--")).split("/")[0]
    variable = "GRADSIGHT_" + long.removeprefix("--").replace("-", "_").upper()
    return click.option(*names, envvar=variable, **attributes)


def require_option(help_text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declares `--require`, which can be repeated."""
    return option("--require", metavar="CONDITION", multiple=True, type=Condition(), help=help_text)


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic in new versions only
    """A duration such as `30m`; the value is in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return parse_duration(value) / 1e9
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Condition(click.ParamType):  # type: ignore[type-arg]
    """A requirement on a result, `no-regression` say; refused before anything is done."""

    name = "condition"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "Requirement":
        from gradsight._errors import InvalidRequest
        from gradsight._requirements import Requirement

        if isinstance(value, Requirement):
            return value
        try:
            return Requirement.parse(value)
        except InvalidRequest as error:
            self.fail(error.message.removeprefix("require: "), param, ctx)


class Assignment(click.ParamType):  # type: ignore[type-arg]
    """`name=value`; the value is a pair."""

    name = "name=value"

    def __init__(self, kind: Callable[[str], Any] = str) -> None:
        self._kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        name, separator, text = value.partition("=")
        try:
            if not name or not separator:
                raise ValueError
            return name, self._kind(text)
        except ValueError:
            form = "name=3" if self._kind is float else "name=value"
            self.fail(f"got {value!r}, allowed: {form}", param, ctx)
