"""The live view of a run, on a terminal."""

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gradsight._enums import JobState
from gradsight._errors import GradsightError
from gradsight._events import JobEvent
from gradsight._figures import count, nonfinite, number, span, sparkline
from gradsight.cli._headline import Headline
from gradsight.cli._insight import (
    EFFICACY_STYLES,
    SEVERITIES,
    SEVERITY_STYLES,
    VERDICT_STYLES,
    finding_line,
    verdict_words,
    words,
)
from gradsight.cli._run import METRICS, Run, newest

if TYPE_CHECKING:
    from gradsight._client import JobHandle

STATE_STYLES = {
    JobState.QUEUED: "yellow",
    JobState.RUNNING: "cyan",
    JobState.CANCELLING: "yellow",
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "red",
    JobState.CANCELLED: "yellow",
}
_CURVE_WIDTH = 40
_SHOWN_FINDINGS = 4


class LiveView:
    """Draws a run while its events come in; the last picture stays on the screen."""

    def __init__(self, handle: "JobHandle", console: Console | None = None) -> None:
        job = handle.get()
        curves = handle.history(METRICS, max_points=300) if job.progress else ()
        self._run = Run(job, curves, handle.findings(open_only=True) if job.findings else ())
        # Events come in on the caller's thread, pictures are drawn on the display's own.
        self._lock = threading.Lock()
        self._console = console or Console(highlight=False)
        self._live = Live(get_renderable=self._draw, console=self._console, refresh_per_second=8)
        self._stop = threading.Event()
        self._poller = threading.Thread(target=self._ask_why_it_waits, args=(handle,), daemon=True)

    @property
    def sequence(self) -> int:
        """Sequence of the newest event that is shown."""
        return self._run.sequence

    def take(self, event: JobEvent) -> None:
        """Shows one more event."""
        with self._lock:
            self._run.take(event)

    def __enter__(self) -> Self:
        self._live.start()
        self._poller.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._live.stop()

    def _ask_why_it_waits(self, handle: "JobHandle") -> None:
        """The reason for waiting is no event: it changes with the workers, so it has to be asked for."""
        while not self._stop.wait(2):
            if self._run.state is not JobState.QUEUED:
                continue
            try:
                waiting = handle.get().waiting
            except GradsightError:
                continue
            with self._lock:
                self._run.waiting = waiting.message if waiting else self._run.waiting

    def _draw(self) -> RenderableType:
        with self._lock:
            return draw(self._run, self._console.width, self._console.height)


def draw(run: Run, width: int, height: int) -> RenderableType:
    """Returns the picture of a run, not taller than `height` lines; curves take what `width` leaves them."""
    curve = max(16, min(_CURVE_WIDTH, width - 58))
    parts: list[RenderableType] = [_head(run), _progress(run, curve)]
    if run.loss:
        parts += [Text(), _curves(run, curve)]
    insight = [*_verdict(run), *_findings(run)]
    if insight:
        parts += [Text(), *insight]
    room = height - 13 - len(run.news) - (len(insight) + 1 if insight else 0)
    if run.layers and room > 2:
        parts += [Text(), _layers(run, room, curve)]
    if run.news:
        parts += [Text(), *(_line(line, "dim") for line in run.news)]
    return Group(*parts)


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _head(run: Run) -> Text:
    head = Text(no_wrap=True, overflow="ellipsis")
    if run.name:
        head.append(f"{run.name}  ", style="bold")
    head.append(f"{run.job_id}  ", style="dim" if run.name else "bold")
    head.append(str(run.state), style=STATE_STYLES.get(run.state, ""))
    if run.waiting:
        head.append(f": {run.waiting}")
    elif run.place:
        head.append(f" on {run.place}", style="dim")
        if run.attempt > 1:
            head.append(f", attempt {run.attempt}", style="yellow")
    return head


def _progress(run: Run, width: int) -> RenderableType:
    if not run.total_steps:
        return Text("preparing …" if run.state is JobState.RUNNING else "", style="dim")
    facts = [f"step {run.step:,}/{run.total_steps:,}", f"epoch {run.epoch:.1f}"]
    if run.rows_per_second:
        facts.append(f"{count(run.rows_per_second)} rows/s")
    if run.seconds_left is not None and run.state is JobState.RUNNING:
        facts.append(f"{span(run.seconds_left)} left")
    line = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=run.total_steps, completed=run.step, width=width)
    line.add_row(bar, f"{run.step / run.total_steps:>4.0%}", Text(" · ".join(facts), style="dim"))
    return line


def _curves(run: Run, width: int) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", min_width=18)
    table.add_column(justify="right", min_width=9)
    table.add_column(style="cyan", no_wrap=True, min_width=width)
    table.add_column(style="dim", no_wrap=True, overflow="ellipsis")
    rate = f"learning rate {number(run.learning_rate)}"
    bad = nonfinite(run.nonfinite_steps) if run.nonfinite_steps else ""
    table.add_row("loss", number(newest(run.loss)), sparkline([*run.loss], width), Text(bad, style="red"))
    norm = sparkline([*run.gradient_norm], width, logarithmic=True)
    table.add_row("gradient norm", number(newest(run.gradient_norm)), norm, rate)
    if run.validation:
        headline = Headline.of(run.validation)
        best = f"best {Headline.of(run.kept).figure} at step {run.kept.step:,}" if run.kept else ""
        curve = sparkline([*run.headline], width)
        table.add_row(f"validation {headline.name}", headline.figure, curve, best)
    if run.gain_ratio is not None:
        said = words(run.efficacy.verdict) if run.efficacy and run.efficacy.verdict else "gain ratio"
        style = EFFICACY_STYLES.get(run.efficacy.verdict, "") if run.efficacy and run.efficacy.verdict else ""
        curve = sparkline([*run.gain_ratios], width)
        table.add_row("updates", number(run.gain_ratio), curve, Text(said, style=style))
    return table


def _verdict(run: Run) -> list[RenderableType]:
    if run.verdict is None:
        return []
    line = _line("").append(f"{'verdict':<18}  ", "bold")
    line.append(verdict_words(run.verdict), VERDICT_STYLES.get(run.verdict.verdict, ""))
    return [line.append(f": {run.verdict.reason}" if run.verdict.reason else "")]


def _findings(run: Run) -> list[RenderableType]:
    """First causes that are open, the worst first; how many more there are."""
    causes = [each for each in run.findings.values() if each.cause_finding_id not in run.findings]
    causes.sort(key=lambda each: (-SEVERITIES.index(each.severity), each.first_step))
    lines: list[RenderableType] = []
    for each in causes[:_SHOWN_FINDINGS]:
        line = _line("").append(f"{each.severity:<18}  ", f"bold {SEVERITY_STYLES.get(each.severity, '')}")
        lines.append(line.append(finding_line(each)))
    more = len(run.findings) - len(lines)
    if more > 0:
        lines.append(_line(f"{'':<18}  {more} more: gradsight findings {run.job_id} --open", "dim"))
    return lines


def _layers(run: Run, room: int, width: int) -> Table:
    """Gradient norm by layer, on one logarithmic scale per layer; the first and last layers when not all have room."""
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=18, max_width=30, no_wrap=True, overflow="ellipsis")
    table.add_column(justify="right", min_width=9)
    table.add_column(style="magenta", no_wrap=True, min_width=width)
    table.add_column(style="dim", no_wrap=True)
    table.add_row(Text("gradient norm by layer", style="bold"))
    layers, hidden = run.layers, 0
    if len(layers) > room - 1:
        half = max(1, (room - 2) // 2)
        hidden = len(layers) - 2 * half
    for place, layer in enumerate(layers):
        if hidden and half <= place < half + hidden:
            if place == half:
                table.add_row(Text(f"… {hidden} more", style="dim"))
            continue
        norms = [*run.layer_norms.get(layer.path, ())]
        curve = sparkline(norms, width, logarithmic=True)
        table.add_row(layer.path, number(newest(norms)) if norms else "–", curve, layer.kind)
    return table
