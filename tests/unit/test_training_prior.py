"""What answering without a model costs, for every kind of answer."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gradsight.v1 import spec_pb2, state_pb2
from gradsight_insight.priors import Prior
from gradsight_models.outputs import ClassOutputs, LabelOutputs, NumberOutputs, Outputs, TokenOutputs
from gradsight_worker.training.answers import HeldOut
from gradsight_worker.training.data.encoding import ResidentRows
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.objectives import build_objective
from gradsight_worker.training.prior import answer_counts, prior

NUMBER = NumberOutputs(names=("x",), mean=(0.0,), deviation=(10.0,))


def encoded(targets: Tensor) -> ResidentRows:
    return ResidentRows((torch.zeros(len(targets), 1), targets))


def prior_of(outputs: Outputs, train: Any, validation: Any, **spec: Any) -> Prior:
    objective = build_objective(
        spec_pb2.ObjectiveSpec(**spec), outputs, class_counts=None, device=torch.device("cpu")
    )
    held_out = HeldOut(
        split=state_pb2.SPLIT_VALIDATION,
        rows=None,  # type: ignore[arg-type]
        encoded=encoded(torch.tensor(validation)),
        categories=None,
        impacts={},
    )
    return prior(objective, outputs, encoded(torch.tensor(train)), held_out)


def test_classes_are_answered_by_their_frequencies() -> None:
    found = prior_of(ClassOutputs(names=("a", "b")), [0, 0, 0, 1], [0, 1, 1, 0])
    assert found == pytest.approx((0.5, -(math.log(0.75) + math.log(0.25)) / 2))


def test_labels_are_answered_each_by_its_frequency_and_a_row_is_wrong_when_one_label_is() -> None:
    train = [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    found = prior_of(LabelOutputs(names=("x", "y")), train, [[1.0, 0.0], [0.0, 0.0]])
    never = -math.log(1 - 0.5 / 4)
    assert found.error_ratio == 0.5
    assert found.loss == pytest.approx((-(math.log(0.75) + math.log(0.25)) / 2 + never) / 2, rel=1e-6)


def test_a_label_that_every_training_row_has_keeps_the_loss_finite() -> None:
    found = prior_of(LabelOutputs(names=("x",)), [[1.0], [1.0]], [[0.0]])
    assert found == pytest.approx((1.0, -math.log(0.25)))


@pytest.mark.parametrize(
    ("spec", "loss"),
    [
        # Train's mean is 1, its median 0; the held-out number is 2, all in deviations of 10 units.
        ({"mean_squared_error": spec_pb2.MeanSquaredError()}, (2 - 1) ** 2 * 100),
        ({"mean_absolute_error": spec_pb2.MeanAbsoluteError()}, (2 - 0) * 10),
        ({"huber": spec_pb2.Huber(delta=100.0)}, 0.5 * (2 - 1) ** 2 * 100),
        ({"huber": spec_pb2.Huber(delta=0.01)}, 0.01 * (2 - 0.005) * 100),
    ],
)
def test_numbers_are_answered_by_trains_mean_or_median_whichever_suits_the_loss(
    spec: dict[str, Any], loss: float
) -> None:
    found = prior_of(NUMBER, [[0.0], [0.0], [0.0], [0.0], [5.0]], [[2.0]], **spec)
    assert found.error_ratio is None
    assert found.loss == pytest.approx(loss, rel=1e-6)


def test_tokens_are_answered_by_their_frequencies_where_they_count() -> None:
    train = [[1, 1, 2], [1, -100, -100]]
    found = prior_of(TokenOutputs(3), train, [[1, 2, -100]])
    weights = np.array([0.5, 3.0, 1.0]) / 4.5
    assert found == pytest.approx((0.5, -(math.log(weights[1]) + math.log(weights[2])) / 2))


def test_texts_without_a_token_to_foresee_are_refused() -> None:
    with pytest.raises(TrainingFailed, match="no row of validation has a token to foresee"):
        prior_of(TokenOutputs(3), [[1, 2]], [[-100, -100]])


def test_answers_are_counted_by_class() -> None:
    outputs = ClassOutputs(names=("a", "b", "c"))
    assert answer_counts(encoded(torch.tensor([2, 0, 2])), outputs).tolist() == [1, 0, 2]
