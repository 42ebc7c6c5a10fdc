"""Held-out rows: what the model answers, how wrong it is, and which weights are worth keeping."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from gradsight.v1 import event_pb2, state_pb2
from gradsight_insight.categories import Categories
from gradsight_insight.evaluation import evaluate
from gradsight_worker.training.data.rows import Rows
from gradsight_worker.training.state import TrainingState

_BATCH = 1024


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The rows of one side, encoded on the device."""

    split: state_pb2.Split.ValueType
    rows: Rows
    inputs: tuple[Tensor, ...]
    targets: Tensor
    categories: Categories | None
    impacts: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a model made of each row."""

    losses: npt.NDArray[np.float32]
    """Unsmoothed, in nats; may be non-finite."""
    predicted: npt.NDArray[np.object_]
    """Names of classes."""
    correct: npt.NDArray[np.bool_]


def answer(model: nn.Module, held_out: HeldOut, classes: npt.NDArray[np.object_]) -> Answers:
    """Let the model answer every row, in evaluation mode; it is back in training mode afterwards."""
    model.eval()
    with torch.no_grad():
        parts = [
            _losses_and_classes(
                model,
                [column[start : start + _BATCH] for column in held_out.inputs],
                held_out.targets[start : start + _BATCH],
            )
            for start in range(0, len(held_out.targets), _BATCH)
        ]
        # One copy to the host at the end: the device is asked once.
        losses = torch.cat([part[0] for part in parts]).cpu().numpy()
        numbers = torch.cat([part[1] for part in parts]).cpu().numpy()
        correct = numbers == held_out.targets.cpu().numpy()
    model.train()
    return Answers(losses=losses, predicted=classes[numbers], correct=correct)


def evaluation_event(
    answers: Answers, held_out: HeldOut, *, step: int, epoch: float
) -> event_pb2.EvaluationCompleted:
    """The figures of a model on one side."""
    figures = evaluate(answers.losses, answers.correct, held_out.categories, held_out.impacts)
    return event_pb2.EvaluationCompleted(
        split=held_out.split,
        step=step,
        epoch=epoch,
        examples=figures.examples,
        loss=figures.loss,
        error_ratio=figures.error_ratio,
        weighted_error_ratio=figures.weighted_error_ratio,
        categories=[
            event_pb2.CategoryEvaluation(
                category=category.category,
                examples=category.examples,
                errors=category.errors,
                error_ratio=category.error_ratio,
                loss=category.loss,
            )
            for category in figures.categories
        ],
    )


class Validation:
    """Evaluates on validation when due and keeps the best weights."""

    def __init__(
        self,
        *,
        model: nn.Module,
        held_out: HeldOut,
        classes: npt.NDArray[np.object_],
        interval_steps: int,
        total_steps: int,
        epoch_of: Callable[[int], float],
    ) -> None:
        self._model = model
        self._held_out = held_out
        self._classes = classes
        self._interval_steps = interval_steps
        self._total_steps = total_steps
        self._epoch_of = epoch_of

    def due(self, step: int) -> bool:
        """Whether to evaluate after this step."""
        return step % self._interval_steps == 0 or step == self._total_steps

    def evaluate(self, state: TrainingState) -> event_pb2.EvaluationCompleted:
        """Evaluate the weights as they are; keep them when they are the best so far."""
        answers = answer(self._model, self._held_out, self._classes)
        event = evaluation_event(answers, self._held_out, step=state.step, epoch=self._epoch_of(state.step))
        if state.kept.evaluation is None or _rank(event) < _rank(state.kept.evaluation):
            event.kept = True
            state.kept.keep(state.parameters, event)
        return event


def _rank(evaluation: event_pb2.EvaluationCompleted) -> tuple[float, float]:
    """Smaller is better: error weighted by impact, then loss; the earlier one wins a tie."""
    loss = evaluation.loss if math.isfinite(evaluation.loss) else math.inf
    return evaluation.weighted_error_ratio, loss


def _losses_and_classes(model: nn.Module, inputs: list[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
    scores = model(*inputs)
    return functional.cross_entropy(scores, targets, reduction="none"), scores.argmax(dim=1)
