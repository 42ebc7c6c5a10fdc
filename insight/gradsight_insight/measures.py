"""Figures that fit a kind of answer: F1 of classes and labels, distances of numbers, perplexity of tokens."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt


def macro_f1(targets: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], classes: int) -> float:
    """Mean over the classes of F1, the harmonic mean of precision and recall, 0 to 1.

    A class that neither targets nor predictions have is left out: it says nothing about the model.

    Args:
        targets: Class of each row, 0 to below `classes`, at least one row.
        predicted: Class that the model answers, likewise.
        classes: Number of classes.

    Raises:
        ValueError: No rows, vectors of different lengths, or a class out of range.
    """
    _check_classes("predicted", predicted, classes, rows=len(targets))
    _check_classes("targets", targets, classes, rows=len(predicted))
    right = np.bincount(targets[targets == predicted], minlength=classes)
    named = np.bincount(targets, minlength=classes) + np.bincount(predicted, minlength=classes)
    return float((2 * right[named > 0] / named[named > 0]).mean())


def macro_f1_of_labels(targets: npt.NDArray[np.bool_], predicted: npt.NDArray[np.bool_]) -> float | None:
    """The same over labels: whether each row has each label, shape (rows, labels).

    None when neither targets nor predictions have any label.
    """
    right = (targets & predicted).sum(axis=0)
    named = targets.sum(axis=0) + predicted.sum(axis=0)
    return float((2 * right[named > 0] / named[named > 0]).mean()) if named.any() else None


def root_mean_square(residuals: npt.NDArray[Any]) -> float:
    """Root of the mean square of predicted less expected numbers, over all rows and columns, in their unit."""
    return float(np.sqrt(np.square(residuals, dtype=np.float64).mean()))


def mean_absolute(residuals: npt.NDArray[Any]) -> float:
    """Mean magnitude of predicted less expected numbers, over all rows and columns, in their unit."""
    return float(np.abs(residuals).mean(dtype=np.float64))


def perplexity(loss: float) -> float:
    """Exponential of a loss per token in nats: as if so many tokens were equally likely, at least 1 or infinite."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def _check_classes(name: str, column: npt.NDArray[np.int64], classes: int, *, rows: int) -> None:
    if not rows or len(column) != rows or column.min() < 0 or column.max() >= classes:
        raise ValueError(
            f"{name}: got {len(column)} rows, allowed: one per row, at least 1 row, each 0 to {classes - 1}"
        )
