"""What a report is made of: the spec in words, curves without what was taken back, the record's figures."""

import io
import math
from datetime import UTC, datetime

import numpy as np
import pytest
from google.protobuf import text_format
from google.protobuf.message import Message

from gradsight.v1 import event_pb2, insight_pb2, job_pb2, spec_pb2
from gradsight_service.defaults import with_defaults
from gradsight_service.report_curves import ReportCurves
from gradsight_service.report_data import report_data
from gradsight_service.report_process import frame, render
from gradsight_service.report_spec import row_lines, spec_lines
from gradsight_service.report_words import share_of, word_of

WRITTEN = datetime(2026, 11, 26, tzinfo=UTC)
SPECS = {
    "mlp": "model { builtin { mlp { hidden_sizes: [32, 16] activation: ACTIVATION_TANH } } }"
    ' data { target_column: "y" }',
    "text": "model { builtin { text_classifier {} } }"
    ' data { target_column: "i" input_columns: "t" category_column: "c" }',
    "cnn": 'model { builtin { cnn { channels: [8] } } } data { target_column: "label" }',
    "gpt": "model { builtin { gpt { layers: 2 } } } data {}",
    "program": 'model { program { graph: "g" weights: "w" } } data { target_column: "y" }',
    "recipe": 'model { recipe { name: "hf" options { key: "base" value: "b" } } } data { target_column: "y" }',
}


def spec(text: str) -> spec_pb2.JobSpec:
    return with_defaults(text_format.Parse(text, spec_pb2.JobSpec()))


def collected(*events: event_pb2.JobEvent) -> ReportCurves:
    curves = ReportCurves()
    for event in events:
        curves.add(event)
    return curves


def event(attempt: int, text: str) -> event_pb2.JobEvent:
    parsed = text_format.Parse(text, event_pb2.JobEvent())
    parsed.attempt = attempt
    return parsed


MODEL = 'model_built { layers { path: "a" } layers { index: 1 path: "b" } total_steps: 20 }'


@pytest.mark.parametrize("kind", SPECS)
def test_every_kind_of_model_has_a_spec_in_words(kind: str) -> None:
    lines = dict(spec_lines(spec(SPECS[kind])))
    assert {"Task", "Model", "Optimizer", "On findings"} <= set(lines)
    assert all(lines.values())


def test_options_are_said_with_their_numbers() -> None:
    text = (
        SPECS["mlp"]
        + """
        optimizer { learning_rate: 0.05 sgd { momentum: 0.8 } clipping_disabled: true }
        schedule { warmup_fraction: 0.1 linear {} } budget { epochs: 3 }
        evaluation { baseline_job_id: "old" category_impacts { key: "returns" value: 3 } patience: 4 }
        monitoring { policy: MONITORING_POLICY_REPAIR } objective { huber {} }"""
    )
    lines = dict(spec_lines(spec(text)))
    assert lines["Model"].startswith("mlp: hidden sizes 32, 16; activation tanh")
    assert lines["Task"] == "predict y, by Huber loss"
    assert "SGD, learning rate up to 0.05" in lines["Optimizer"]
    assert "momentum 0.8" in lines["Optimizer"]
    assert "gradients are not clipped" in lines["Optimizer"]
    assert lines["Counts more"] == "errors in returns ×3"
    assert lines["Compared with"] == "job old, on the same test rows"
    assert lines["Length"] == "3 passes over the rows; ends early after 4 evaluations without improvement"
    assert lines["On findings"].startswith("repair on trial")


def test_many_and_long_names_are_bounded() -> None:
    prepared = event_pb2.DataPrepared(classes=[f"{place}" + "x" * 500 for place in range(900)])
    classes = dict(row_lines(prepared, spec_pb2.ObjectiveSpec()))["Classes"]
    assert classes.startswith("900: ")
    assert classes.endswith("and 888 more")
    assert len(classes) < 1500


def test_numbers_have_no_classes() -> None:
    numbers = spec_pb2.ObjectiveSpec(mean_squared_error=spec_pb2.MeanSquaredError())
    assert row_lines(event_pb2.DataPrepared(classes=["price"]), numbers) == ()


def test_points_that_a_later_attempt_repeats_are_dropped() -> None:
    curves = collected(
        event(1, "attempt_started {}"),
        event(1, MODEL),
        event(
            1,
            "steps_recorded { first_step: 1 loss: [1, 2, 3, 4] probes { step: 2 layer_gradient_rms: [1, 2] } }",
        ),
        event(
            1, "steps_recorded { first_step: 5 loss: [nan, 6] probes { step: 5 layer_gradient_rms: [3, 4] } }"
        ),
        event(1, "evaluation_completed { split: SPLIT_VALIDATION step: 5 loss: 9 error_ratio: 0.9 }"),
        event(2, "attempt_started { resumed_at_step: 3 }"),
        event(
            2,
            "steps_recorded { first_step: 4 loss: [40, 50] probes { step: 5 layer_gradient_rms: [30, 40] } }",
        ),
        event(2, "evaluation_completed { split: SPLIT_VALIDATION step: 5 loss: 7 error_ratio: 0.7 }"),
        event(2, 'evaluation_completed { split: SPLIT_VALIDATION step: 5 loss: 1 baseline_job_id: "old" }'),
        event(2, "evaluation_completed { split: SPLIT_TEST step: 5 loss: 1 }"),
    )
    loss = curves.curve("train_loss")
    assert loss.steps.tolist() == [1, 2, 3, 4, 5]
    assert loss.values.tolist() == [1, 2, 3, 40, 50]
    assert curves.probes().steps.tolist() == [2, 5]
    assert curves.probes().gradient_rms.tolist() == [[1, 2], [30, 40]]
    assert np.isnan(curves.probes().update_ratio).all()
    assert curves.curve("validation_loss").values.tolist() == [7]
    assert curves.curve("validation_figure").values.tolist() == [0.7]


def test_a_repair_has_its_outcome_and_one_that_was_taken_back_by_a_resume_is_gone() -> None:
    applied = """mitigation_applied {{ mitigation_id: "{0}" finding_id: "f" step: {1} trial: true
        action: MITIGATION_ACTION_ROLL_BACK description: "back to step 3" }}"""
    curves = collected(
        event(1, "attempt_started {}"),
        event(1, applied.format("m-1", 5)),
        event(1, applied.format("m-2", 8)),
        event(1, 'mitigation_kept { mitigation_id: "m-1" step: 7 }'),
        event(1, applied.format("m-3", 12)),
        event(1, 'mitigation_reverted { mitigation_id: "m-2" step: 9 message: "no better" }'),
        event(1, 'mitigation_reverted { mitigation_id: "unknown" step: 9 }'),
        event(2, "attempt_started { resumed_at_step: 10 }"),
    )
    told = [(repair.mitigation_id, repair.outcome, repair.message) for repair in curves.mitigations()]
    assert told == [("m-1", "kept", ""), ("m-2", "reverted", "no better")]
    assert curves.mitigations()[0].action == "roll_back"


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ("error_ratio: 0.2", "error", 0.2),
        ("error_ratio: 0.2 perplexity: 8", "perplexity", 8),
        ("root_mean_square_error: 3", "root mean square error", 3),
    ],
)
def test_the_held_out_figure_fits_the_answers(fields: str, name: str, value: float) -> None:
    curves = collected(
        event(1, f"evaluation_completed {{ split: SPLIT_VALIDATION step: 1 loss: 1 {fields} }}")
    )
    assert curves.figure_name == name
    assert curves.curve("validation_figure").values.tolist() == [value]


def test_an_error_of_tokens_has_no_interval_over_rows() -> None:
    job = job_pb2.Job(job_id="j")
    job.summary.test.CopyFrom(
        event_pb2.EvaluationCompleted(examples=10, loss=1, error_ratio=0.5, perplexity=2.7, step=1)
    )
    data = report_data(job, [], ReportCurves(), written=WRITTEN, version="0")
    assert data.test is not None
    assert data.test.error is None
    assert data.test.perplexity == 2.7


def test_words_of_a_newer_contract_are_unknown() -> None:
    assert word_of(insight_pb2.RunVerdict(verdict=insight_pb2.VERDICT_OVERFIT), "verdict") == "overfit"
    assert word_of(insight_pb2.RunVerdict(verdict=99), "verdict") == "unknown"  # type: ignore[arg-type]


@pytest.mark.parametrize(("ratio", "examples"), [(0.0, 1), (1.0, 3), (1 / 3, 900), (0.2222, 9)])
def test_a_share_lies_in_its_interval(ratio: float, examples: int) -> None:
    share = share_of(ratio, examples)
    assert 0 <= share.lower <= share.ratio <= share.upper <= 1


def test_frames_are_rendered_and_a_torn_one_is_refused() -> None:
    job = job_pb2.Job(job_id="j-1", spec=spec(SPECS["mlp"]))
    found = insight_pb2.Finding(finding_id="plateau-1", kind="plateau", explanation="x" * 5000, open=True)
    found.evidence.add(name="slope", observed=math.nan)
    messages: list[tuple[bytes, Message]] = [(b"e", event(1, MODEL)), (b"f", found), (b"j", job)]
    sent = b"".join(frame(letter, message) for letter, message in messages)
    text = render(io.BytesIO(sent), "markdown", written=WRITTEN).decode()
    assert "Job `j-1`" in text
    assert "Plateau" in text
    assert "x" * 1999 + "…" in text
    with pytest.raises(ValueError, match="bytes of"):
        render(io.BytesIO(sent[:-1]), "markdown", written=WRITTEN)
    with pytest.raises(ValueError, match="allowed e, f, j"):
        render(io.BytesIO(b"x" + sent[1:]), "markdown", written=WRITTEN)
