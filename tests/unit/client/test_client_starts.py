"""Two specs are compared field by field, and the first difference is named with both values."""

import pytest
from google.protobuf import text_format

from gradsight._starts import FREE_IN_EXTENSION, spec_difference, weights_difference
from gradsight.v1 import spec_pb2

SPEC = """
name: "first" seed: 3
model { builtin { mlp { hidden_sizes: [8, 8] } } }
data { train { artifact: "sha256:1" } input_columns: ["a", "b"] target_column: "y" batch_size: 64 }
objective { cross_entropy { label_smoothing: 0 } }
optimizer { learning_rate: 0.001 adamw { beta1: 0.9 } }
schedule { cosine { final_fraction: 0 } }
budget { epochs: 2 }
evaluation { patience: 4 category_impacts { key: "returns" value: 2 } }
"""


def spec(*parts: str) -> spec_pb2.JobSpec:
    message = spec_pb2.JobSpec()
    for part in (SPEC, *parts):
        text_format.Merge(part, message)
    return message


def test_a_spec_does_not_differ_from_itself() -> None:
    assert spec_difference(spec(), spec()) is None
    assert spec_difference(spec(), spec("compute {} result {}")) is None


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("seed: 4", "seed: got 4, the earlier job has 3"),
        ("data { batch_size: 32 }", "data.batch_size: got 32, the earlier job has 64"),
        (
            'data { input_columns: "c" }',
            'data.input_columns: got ["a", "b", "c"], the earlier job has ["a", "b"]',
        ),
        ("model { builtin { cnn {} } }", "model.builtin: got cnn, the earlier job has mlp"),
        (
            "model { builtin { mlp { dropout: 0 } } }",
            "model.builtin.mlp.dropout: got 0.0, the earlier job has nothing",
        ),
        ("objective { huber {} }", "objective: got huber, the earlier job has cross_entropy"),
        ("optimizer { sgd {} }", "optimizer: got sgd, the earlier job has adamw"),
        (
            "compute { precision: PRECISION_BFLOAT16 }",
            'compute.precision: got "bfloat16", the earlier job has nothing',
        ),
        (
            'evaluation { category_impacts { key: "refunds" value: 1 } }',
            'evaluation.category_impacts: got {"refunds": 1.0, "returns": 2.0}, the earlier job has {"returns": 2.0}',
        ),
        ('data { test { artifact: "sha256:2" } }', "data.test: got artifact, the earlier job has nothing"),
    ],
)
def test_the_first_difference_is_named_with_both_values(part: str, said: str) -> None:
    for free in (frozenset[str](), FREE_IN_EXTENSION):
        assert str(spec_difference(spec(part), spec(), free=free)) == said


@pytest.mark.parametrize(
    "part",
    [
        "budget { epochs: 9 }",
        "budget { steps: 9 timeout { seconds: 5 } }",
        'name: "second"',
        'labels { key: "a" value: "b" }',
        'queue: "slow"',
        "priority: 3",
        "checkpoint { keep: 9 }",
        'start { extended_job_id: "a" }',
        "evaluation { patience: 9 }",
        "result { onnx: true }",
    ],
)
def test_an_extension_may_differ_in_length_and_in_what_bears_on_no_number(part: str) -> None:
    assert spec_difference(spec(part), spec()) is not None
    assert spec_difference(spec(part), spec(), free=FREE_IN_EXTENSION) is None


def test_weights_fit_the_same_model_with_the_same_inputs_and_kind_of_target() -> None:
    assert weights_difference(spec("seed: 9 optimizer { sgd {} } budget { epochs: 7 }"), spec()) is None
    for part, path in (
        ("model { builtin { mlp { hidden_sizes: 8 } } }", "model.builtin.mlp.hidden_sizes"),
        ("model { recipe {} }", "model"),
        ('data { input_columns: "c" }', "data.input_columns"),
        ("objective { huber {} }", "objective.huber"),
    ):
        found = weights_difference(spec(part), spec())
        assert found is not None
        assert found.path == path


def test_the_own_weights_of_a_program_are_not_asked_for() -> None:
    earlier = spec('model { program { graph: "g" weights: "one" } }')
    assert weights_difference(spec('model { program { graph: "g" weights: "two" } }'), earlier) is None
    assert weights_difference(spec('model { program { graph: "h" weights: "one" } }'), earlier) is not None


def test_long_values_are_cut() -> None:
    found = spec_difference(spec(f'data {{ target_column: "{"x" * 300}" }}'), spec())
    assert found is not None
    assert len(found.value) == 80
