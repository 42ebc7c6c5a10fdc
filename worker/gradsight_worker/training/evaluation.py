"""Figures of held-out rows, and which weights are worth keeping."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from torch import nn

from gradsight.v1 import event_pb2, insight_pb2
from gradsight_insight.calibration import calibration_error, entropy_ratio
from gradsight_insight.evaluation import CategoryFigures, evaluate
from gradsight_insight.measures import perplexity
from gradsight_insight.messages import interval_message
from gradsight_insight.statistics import wilson
from gradsight_models.outputs import Outputs
from gradsight_worker.training.answers import Answers, Autocast, HeldOut, answer
from gradsight_worker.training.monitoring import RunMonitor
from gradsight_worker.training.objectives import Objective
from gradsight_worker.training.state import TrainingState
from gradsight_worker.training.train_sample import TrainSample
from gradsight_worker.training.unit_watch import UnitWatch


def evaluation_event(
    answers: Answers, held_out: HeldOut, *, step: int, epoch: float
) -> event_pb2.EvaluationCompleted:
    """The figures of a model on one side."""
    figures = evaluate(
        answers.losses,
        answers.wrong,
        counted=answers.counted,
        categories=held_out.categories,
        impacts=held_out.impacts,
    )
    of_tokens = answers.counted is not None
    selection_figure = figures.weighted_error_ratio
    # A language model is asked for probabilities, not for its likeliest token: its loss chooses.
    if selection_figure is None or of_tokens:
        selection_figure = figures.weighted_loss
    event = event_pb2.EvaluationCompleted(
        split=held_out.split,
        step=step,
        epoch=epoch,
        examples=figures.examples,
        loss=figures.loss,
        error_ratio=figures.error_ratio,
        weighted_error_ratio=figures.weighted_error_ratio,
        macro_f1=answers.macro_f1,
        root_mean_square_error=answers.root_mean_square_error,
        mean_absolute_error=answers.mean_absolute_error,
        perplexity=perplexity(figures.loss) if of_tokens else None,
        selection_figure=selection_figure,
        categories=[
            event_pb2.CategoryEvaluation(
                category=category.category,
                examples=category.examples,
                errors=category.errors,
                error_ratio=category.error_ratio,
                loss=category.loss,
                error_interval=None if of_tokens else _interval(category),
            )
            for category in figures.categories
        ],
    )
    _add_calibration(event, answers)
    return event


def _interval(category: CategoryFigures) -> insight_pb2.RatioInterval | None:
    if category.errors is None or category.error_ratio is None:
        return None
    return interval_message(category.error_ratio, wilson(category.errors, category.examples))


def _add_calibration(event: event_pb2.EvaluationCompleted, answers: Answers) -> None:
    """What there is to say of probabilities, where there are such."""
    if answers.confidence is None or answers.expected is None or answers.wrong is None:
        return
    event.mean_confidence = float(answers.confidence.mean(dtype=np.float64))
    event.calibration_error = calibration_error(answers.confidence, answers.wrong == 0)
    assert answers.predicted is not None
    if (ratio := entropy_ratio(answers.predicted, answers.expected)) is not None:
        event.answer_entropy_ratio = ratio


@dataclass(kw_only=True)
class Validation:
    """Evaluates on validation when due and keeps the best weights."""

    model: nn.Module
    held_out: HeldOut
    objective: Objective
    outputs: Outputs
    interval_steps: int
    total_steps: int
    epoch_of: Callable[[int], float]
    autocast: Autocast = nullcontext
    units: UnitWatch | None = None
    """Looks for dead units."""
    train_sample: TrainSample | None = None
    monitor: RunMonitor | None = None
    """Takes in every evaluation."""

    def due(self, step: int) -> bool:
        """Whether to evaluate after this step."""
        return step % self.interval_steps == 0 or step == self.total_steps

    def evaluate(self, state: TrainingState) -> event_pb2.EvaluationCompleted:
        """Evaluate the weights that would answer now; keep them when they are the best so far."""
        with state.answering():
            answers = answer(
                self.model, self.held_out, self.objective, self.outputs, self.autocast, self.units
            )
            event = evaluation_event(answers, self.held_out, step=state.step, epoch=self.epoch_of(state.step))
            event.kept = state.kept.evaluation is None or _rank(event) < _rank(state.kept.evaluation)
            event.layer_dead_ratio.extend(self.units.dead_ratios() if self.units is not None else ())
            if self.monitor is not None:
                self.monitor.evaluated(event, answers, self._train_error_ratio(state.step))
            if event.kept:
                state.kept.keep(state.parameters, event)
        return event

    def _train_error_ratio(self, step: int) -> float | None:
        """Error on the sample of train, in evaluation mode; None when it is not its turn."""
        sample, before = self.train_sample, (step - 1) // self.interval_steps * self.interval_steps
        if sample is None or not sample.due(step, before=before, total_steps=self.total_steps):
            return None
        return sample.error_ratio(self.model, self.objective, self.autocast)


def _rank(evaluation: event_pb2.EvaluationCompleted) -> tuple[bool, float, float]:
    """Smaller is better: the figure that chooses, then the loss; the earlier one wins a tie. Non-finite comes last."""
    figures = (evaluation.selection_figure, evaluation.loss)
    if not all(map(math.isfinite, figures)):
        return True, math.inf, math.inf
    return False, *figures
