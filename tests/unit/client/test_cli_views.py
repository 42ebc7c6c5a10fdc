"""What people see: figures, curves, and the live picture of a run."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import gradsight
from gradsight import _figures as figures
from gradsight.cli._live import LiveView, draw
from gradsight.cli._root import _OTHERS, _OWN, root
from gradsight.cli._run import Run
from gradsight.v1 import event_pb2, job_pb2, state_pb2

if TYPE_CHECKING:
    from tests.unit.client.conftest import LittleService

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.41234, "0.4123"), (1.2e-5, "1.20e-05"), (0, "0"), (None, "–"), (math.nan, "NaN"), (-math.inf, "−∞")],
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert figures.number(value) == text


def test_counts_sizes_and_spans_read_as_people_say_them() -> None:
    assert [figures.count(value) for value in (950, 12_400, 3_100_000)] == ["950", "12.4k", "3.1M"]
    assert [figures.size(value) for value in (512, 4_200_000, 5_000_000_000)] == ["512 B", "4.2 MB", "5.0 GB"]
    spans = [figures.span(value) for value in (0.42, 42, 72, 11_100, 200_000)]
    assert spans == ["0.4s", "42s", "1m12s", "3h05m", "2d07h"]
    assert [figures.points(value) for value in (-0.049, 0.01, 0.0, -0.0001)] == ["−4.9", "+1.0", "0.0", "0.0"]


def test_a_curve_keeps_its_shape_when_it_is_squeezed() -> None:
    assert figures.sparkline([8, 7, 6, 5, 4, 3, 2, 1], 8) == "█▇▆▅▄▃▂▁"
    assert figures.sparkline(range(800), 8) == "▁▂▃▄▅▆▇█"
    assert figures.sparkline([1, 10, 100, 1000], 4, logarithmic=True) == "▁▃▆█"


def test_a_step_that_was_not_finite_shows_in_the_curve() -> None:
    assert figures.sparkline([1.0, math.nan, 2.0, math.inf], 4) == "▁×█×"


def test_a_flat_curve_is_drawn_flat() -> None:
    assert figures.sparkline([0.5, 0.5 + 1e-9, 0.5], 3) == "▁▁▁"


@given(st.lists(st.floats(), max_size=200), st.integers(1, 60), st.booleans())
def test_any_curve_can_be_drawn(values: list[float], width: int, logarithmic: bool) -> None:
    assert len(figures.sparkline(values, width, logarithmic=logarithmic)) == min(width, len(values))


@given(st.floats(), st.floats())
def test_any_bar_fits(value: float, largest: float) -> None:
    assert len(figures.bar(value, largest, 10)) <= 10


def _live_run(service: "LittleService", layers: int = 3) -> None:
    service.add_job("job1", name="intents")
    service.change("job1", state_pb2.JOB_STATE_RUNNING)
    service.append("job1", attempt_started=event_pb2.AttemptStarted(worker_id="w1", device="cuda:0"))
    parts = [event_pb2.Layer(index=index, path=f"hidden.{index}", kind="Linear") for index in range(layers)]
    model = event_pb2.ModelBuilt(architecture="mlp", layers=parts, total_steps=100, steps_per_epoch=20)
    service.append("job1", model_built=model)
    for batch in range(4):
        steps = event_pb2.StepsRecorded(
            first_step=batch * 10 + 1,
            loss=[4.0 - batch] * 10,
            gradient_norm=[2.0] * 10,
            learning_rate=[0.1] * 10,
            probes=[event_pb2.Probe(step=batch * 10 + 10, layer_gradient_norm=[0.5] * layers)],
            samples_total=(batch + 1) * 640,
            training_seconds=(batch + 1) * 2.0,
        )
        service.append("job1", steps_recorded=steps)
    for error, kept in ((0.5, True), (0.25, True)):
        evaluation = event_pb2.EvaluationCompleted(
            split=state_pb2.SPLIT_VALIDATION, step=40, epoch=2, examples=10, error_ratio=error, kept=kept
        )
        service.append("job1", evaluation_completed=evaluation)


def _picture(run: Run, height: int = 40) -> str:
    console = Console(width=110, height=height, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(draw(run, 110, height))
    return console.export_text()


def _replayed(service: "LittleService") -> Run:
    with gradsight.Client(service.address) as client:
        handle = client.job("job1")
        run = Run(handle.get(), ())
        for event in handle.events():
            run.take(event)
        return run


def test_the_live_picture_shows_progress_curves_layers_and_time_to_go(service: "LittleService") -> None:
    _live_run(service)
    picture = _picture(_replayed(service))
    for part in ("intents", "running", "cuda:0 of w1", " 40%", "step 40/100", "320 rows/s", "12s left"):
        assert part in picture
    for part in ("loss", "gradient norm by layer", "hidden.2", "25.0 %", "best 25.0 % at step 40"):
        assert part in picture


def test_many_layers_leave_room_for_the_rest_of_the_picture(service: "LittleService") -> None:
    _live_run(service, layers=32)
    picture = _picture(_replayed(service), height=24)
    assert len(picture.splitlines()) <= 24
    assert "hidden.0" in picture
    assert "hidden.31" in picture
    assert re.search(r"… \d+ more", picture)


@pytest.mark.parametrize(
    ("figures", "parts"),
    [
        (
            {"root_mean_square_error": 2.5, "mean_absolute_error": 2.0},
            ("validation RMSE", "2.5", "best 2.5 at step"),
        ),
        ({"perplexity": 12.5, "error_ratio": 0.6}, ("validation perplexity", "12.5", "best 12.5 at step 40")),
    ],
)
def test_the_live_picture_has_the_figure_that_fits_the_answers(
    service: "LittleService", figures: dict[str, Any], parts: tuple[str, ...]
) -> None:
    _live_run(service)
    evaluation = event_pb2.EvaluationCompleted(
        split=state_pb2.SPLIT_VALIDATION, step=40, epoch=2, examples=10, kept=True, **figures
    )
    service.append("job1", evaluation_completed=evaluation)
    picture = _picture(_replayed(service))
    assert all(part in picture for part in parts)


def test_a_rewound_attempt_begins_earlier_and_a_stopped_run_is_all_done(service: "LittleService") -> None:
    _live_run(service)
    rewound = event_pb2.AttemptRewound(resumed_at_step=10, message="step 20 is damaged")
    service.append("job1", attempt=2, attempt_rewound=rewound)
    run = _replayed(service)
    assert (run.step, run.attempt) == (10, 2)
    assert run.news[-1].endswith("begins after step 10 instead: step 20 is damaged")
    service.append("job1", training_stopped=event_pb2.TrainingStopped(step=40, message="enough"))
    assert _replayed(service).total_steps == 40


def test_a_resumed_attempt_goes_back_to_its_step_and_measures_its_pace_anew(service: "LittleService") -> None:
    _live_run(service)
    started = event_pb2.AttemptStarted(worker_id="w2", device="cpu", resumed_at_step=20)
    service.append("job1", attempt=2, attempt_started=started)
    run = _replayed(service)
    assert (run.step, run.attempt, run.place) == (20, 2, "cpu of w2")
    assert "attempt 2" in _picture(run)


def test_a_job_that_waits_says_why(service: "LittleService") -> None:
    job = service.add_job("job1")
    job.waiting.reason = job_pb2.WAITING_REASON_NO_WORKER
    job.waiting.message = "no worker of class cuda is alive"
    with gradsight.Client(service.address) as client:
        assert "queued: no worker of class cuda is alive" in _picture(Run(client.job("job1").get(), ()))


def test_the_live_view_draws_on_a_terminal_and_leaves_the_last_picture(
    service: "LittleService", tmp_path: Path
) -> None:
    _live_run(service)
    service.change("job1", state_pb2.JOB_STATE_SUCCEEDED)
    with (tmp_path / "screen").open("w") as file, gradsight.Client(service.address) as client:
        console = Console(file=file, force_terminal=True, width=110, height=40)
        with LiveView(client.job("job1"), console) as view:
            for event in client.job("job1").watch():
                view.take(event)
    assert "succeeded" in (tmp_path / "screen").read_text()
    assert view.sequence == len(service.logs["job1"])


def _commands() -> list[tuple[str, click.Command]]:
    context = click.Context(root)
    found = [(name, root.get_command(context, name)) for name in _OWN]
    return [(name, command) for name, command in found if command is not None]


def test_every_verb_and_every_option_is_documented() -> None:
    page = (DOCS / "cli.md").read_text()
    sections = dict(re.findall(r"^### `gradsight (\w+).*?`\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL))
    for name, command in _commands():
        assert name in sections, f"docs/cli.md has no section on {name}"
        for option in command.params:
            if isinstance(option, click.Option) and option.name not in ("address", "output"):
                for flag in option.opts:
                    assert f"`{flag}" in sections[name] or name in ("validate",), f"{name} {flag}"
    for name in _OTHERS:
        assert f"`{name}`" in page


def test_every_flag_of_a_spec_is_named_where_its_field_is_wrong() -> None:
    from gradsight.cli._outcome import _FLAGS

    named = {flag for flags in _FLAGS.values() for flag in flags.split(" or ")}
    submit = dict(_commands())["submit"]
    flags = {option.opts[-1] for option in submit.params if isinstance(option, click.Option)}
    of_the_verb = {
        "--file",
        "--request-id",
        "--follow",
        "--wait",
        "--timeout",
        "--require",
        "--address",
        "--format",
    }
    assert named == flags - of_the_verb


def test_every_exit_code_is_documented() -> None:
    from gradsight.cli._outcome import Exit

    page = (DOCS / "cli.md").read_text()
    for code in Exit:
        assert f"| {code.value} |" in page, code


def test_every_verb_of_the_clients_and_every_exception_is_documented() -> None:
    page = (DOCS / "sdk.md").read_text()
    for cls in (gradsight.Client, gradsight.JobHandle):
        for name in vars(cls):
            assert name.startswith("_") or f"`{name}" in page or f".{name}(" in page, f"{cls.__name__}.{name}"
    for name in gradsight.__all__:
        value = getattr(gradsight, name)
        if isinstance(value, type) and issubclass(value, gradsight.GradsightError):
            assert f"`{name}`" in page or name in page, name
