"""An evaluation as detectors see it."""

import numpy as np

from gradsight.v1 import event_pb2
from gradsight_insight.signals import CategorySignals, EvaluationSignals, HeldOutRows
from gradsight_worker.training.answers import Answers

MOST_ROWS = 16_384
"""Rows that are remembered one by one: always the first ones."""


def evaluation_signals(
    event: event_pb2.EvaluationCompleted, answers: Answers, *, train_loss: float
) -> EvaluationSignals:
    """What an evaluation on validation says.

    Args:
        event: Its figures.
        answers: What they were computed from.
        train_loss: Mean training loss of the steps since the evaluation before, in the objective's unit.
    """
    return EvaluationSignals(
        step=event.step,
        loss=event.loss,
        error_ratio=event.error_ratio if event.HasField("error_ratio") else None,
        figure=event.selection_figure,
        kept=event.kept,
        examples=event.examples,
        train_loss=train_loss,
        mean_confidence=event.mean_confidence if event.HasField("mean_confidence") else None,
        calibration_error=event.calibration_error if event.HasField("calibration_error") else None,
        answer_entropy_ratio=event.answer_entropy_ratio if event.HasField("answer_entropy_ratio") else None,
        dead_ratio=np.array(event.layer_dead_ratio, dtype=np.float64),
        categories=tuple(
            CategorySignals(category=each.category, examples=each.examples, errors=each.errors)
            for each in event.categories
            if each.HasField("errors")
        ),
        rows=held_out_rows(answers),
    )


def held_out_rows(answers: Answers) -> HeldOutRows:
    """The first rows of an evaluation, one by one."""
    # Of texts, how often a token is wrong says nothing about the text being wrong.
    by_row = answers.wrong is not None and answers.counted is None
    return HeldOutRows(
        losses=answers.losses[:MOST_ROWS],
        wrong=answers.wrong[:MOST_ROWS] > 0 if by_row and answers.wrong is not None else None,
    )
