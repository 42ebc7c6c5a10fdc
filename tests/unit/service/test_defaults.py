"""A stored spec says by itself what was done."""

import pytest

from gradsight.v1 import spec_pb2
from gradsight_service.defaults import ARCHITECTURES, with_defaults
from gradsight_service.validation import spec_violations


def sparse_spec(architecture: str) -> spec_pb2.JobSpec:
    spec = spec_pb2.JobSpec()
    getattr(spec.model.builtin, architecture).SetInParent()
    spec.data.train.artifact = "sha256:" + "0" * 64
    spec.data.target_column = "label"
    return spec


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_default_is_filled_in_and_valid(architecture: str) -> None:
    spec = sparse_spec(architecture)
    filled = with_defaults(spec)
    own = ARCHITECTURES[architecture]
    assert filled.name == architecture
    assert filled.queue == "default"
    assert filled.data.batch_size == own.batch_size
    assert (filled.data.split.validation_fraction, filled.data.split.test_fraction) == (0.1, 0.1)
    assert filled.data.split.HasField("seed")
    assert filled.HasField("seed")
    assert filled.objective.cross_entropy.HasField("label_smoothing")
    assert filled.optimizer.learning_rate == own.learning_rate
    assert (filled.optimizer.adamw.beta1, filled.optimizer.adamw.beta2) == (0.9, 0.999)
    assert filled.optimizer.max_gradient_norm == 1.0
    assert filled.schedule.cosine.HasField("final_fraction")
    assert filled.schedule.warmup_fraction == 0.05
    assert filled.budget.epochs == own.epochs
    assert filled.monitoring.policy == spec_pb2.MONITORING_POLICY_ADVISE
    assert (filled.checkpoint.interval.seconds, filled.checkpoint.keep) == (30, 2)
    assert filled.resources.device_count == 1
    assert spec_violations(filled) == []
    assert spec == sparse_spec(architecture), "the sent spec is left as it is"
    assert with_defaults(filled) == filled


def test_sgd_has_its_own_figures() -> None:
    spec = sparse_spec("mlp")
    spec.optimizer.sgd.SetInParent()
    filled = with_defaults(spec)
    assert (filled.optimizer.learning_rate, filled.optimizer.weight_decay) == (0.1, 0.0)
    assert filled.optimizer.sgd.momentum == 0.9


def test_what_the_spec_says_stays() -> None:
    spec = sparse_spec("text_classifier")
    spec.name = "support"
    spec.data.input_columns.append("body")
    spec.data.validation.artifact = spec.data.train.artifact
    spec.optimizer.clipping_disabled = True
    spec.optimizer.learning_rate = 0.5
    spec.schedule.constant.SetInParent()
    spec.budget.steps = 10
    filled = with_defaults(spec)
    assert filled.name == "support"
    assert list(filled.data.input_columns) == ["body"]
    assert not filled.data.split.HasField("validation_fraction")
    assert not filled.optimizer.HasField("max_gradient_norm")
    assert filled.optimizer.learning_rate == 0.5
    assert filled.schedule.warmup_fraction == 0
    assert filled.budget.steps == 10


def test_a_text_model_reads_the_column_text() -> None:
    assert list(with_defaults(sparse_spec("text_classifier")).data.input_columns) == ["text"]
    assert not with_defaults(sparse_spec("mlp")).data.input_columns
