"""A spec is refused with every field that is wrong: its path, what was got and what is allowed."""

import pytest
from google.protobuf import text_format
from tests.unit.service.broken_specs import BROKEN, DIGEST

from gradsight._reasons import Reason
from gradsight.v1 import spec_pb2
from gradsight_service.errors import Violation
from gradsight_service.limits import LIMITS
from gradsight_service.validation import spec_violations

MODEL = "model { builtin { mlp {} } }"
TRAIN = f'train {{ artifact: "{DIGEST}" }}'
SOUND = f'{MODEL} data {{ {TRAIN} target_column: "label" }}'
SOUND_LANGUAGE = f"model {{ builtin {{ gpt {{}} }} }} data {{ {TRAIN} }}"


def violations_of(*parts: str) -> list[Violation]:
    """Violations of the spec that the parts, in protobuf's text format, add up to."""
    spec = spec_pb2.JobSpec()
    for part in parts:
        text_format.Merge(part, spec)
    return spec_violations(spec)


@pytest.mark.parametrize(
    "model",
    [
        "builtin { text_classifier {} }",
        "builtin { text_transformer {} }",
        "builtin { cnn {} }",
        f'program {{ graph: "{DIGEST}" weights: "{DIGEST}" }}',
        'recipe { name: "lora" }',
    ],
)
def test_model_data_and_target_are_enough(model: str) -> None:
    assert violations_of(SOUND) == []
    assert violations_of(SOUND, f"model {{ {model} }}") == []


def test_a_language_model_needs_no_target() -> None:
    assert violations_of(SOUND_LANGUAGE) == []
    spoken = (
        f'{SOUND_LANGUAGE} model {{ recipe {{ name: "lora" }} }} objective {{ causal_language_model {{}} }}'
    )
    assert violations_of(spoken) == []


def test_every_limit_has_a_broken_example() -> None:
    assert BROKEN.keys() == LIMITS.keys()


@pytest.mark.parametrize(
    ("part", "path", "got", "allowed"), [case for cases in BROKEN.values() for case in cases]
)
def test_a_field_out_of_its_limits_is_named(part: str, path: str, got: str, allowed: str) -> None:
    (violation,) = violations_of(SOUND_LANGUAGE if "gpt {" in part else SOUND, part)
    assert violation.path == path
    assert violation.message.startswith(f"got {got}")
    assert allowed in violation.message.partition(", allowed ")[2]
    assert violation.reason is Reason.INVALID_FIELD


@pytest.mark.parametrize(
    ("spec", "path", "allowed"),
    [
        (f'data {{ {TRAIN} target_column: "y" }}', "model", "mlp, text_classifier"),
        (f'model {{}} data {{ {TRAIN} target_column: "y" }}', "model", "mlp, text_classifier"),
        (
            f'model {{ builtin {{}} }} data {{ {TRAIN} target_column: "y" }}',
            "model.builtin",
            "mlp, text_classifier",
        ),
        (f'{MODEL} data {{ target_column: "y" }}', "data.train", "data.train.artifact"),
        (f'{MODEL} data {{ train {{}} target_column: "y" }}', "data.train", "data.train.artifact"),
        (f"{SOUND} data {{ validation {{}} }}", "data.validation", "data.validation.artifact"),
        (f"{MODEL} data {{ {TRAIN} }}", "data.target_column", "expected output"),
        (
            f'{SOUND} model {{ program {{ weights: "{DIGEST}" }} }}',
            "model.program.graph",
            "what gradsight.export made",
        ),
        (f'{SOUND} model {{ program {{ graph: "{DIGEST}" }} }}', "model.program.weights", "its digest"),
        (f"{SOUND} model {{ recipe {{}} }}", "model.recipe.name", "ListRecipes"),
        (f"{SOUND} start {{}}", "start", "start.extended_job_id"),
    ],
)
def test_a_required_field_is_named(spec: str, path: str, allowed: str) -> None:
    (violation,) = violations_of(spec)
    assert violation.path == path
    assert violation.message.startswith("required: ")
    assert allowed in violation.message


@pytest.mark.parametrize(
    ("part", "path", "message"),
    [
        ('data { input_columns: ["a", "a"] }', "data.input_columns[1]", 'got "a" again'),
        ('data { input_columns: ["a", "label"] }', "data.input_columns[1]", 'got the target column "label"'),
        ('data { id_column: "n" input_columns: "n" }', "data.input_columns[0]", 'got the id column "n"'),
        ('data { id_column: "label" }', "data.id_column", "a column of its own"),
        ('data { id_column: "c" category_column: "c" }', "data.id_column", "a column of its own"),
        (
            'model { builtin { text_classifier {} } } data { input_columns: ["subject", "body"] }',
            "data.input_columns",
            "got 2 columns, allowed 1",
        ),
        (
            f'data {{ test {{ artifact: "{DIGEST}" }} split {{ test_fraction: 0.2 }} }}',
            "data.split.test_fraction",
            "got 0.2 beside data.test",
        ),
        ("data { split { validation_fraction: 0.5 test_fraction: 0.5 } }", "data.split", "sum up to 1"),
        (
            "optimizer { clipping_disabled: true max_gradient_norm: 2 }",
            "optimizer.clipping_disabled",
            "beside max_gradient_norm 2",
        ),
        ("optimizer { sgd { nesterov: true momentum: 0 } }", "optimizer.sgd.nesterov", "with momentum 0"),
        (
            'evaluation { category_impacts { key: "returns" value: 2 } }',
            "evaluation.category_impacts",
            "without data.category_column",
        ),
        (
            "objective { cross_entropy { class_weighting: CLASS_WEIGHTING_BALANCED "
            'class_weights { key: "a" value: 2 } } }',
            "objective.cross_entropy.class_weights",
            "got weights beside class_weighting balanced, allowed one of the two",
        ),
        (
            "model { builtin { gpt {} } } objective { cross_entropy {} }",
            "objective.cross_entropy",
            "got cross_entropy for gpt, allowed causal_language_model",
        ),
        (
            "model { builtin { gpt {} } }",
            "data.target_column",
            'got "label", allowed none with causal_language_model',
        ),
        (
            'objective { causal_language_model {} } data { target_column: "" }',
            "objective.causal_language_model",
            "got causal_language_model for mlp, allowed for gpt, program, recipe",
        ),
        (
            'model { builtin { cnn {} } } data { input_columns: ["front", "back"] }',
            "data.input_columns",
            "got 2 columns, allowed 1 for cnn: the image",
        ),
        (
            "model { builtin { text_transformer { width: 100 heads: 3 } } }",
            "model.builtin.text_transformer.heads",
            "got 3 with a width of 100, allowed a divisor",
        ),
        (
            "optimizer { accumulation_steps: 65 }",
            "optimizer.accumulation_steps",
            "got 65 with a batch of 64 rows, allowed 1 to 64",
        ),
        (
            "optimizer { accumulation_steps: 3 } data { batch_size: 2 }",
            "optimizer.accumulation_steps",
            "got 3 with a batch of 2 rows, allowed 1 to 2",
        ),
        (
            "schedule { warmup_fraction: 0.1 one_cycle {} }",
            "schedule.warmup_fraction",
            "got 0.1 with one_cycle, allowed 0",
        ),
        (
            "schedule { step { milestones: [0.5, 0.5] } }",
            "schedule.step.milestones[1]",
            "got 0.5 after 0.5, allowed rising",
        ),
        (
            "compute { precision: PRECISION_FLOAT16 }",
            "compute.precision",
            "got float16, allowed with resources.device_class cuda only",
        ),
        (
            "monitoring { policy: MONITORING_POLICY_STOP allow_recipe_changes: true }",
            "monitoring.allow_recipe_changes",
            "got true without the policy repair, allowed with it only",
        ),
        (
            'monitoring { detectors { key: "overfittng" value {} } }',
            'monitoring.detectors["overfittng"]',
            'got "overfittng", no kind of finding',
        ),
    ],
)
def test_a_forbidden_combination_is_named(part: str, path: str, message: str) -> None:
    (violation,) = violations_of(SOUND, part)
    assert violation.path == path
    assert message in violation.message


@pytest.mark.parametrize(
    ("part", "path", "message"),
    [
        (
            "model { builtin { mlp { activation: 77 } } }",
            "model.builtin.mlp.activation",
            "got 77, allowed relu, gelu, tanh, silu",
        ),
        (
            "model { builtin { mlp { normalization: 9 } } }",
            "model.builtin.mlp.normalization",
            "got 9, allowed none, batch, layer",
        ),
        (
            "data { train { format: 99 } }",
            "data.train.format",
            "got 99, allowed csv, jsonl, parquet, npy, safetensors, tar",
        ),
        ("compute { precision: 7 }", "compute.precision", "got 7, allowed float32, bfloat16, float16"),
        ("monitoring { policy: 8 }", "monitoring.policy", "got 8, allowed advise, repair, stop"),
        ("resources { device_class: 5 }", "resources.device_class", "got 5, allowed cpu, cuda"),
    ],
)
def test_an_unknown_enum_value_is_refused(part: str, path: str, message: str) -> None:
    (violation,) = violations_of(SOUND, part)
    assert (violation.path, violation.message) == (path, message)


@pytest.mark.parametrize(
    ("part", "path", "supported"),
    [
        ('data { train { uri: "file:///etc/passwd" } }', "data.train.uri", "artifact"),
        ("resources { device_count: 2 }", "resources.device_count", "1 device"),
    ],
)
def test_an_option_of_a_later_version_is_refused_as_such(part: str, path: str, supported: str) -> None:
    (violation,) = violations_of(SOUND, part)
    assert (violation.path, violation.reason) == (path, Reason.NOT_SUPPORTED_YET)
    assert violation.message == f"not supported yet; this version supports {supported}" + (
        " in a job" if path == "resources.device_count" else ""
    )


def test_what_fits_together_is_allowed() -> None:
    for part in (
        "compute { precision: PRECISION_FLOAT16 } resources { device_class: DEVICE_CLASS_CUDA }",
        "compute { precision: PRECISION_BFLOAT16 compiled: true deterministic: true }",
        'objective { cross_entropy { class_weights { key: "a" value: 2 } } }',
        "optimizer { muon {} accumulation_steps: 64 average_decay: 0.99 max_gradient_value: 1 }",
        "schedule { step { milestones: [0.1, 0.9] } }",
        "schedule { one_cycle {} warmup_fraction: 0 }",
        "evaluation { patience: 19 min_improvement: 0.01 }",
        "evaluation { patience: 100 interval_steps: 5 }",
        'start { weights_job_id: "a-1" }',
        "result { onnx: true }",
        "monitoring { policy: MONITORING_POLICY_STOP }",
        "monitoring { policy: MONITORING_POLICY_REPAIR allow_recipe_changes: true probe_interval_steps: 5 }",
    ):
        assert violations_of(SOUND, part) == []


def test_all_violations_are_reported_together() -> None:
    parts = "priority: 200 optimizer { learning_rate: -1 } data { batch_size: 0 }"
    found = violations_of(f"{MODEL} data {{ {TRAIN} }} {parts}")
    assert {violation.path for violation in found} == {
        "priority",
        "optimizer.learning_rate",
        "data.batch_size",
        "data.target_column",
    }
