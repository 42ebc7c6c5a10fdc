"""Objectives: torch's own losses, exact in parts, in float32, and judged without smoothing or weights."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from gradsight.v1 import spec_pb2
from gradsight_models.outputs import ClassOutputs, LabelOutputs, NumberOutputs, Outputs, TokenOutputs
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.objectives import Objective, build_objective

CPU = torch.device("cpu")


CLASSES = ClassOutputs(names=("a", "b", "c"))
LABELS = LabelOutputs(names=("a", "b", "c"))
NUMBER = NumberOutputs(names=("x",), mean=(7.0,), deviation=(4.0,))
NUMBERS = NumberOutputs(names=("x", "y", "z"), mean=(0.0, 0.0, 0.0), deviation=(4.0, 1.0, 9.0))
TOKENS = TokenOutputs(5)


def objective(outputs: Outputs, counts: list[int] | None = None, **spec: Any) -> Objective:
    return build_objective(
        spec_pb2.ObjectiveSpec(**spec),
        outputs,
        class_counts=None if counts is None else np.array(counts),
        device=CPU,
    )


def batch(outputs: Outputs, rows: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    size = outputs.size
    if outputs.kind == "classes":
        return torch.randn(rows, size, generator=random), torch.randint(0, size, (rows,), generator=random)
    if outputs.kind == "labels":
        targets = torch.randint(0, 2, (rows, size), generator=random).float()
        return torch.randn(rows, size, generator=random), targets
    if outputs.kind == "numbers":
        return torch.randn(rows, size, generator=random), torch.randn(rows, size, generator=random)
    targets = torch.randint(0, size, (rows, 7), generator=random)
    targets[torch.rand(rows, 7, generator=random) < 0.4] = -100
    targets[1] = -100
    return torch.randn(rows, 7, size, generator=random), targets


ALL: dict[str, Objective] = {
    "cross_entropy": objective(CLASSES, cross_entropy=spec_pb2.CrossEntropy()),
    "smoothed": objective(CLASSES, cross_entropy=spec_pb2.CrossEntropy(label_smoothing=0.2)),
    "weighted": objective(
        CLASSES,
        [1, 10, 89],
        cross_entropy=spec_pb2.CrossEntropy(
            label_smoothing=0.1, class_weighting=spec_pb2.CLASS_WEIGHTING_BALANCED
        ),
    ),
    "labels": objective(LABELS),
    "squares": objective(NUMBER, mean_squared_error=spec_pb2.MeanSquaredError()),
    "huber": objective(NUMBERS, huber=spec_pb2.Huber(delta=0.5)),
    "absolute": objective(NUMBER, mean_absolute_error=spec_pb2.MeanAbsoluteError()),
    "tokens": objective(TOKENS),
}
OUTPUTS: dict[str, Outputs] = dict(
    zip(ALL, (CLASSES, CLASSES, CLASSES, LABELS, NUMBER, NUMBERS, NUMBER, TOKENS), strict=True)
)


@pytest.mark.parametrize("name", ALL)
def test_a_batch_in_parts_has_the_loss_and_the_gradient_of_the_whole(name: str) -> None:
    scores, targets = batch(OUTPUTS[name])
    whole, parts = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    loss = ALL[name].loss(whole, targets)
    loss.backward()  # type: ignore[no-untyped-call]
    total, sum_of_parts = ALL[name].count(targets), 0.0
    for part in (slice(0, 2), slice(2, 5), slice(5, 12)):
        share = ALL[name].count(targets[part]) / total
        part_loss = ALL[name].loss(parts[part], targets[part]) * share
        part_loss.backward()  # type: ignore[no-untyped-call]
        sum_of_parts += float(part_loss.detach())
    assert sum_of_parts == pytest.approx(float(loss.detach()), rel=1e-6)
    torch.testing.assert_close(parts.grad, whole.grad)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_computed_in_float32_whatever_the_model_computes_in(name: str, dtype: torch.dtype) -> None:
    scores, targets = batch(OUTPUTS[name])
    low = scores.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, judged = ALL[name].loss(low, targets), ALL[name].judge(low, targets)
    assert loss.dtype == judged.loss.dtype == torch.float32
    torch.testing.assert_close(loss, ALL[name].loss(low.float(), targets))
    torch.testing.assert_close(judged.loss, ALL[name].judge(low.float(), targets).loss)


@pytest.mark.parametrize("name", ["cross_entropy", "labels", "squares", "huber", "absolute"])
def test_the_mean_of_the_judged_losses_is_the_training_loss_in_the_unit_that_is_reported(name: str) -> None:
    scores, targets = batch(OUTPUTS[name])
    judged = ALL[name].judge(scores, targets)
    expected = ALL[name].loss(scores, targets) * ALL[name].scale
    torch.testing.assert_close(judged.loss.mean(), expected)


@pytest.mark.parametrize("name", ["smoothed", "weighted"])
def test_judging_knows_neither_smoothing_nor_weights(name: str) -> None:
    scores, targets = batch(CLASSES)
    plain = functional.cross_entropy(scores, targets, reduction="none")
    torch.testing.assert_close(ALL[name].judge(scores, targets).loss, plain)
    assert not torch.isclose(ALL[name].loss(scores, targets), plain.mean())


@pytest.mark.parametrize(
    ("outputs", "spec", "scale"),
    [
        (NUMBER, spec_pb2.ObjectiveSpec(), 16.0),
        (NUMBER, spec_pb2.ObjectiveSpec(huber=spec_pb2.Huber()), 16.0),
        (NUMBER, spec_pb2.ObjectiveSpec(mean_absolute_error=spec_pb2.MeanAbsoluteError()), 4.0),
        (NUMBERS, spec_pb2.ObjectiveSpec(), 1.0),
    ],
)
def test_losses_of_one_number_are_reported_in_its_unit_and_of_several_in_deviations(
    outputs: Outputs, spec: spec_pb2.ObjectiveSpec, scale: float
) -> None:
    assert build_objective(spec, outputs, class_counts=None, device=CPU).scale == scale


def test_huber_is_square_near_zero_and_linear_beyond_delta() -> None:
    huber = objective(
        NumberOutputs(names=("x",), mean=(0.0,), deviation=(1.0,)), huber=spec_pb2.Huber(delta=2.0)
    )
    judged = huber.judge(torch.tensor([[1.0], [5.0]]), torch.zeros(2, 1))
    assert judged.loss.tolist() == [0.5, 2.0 * (5.0 - 1.0)]


@pytest.mark.parametrize("counts", [[1, 10, 89], [5, 0, 5], [7, 7, 7]])
def test_balanced_weights_make_classes_count_alike_and_a_row_1_on_average(counts: list[int]) -> None:
    balanced = objective(
        CLASSES,
        counts,
        cross_entropy=spec_pb2.CrossEntropy(class_weighting=spec_pb2.CLASS_WEIGHTING_BALANCED),
    )
    weights = balanced.weights.double().numpy()  # type: ignore[attr-defined]
    shares = weights * counts / sum(counts)
    present = [share for share, count in zip(shares, counts, strict=True) if count]
    assert present == pytest.approx([1 / len(present)] * len(present))


def test_given_weights_keep_their_proportions_and_a_row_weighs_1_on_average() -> None:
    given = objective(CLASSES, [2, 3, 5], cross_entropy=spec_pb2.CrossEntropy(class_weights={"b": 4.0}))
    a, b, c = given.weights.tolist()  # type: ignore[attr-defined]
    assert (b / a, c / a) == pytest.approx((4.0, 1.0))
    assert (2 * a + 3 * b + 5 * c) / 10 == pytest.approx(1.0)


def test_a_weight_of_a_class_that_no_row_has_is_refused_by_name() -> None:
    with pytest.raises(TrainingFailed, match="got a weight for 'd', allowed: the 3 classes") as caught:
        objective(CLASSES, [1, 1, 1], cross_entropy=spec_pb2.CrossEntropy(class_weights={"d": 2.0}))
    assert caught.value.error.field == "objective.cross_entropy.class_weights"


def test_an_objective_that_does_not_fit_the_target_is_refused_with_those_that_do() -> None:
    with pytest.raises(TrainingFailed, match="allowed here: mean_squared_error, huber, mean_absolute_error"):
        objective(NUMBER, cross_entropy=spec_pb2.CrossEntropy())


def test_a_row_is_right_when_all_its_labels_are() -> None:
    judged = ALL["labels"].judge(
        torch.tensor([[3.0, -3.0, -1.0], [3.0, 3.0, -1.0]]), torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    )
    assert judged.wrong is not None
    assert judged.wrong.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["cross_entropy", "labels", "tokens"])
def test_scores_that_are_no_numbers_are_wrong_answers(name: str) -> None:
    scores, targets = batch(OUTPUTS[name])
    judged = ALL[name].judge(torch.full_like(scores, math.nan), targets * 0)
    assert judged.wrong is not None
    assert judged.wrong.tolist() == [targets[0].numel() if name == "tokens" else 1] * len(targets)


def test_tokens_that_do_not_count_are_nowhere_counted() -> None:
    targets = torch.tensor([[2, -100, 4], [-100, -100, -100]])
    scores = torch.zeros(2, 3, 5)
    scores[0, 0, 2] = 50.0
    judged = ALL["tokens"].judge(scores, targets)
    assert judged.counted is not None
    assert judged.wrong is not None
    assert judged.counted.tolist() == [2, 0]
    assert judged.wrong.tolist() == [1, 0]
    assert judged.loss.tolist() == pytest.approx([math.log(5), 0.0], abs=1e-6)


def test_a_batch_without_a_token_that_counts_has_loss_0_and_moves_nothing() -> None:
    scores = torch.randn(2, 3, 5, requires_grad=True)
    loss = ALL["tokens"].loss(scores, torch.full((2, 3), -100))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    assert scores.grad is not None
    assert not scores.grad.any()


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Which operations run, by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["cross_entropy", "smoothed"])
def test_cross_entropy_costs_no_operation_more_than_torchs_own(name: str) -> None:
    scores, targets = batch(CLASSES)
    with Recorder() as theirs:
        functional.cross_entropy(scores, targets, label_smoothing=0.2 if name == "smoothed" else 0.0)
    with Recorder() as ours:
        ALL[name].loss(scores, targets)
    assert ours.operations == theirs.operations
