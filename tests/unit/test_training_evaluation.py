"""Held-out rows: every kind of answer judged as defined, windows put together, the best weights kept."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gradsight.v1 import event_pb2, spec_pb2, state_pb2
from gradsight_insight.categories import Categories
from gradsight_models.outputs import ClassOutputs, LabelOutputs, NumberOutputs, Outputs, TokenOutputs
from gradsight_worker.training.answers import Answers, HeldOut, answer
from gradsight_worker.training.data.encoding import Batch, ResidentRows
from gradsight_worker.training.evaluation import Validation, evaluation_event
from gradsight_worker.training.objectives import Objective, build_objective

CLASSES = ClassOutputs(names=("a", "b", "c"))
LABELS = LabelOutputs(names=("x", "y"))
NUMBER = NumberOutputs(names=("price",), mean=(1e6,), deviation=(2.0,))
TOKENS = TokenOutputs(4)


class Watched(ResidentRows):
    """Encoded rows whose only input is the scores that the model shall give."""

    def __init__(self, scores: Tensor, targets: Tensor, owners: npt.NDArray[np.int64] | None) -> None:
        super().__init__((scores, targets), owners)
        self.most = 1 << 30
        self.sizes: list[int] = []

    def blocks(self, size: int) -> Iterator[Batch]:
        self.sizes.append(min(size, self.most))
        return super().blocks(self.sizes[-1])


class Echo(nn.Module):
    """Answers with its input, times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, scores: Tensor) -> Tensor:
        assert not self.training
        return scores * self.weight


def held_out(
    scores: Any,
    targets: Any,
    *,
    owners: list[int] | None = None,
    rows: int | None = None,
    categories: str = "",
    impacts: dict[str, float] | None = None,
    micro_batch: int = 64,
) -> HeldOut:
    encoded = Watched(
        torch.as_tensor(scores), torch.as_tensor(targets), None if owners is None else np.array(owners)
    )
    return HeldOut(
        split=state_pb2.SPLIT_VALIDATION,
        rows=range(len(encoded) if rows is None else rows),  # type: ignore[arg-type]
        encoded=encoded,
        categories=Categories.of(np.array(list(categories), dtype=object)) if categories else None,
        impacts=impacts or {},
        micro_batch=micro_batch,
    )


def objective(outputs: Outputs, **spec: Any) -> Objective:
    return build_objective(
        spec_pb2.ObjectiveSpec(**spec), outputs, class_counts=None, device=torch.device("cpu")
    )


def judged(side: HeldOut, outputs: Outputs, **spec: Any) -> tuple[Answers, event_pb2.EvaluationCompleted]:
    answers = answer(Echo(), side, objective(outputs, **spec), outputs)
    return answers, evaluation_event(answers, side, step=3, epoch=0.5)


def test_classes_have_error_and_f1_and_the_error_chooses() -> None:
    scores = [[9.0, 0, 0], [9.0, 0, 0], [0, 9.0, 0], [0, 9.0, 0]]
    side = held_out(scores, [0, 0, 1, 0], categories="kkkm", impacts={"m": 3.0})
    answers, event = judged(side, CLASSES)
    assert answers.predicted is not None
    assert answers.predicted.tolist() == [0, 0, 1, 1]
    assert (event.error_ratio, event.weighted_error_ratio, event.selection_figure) == (0.25, 0.5, 0.5)
    assert event.macro_f1 == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert not event.HasField("perplexity")
    assert not event.HasField("root_mean_square_error")
    assert [(c.category, c.errors, c.error_ratio) for c in event.categories] == [("k", 0, 0.0), ("m", 1, 1.0)]


def test_a_row_of_labels_is_wrong_when_one_of_them_is() -> None:
    _, event = judged(held_out([[5.0, -5.0], [5.0, 5.0]], [[1.0, 0.0], [1.0, 0.0]]), LABELS)
    assert event.error_ratio == event.selection_figure == 0.5
    assert event.macro_f1 == pytest.approx((1.0 + 0.0) / 2)


def test_numbers_are_reported_in_their_unit_and_have_no_error() -> None:
    side = held_out([[1.0], [-1.0]], [[0.5], [-2.5]], categories="uv", impacts={"u": 0.0})
    answers, event = judged(side, NUMBER)
    assert answers.predicted is not None
    assert answers.predicted.tolist() == [[1e6 + 2.0], [1e6 - 2.0]]
    assert event.root_mean_square_error == pytest.approx(math.sqrt((1.0**2 + 3.0**2) / 2))
    assert event.mean_absolute_error == pytest.approx(2.0)
    assert event.loss == pytest.approx(5.0)
    assert event.selection_figure == pytest.approx(9.0)
    for absent in ("error_ratio", "weighted_error_ratio", "macro_f1", "perplexity"):
        assert not event.HasField(absent)
    assert not event.categories[0].HasField("errors")


def test_tokens_weigh_alike_windows_join_their_row_and_the_loss_chooses() -> None:
    scores = torch.zeros(4, 3, 4)
    scores[0, :, 2] = 40.0
    targets = torch.tensor([[2, 2, 2], [2, -100, -100], [-100, -100, -100], [1, 0, -100]])
    answers, event = judged(held_out(scores, targets, owners=[0, 0, 1, 2], rows=3), TOKENS)
    assert answers.counted is not None
    assert answers.wrong is not None
    assert answers.counted.tolist() == [4, 0, 2]
    assert answers.wrong.tolist() == [1, 0, 1]
    assert answers.losses[[0, 2]].tolist() == pytest.approx([math.log(4) / 4, math.log(4)], rel=1e-6)
    assert math.isnan(answers.losses[1])
    assert event.examples == 3
    assert event.loss == event.selection_figure == pytest.approx(math.log(4) / 2, rel=1e-6)
    assert event.perplexity == pytest.approx(2.0, rel=1e-6)
    assert event.error_ratio == pytest.approx(2 / 6)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 2**16))
def test_figures_do_not_depend_on_how_many_rows_are_answered_at_once(rows: int, size: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, 2, 4, generator=random)
    targets = torch.randint(0, 4, (rows, 2), generator=random)
    whole, _ = judged(held_out(scores, targets), TOKENS)
    side = held_out(scores, targets)
    assert isinstance(side.encoded, Watched)
    side.encoded.most = size
    parts, _ = judged(side, TOKENS)
    np.testing.assert_allclose(parts.losses, whole.losses, rtol=1e-6)
    assert parts.wrong is not None
    assert whole.wrong is not None
    assert parts.wrong.tolist() == whole.wrong.tolist()


def test_small_rows_are_answered_in_large_blocks_and_large_ones_as_a_training_step_has_them() -> None:
    assert held_out(torch.zeros(1, 3), [0]).rows_at_once(CLASSES) == 1024
    assert held_out(torch.zeros(1, 5000), [0]).rows_at_once(CLASSES) == 209
    assert held_out(torch.zeros(1, 1 << 20), [0], micro_batch=7).rows_at_once(CLASSES) == 7
    tokens = held_out(torch.zeros(1, 512), torch.zeros(1, 512, dtype=torch.int64), micro_batch=8)
    assert tokens.rows_at_once(TokenOutputs(8192)) == 8


class Hungry(Echo):
    """Fits no more than two rows into memory."""

    def forward(self, scores: Tensor) -> Tensor:
        if len(scores) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(scores)


def test_rows_that_do_not_fit_into_memory_are_answered_fewer_at_once() -> None:
    scores, targets = torch.randn(9, 3), torch.zeros(9, dtype=torch.int64)
    side = held_out(scores, targets)
    answers = answer(model := Hungry(), side, objective(CLASSES), CLASSES)
    whole, _ = judged(held_out(scores, targets), CLASSES)
    np.testing.assert_allclose(answers.losses, whole.losses, rtol=1e-6)
    assert isinstance(side.encoded, Watched)
    assert side.encoded.sizes[-1] == 2
    assert model.training


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Which operations run, by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("outputs", [CLASSES, LABELS, NUMBER, TOKENS], ids=lambda outputs: outputs.kind)
def test_judging_asks_the_device_for_no_number(outputs: Outputs) -> None:
    scores = torch.randn(5, 2, 4) if outputs.kind == "tokens" else torch.randn(5, outputs.size)
    targets = {
        "classes": torch.zeros(5, dtype=torch.int64),
        "labels": torch.ones(5, 2),
        "numbers": torch.zeros(5, 1),
        "tokens": torch.zeros(5, 2, dtype=torch.int64),
    }[outputs.kind]
    judge = objective(outputs).judge
    with Recorder() as recorder:
        judge(scores, targets)
    asking = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "bincount")
    assert not [name for name in recorder.operations if any(word in name for word in asking)]


@dataclass
class FakeKept:
    evaluation: event_pb2.EvaluationCompleted | None = None
    kept: list[int] = field(default_factory=list)

    def keep(self, _parameters: object, evaluation: event_pb2.EvaluationCompleted) -> None:
        self.evaluation = evaluation
        self.kept.append(evaluation.step)


@dataclass
class FakeState:
    step: int = 0
    parameters: object = None
    kept: FakeKept = field(default_factory=FakeKept)

    def answering(self) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        # Rows 0 and 1 of class a: first half right, then none, then both, then both with a lower loss, and again.
        (
            [[[1, 0], [0, 1]], [[0, 1], [0, 1]], [[1, 0], [1, 0]], [[2, 0], [2, 0]], [[2, 0], [2, 0]]],
            [0, 2, 3],
        ),
        ([[[math.nan, 0], [0, 1]], [[0, 1], [1, 0]]], [0, 1]),
        ([[[0, 1], [0, 1]], [[math.nan, 0], [math.nan, 0]]], [0]),
    ],
)
def test_the_lowest_error_then_the_lowest_loss_is_kept_and_the_earlier_of_equals(
    scores: list[Any], kept: list[int]
) -> None:
    outputs, state = ClassOutputs(names=("a", "b")), FakeState()
    for state.step, table in enumerate(scores):
        validation = Validation(
            model=Echo(),
            held_out=held_out(torch.tensor(table, dtype=torch.float32), [0, 0]),
            objective=objective(outputs),
            outputs=outputs,
            interval_steps=5,
            total_steps=12,
            epoch_of=float,
        )
        event = validation.evaluate(state)  # type: ignore[arg-type]
        assert event.kept == (state.step in kept)
    assert state.kept.kept == kept


def test_validation_is_due_at_every_interval_and_at_the_end() -> None:
    validation = Validation(
        model=Echo(),
        held_out=held_out([[1.0, 0, 0]], [0]),
        objective=objective(CLASSES),
        outputs=CLASSES,
        interval_steps=5,
        total_steps=12,
        epoch_of=float,
    )
    assert [step for step in range(1, 13) if validation.due(step)] == [5, 10, 12]
