"""Held-out error: overall, weighted by impact, by category, and what answering without a model would cost."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gradsight_insight.categories import Categories

NO_IMPACTS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class CategoryFigures:
    """Held-out error in one category."""

    category: str
    examples: int
    """Rows, at least 1."""
    errors: int
    """Wrong answers."""
    error_ratio: float
    """Share of wrong answers, 0 to 1."""
    loss: float
    """Mean loss, in the objective's unit; may be non-finite."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Held-out error of one model on one split."""

    examples: int
    """Rows, at least 1."""
    errors: int
    """Wrong answers."""
    error_ratio: float
    """Share of wrong answers, 0 to 1."""
    weighted_error_ratio: float
    """Share of wrong answers weighted by category impact, 0 to 1."""
    loss: float
    """Mean loss, in the objective's unit; may be non-finite."""
    categories: tuple[CategoryFigures, ...]
    """Most frequent first, at most MOST_CATEGORIES, the rest as `other`; empty without categories."""


def evaluate(
    losses: npt.NDArray[Any],
    correct: npt.NDArray[np.bool_],
    categories: Categories | None = None,
    impacts: Mapping[str, float] = NO_IMPACTS,
) -> Evaluation:
    """Figures of one model on one split.

    Args:
        losses: Loss of each row, shape (rows,), floating.
        correct: Whether each row was answered right, shape (rows,).
        categories: Category of each row; None when there are none.
        impacts: How much an error counts, by category, at least 0; others count 1. Categories that are folded
            into `other` keep their own.

    Raises:
        ValueError: No rows, vectors of different lengths, or an impact below 0.
    """
    rows = len(losses)
    if not rows or len(correct) != rows or (categories is not None and len(categories) != rows):
        lengths = f"{rows} losses, {len(correct)} answers, {'no' if categories is None else len(categories)} categories"
        raise ValueError(f"evaluation: got {lengths}; allowed: one of each per row, at least one row")
    wrong = ~correct
    error_ratio = float(wrong.mean())
    return Evaluation(
        examples=rows,
        errors=int(wrong.sum()),
        error_ratio=error_ratio,
        weighted_error_ratio=(
            error_ratio if categories is None else weighted_error_ratio(wrong, categories, impacts)
        ),
        loss=float(losses.mean(dtype=np.float64)),
        categories=() if categories is None else _by_category(losses, wrong, categories.folded()),
    )


def weighted_error_ratio(
    wrong: npt.NDArray[np.bool_], categories: Categories, impacts: Mapping[str, float]
) -> float:
    """Σ impact × errors over Σ impact × examples, 0 to 1; the plain error ratio when no row here has an impact.

    Raises:
        ValueError: An impact is below 0 or not finite.
    """
    if unfit := [name for name, impact in impacts.items() if not 0 <= impact < math.inf]:
        raise ValueError(
            f"impact of category {unfit[0]!r}: got {impacts[unfit[0]]!r}, allowed: finite, at least 0"
        )
    weights = np.array([impacts.get(name, 1.0) for name in categories.names])
    examples = categories.counts()
    errors = np.bincount(categories.codes[wrong], minlength=len(categories.names))
    if not weights @ examples > 0:
        return float(wrong.mean())
    return float(weights @ errors / (weights @ examples))


def _by_category(
    losses: npt.NDArray[Any], wrong: npt.NDArray[np.bool_], categories: Categories
) -> tuple[CategoryFigures, ...]:
    size = len(categories.names)
    examples = categories.counts()
    errors = np.bincount(categories.codes[wrong], minlength=size)
    loss_sums = np.bincount(categories.codes, weights=losses, minlength=size)
    return tuple(
        CategoryFigures(
            category=name,
            examples=int(examples[code]),
            errors=int(errors[code]),
            error_ratio=float(errors[code] / examples[code]),
            loss=float(loss_sums[code] / examples[code]),
        )
        for code, name in enumerate(categories.names)
    )


class Interval(NamedTuple):
    """Bounds of a ratio, 0 to 1."""

    low: float
    high: float


def wilson_interval(errors: int, examples: int, *, z: float = 1.959963984540054) -> Interval:
    """Wilson's score interval of an error ratio; `z` is the normal quantile, 1.96 for 95 %.

    Unlike the textbook interval it stays within 0 to 1 and keeps its promise for few rows and for no errors.

    Raises:
        ValueError: Not 0 ≤ errors ≤ examples, or no examples.
    """
    if not 0 <= errors <= examples or not examples:
        raise ValueError(f"got {errors} errors in {examples} examples, allowed: 0 to all of at least 1")
    ratio, scale = errors / examples, 1 + z * z / examples
    centre = (ratio + z * z / (2 * examples)) / scale
    half = z * math.sqrt(ratio * (1 - ratio) / examples + z * z / (4 * examples * examples)) / scale
    return Interval(
        low=0.0 if errors == 0 else max(0.0, centre - half),
        high=1.0 if errors == examples else min(1.0, centre + half),
    )


class Prior(NamedTuple):
    """What answering from train's class frequencies alone would cost on held-out rows."""

    error_ratio: float
    """Of always answering train's most frequent class, 0 to 1."""
    loss: float
    """Cross entropy of always answering train's class frequencies, in nats; finite."""


def prior_baseline(
    train_targets: npt.NDArray[np.int64], targets: npt.NDArray[np.int64], classes: int
) -> Prior:
    """The prior's error and loss on held-out rows: what a model has to beat.

    A class that train lacks counts as half a row of it, so that the loss stays finite; without such a class the
    frequencies are exact. Of equally frequent classes the first is answered.

    Args:
        train_targets: Class of each train row, 0 to below `classes`, at least one.
        targets: Class of each held-out row, 0 to below `classes`, at least one.
        classes: Number of classes.

    Raises:
        ValueError: No rows, or a class out of range.
    """
    for name, column in (("train_targets", train_targets), ("targets", targets)):
        if not len(column) or column.min() < 0 or column.max() >= classes:
            raise ValueError(f"{name}: got {len(column)} rows, allowed: at least 1, each 0 to {classes - 1}")
    counts = np.bincount(train_targets, minlength=classes)
    weights = np.maximum(counts, 0.5)
    return Prior(
        error_ratio=float((targets != counts.argmax()).mean()),
        loss=float(-np.log(weights / weights.sum())[targets].mean()),
    )
