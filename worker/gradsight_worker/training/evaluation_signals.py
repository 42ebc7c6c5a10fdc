"""An evaluation as detectors see it."""

import math
from collections.abc import Sequence

import numpy as np

from gradsight.v1 import event_pb2
from gradsight_insight.signals import CategorySignals, EvaluationSignals, HeldOutRows
from gradsight_insight.statistics import mcnemar_z, paired_z
from gradsight_worker.training.answers import Answers

MOST_ROWS = 16_384
"""Rows that are remembered one by one: always the first ones."""
_MOST_CONFUSIONS = 20
_MOST_CLASSES = 100


def evaluation_signals(
    event: event_pb2.EvaluationCompleted,
    answers: Answers,
    *,
    class_names: Sequence[str],
    train_loss: float,
    train_error_ratio: float | None,
) -> EvaluationSignals:
    """What an evaluation on validation says.

    Args:
        event: Its figures.
        answers: What they were computed from.
        class_names: In the order of the scores; empty where answers are no classes.
        train_loss: Mean training loss of the steps since the evaluation before, in the objective's unit.
        train_error_ratio: On a sample of train; None where it was not measured.
    """
    return EvaluationSignals(
        step=event.step,
        loss=event.loss,
        error_ratio=event.error_ratio if event.HasField("error_ratio") else None,
        figure=event.selection_figure,
        kept=event.kept,
        examples=event.examples,
        train_loss=train_loss,
        train_error_ratio=train_error_ratio,
        mean_confidence=event.mean_confidence if event.HasField("mean_confidence") else None,
        calibration_error=event.calibration_error if event.HasField("calibration_error") else None,
        answer_entropy_ratio=event.answer_entropy_ratio if event.HasField("answer_entropy_ratio") else None,
        dead_ratio=np.array(event.layer_dead_ratio, dtype=np.float64),
        categories=tuple(
            CategorySignals(category=each.category, examples=each.examples, errors=each.errors)
            for each in event.categories
            if each.HasField("errors")
        ),
        classes=_by_class(answers, class_names),
        confusions=_confusions(answers, class_names),
        rows=held_out_rows(answers),
    )


def held_out_rows(answers: Answers) -> HeldOutRows:
    """The first rows of an evaluation, one by one."""
    wrong = answers.wrong_rows
    return HeldOutRows(losses=answers.losses[:MOST_ROWS], wrong=None if wrong is None else wrong[:MOST_ROWS])


def compare_rows(
    event: event_pb2.EvaluationCompleted, before: HeldOutRows | None, now: HeldOutRows | None
) -> None:
    """Say in the event how the rows changed since an earlier evaluation, where that can be said."""
    if before is None or now is None or len(before.losses) != len(now.losses):
        return
    if math.isfinite(loss_z := paired_z(before.losses, now.losses)):
        event.loss_z = loss_z
    if before.wrong is None or now.wrong is None:
        return
    if math.isfinite(error_z := mcnemar_z(before.wrong, now.wrong)):
        event.error_z = error_z


def _by_class(answers: Answers, names: Sequence[str]) -> tuple[CategorySignals, ...]:
    if answers.expected is None or answers.wrong is None:
        return ()
    examples = np.bincount(answers.expected, minlength=len(names))
    errors = np.bincount(answers.expected[answers.wrong > 0], minlength=len(names))
    order = [code for code in np.argsort(-examples, kind="stable") if examples[code]][:_MOST_CLASSES]
    return tuple(
        CategorySignals(category=names[code], examples=int(examples[code]), errors=int(errors[code]))
        for code in order
    )


def _confusions(answers: Answers, names: Sequence[str]) -> tuple[tuple[str, str, int], ...]:
    if answers.expected is None or answers.predicted is None:
        return ()
    wrong = answers.expected != answers.predicted
    pairs, counts = np.unique(
        answers.expected[wrong] * len(names) + answers.predicted[wrong], return_counts=True
    )
    order = np.argsort(-counts, kind="stable")[:_MOST_CONFUSIONS]
    targets, given = np.divmod(pairs[order], len(names))
    return tuple(
        (names[target], names[answer], int(count))
        for target, answer, count in zip(targets, given, counts[order], strict=True)
    )
