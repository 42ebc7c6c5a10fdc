"""Held-out error: overall, weighted by impact, by category."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Self

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
    errors: int | None
    """Wrong answers; None where answers are not right or wrong."""
    error_ratio: float | None
    """Share of wrong answers, 0 to 1; None likewise, and where no answer counts."""
    loss: float
    """Mean loss of an answer, in the objective's unit; may be non-finite, NaN where no answer counts."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Held-out error of one model on one split."""

    examples: int
    """Rows, at least 1."""
    errors: int | None
    """Wrong answers; None where answers are not right or wrong."""
    error_ratio: float | None
    """Share of wrong answers, 0 to 1; None likewise, and where no answer counts."""
    weighted_error_ratio: float | None
    """Share of wrong answers weighted by category impact, 0 to 1; None likewise."""
    loss: float
    """Mean loss of an answer, in the objective's unit; may be non-finite, NaN where no answer counts."""
    weighted_loss: float
    """The same weighted by category impact."""
    categories: tuple[CategoryFigures, ...]
    """Most frequent first, at most MOST_CATEGORIES, the rest as `other`; empty without categories."""


def evaluate(
    losses: npt.NDArray[Any],
    wrong: npt.NDArray[Any] | None,
    *,
    counted: npt.NDArray[np.int64] | None = None,
    categories: Categories | None = None,
    impacts: Mapping[str, float] = NO_IMPACTS,
) -> Evaluation:
    """Figures of one model on one split.

    Args:
        losses: Mean loss of each row's answers, shape (rows,), floating; any value where a row has none that counts.
        wrong: Wrong answers of each row, shape (rows,), boolean or integers; None where answers are not right or wrong.
        counted: Answers of each row that count, at least 0, such as the tokens of a text; None: one each.
        categories: Category of each row; None when there are none.
        impacts: How much an answer counts in the weighted figures, by category, at least 0; others count 1.
            Categories that are folded into `other` keep their own.

    Raises:
        ValueError: No rows, vectors of different lengths, or an impact that is below 0 or not finite.
    """
    _check_lengths(losses, wrong, counted, categories)
    rows = len(losses)
    answers = np.ones(rows, dtype=np.int64) if counted is None else counted
    all_alike = Categories(names=("",), codes=np.zeros(rows, dtype=np.int64))
    sums = _Sums.of(losses, wrong, answers, all_alike if categories is None else categories)
    equal = np.ones(len(sums.rows))
    weights = equal if categories is None else _weights(categories, impacts)
    if not weights @ sums.answers > 0:
        weights = equal
    return Evaluation(
        examples=rows,
        errors=None if wrong is None else int(wrong.sum()),
        error_ratio=sums.error_ratio(equal),
        weighted_error_ratio=sums.error_ratio(weights),
        loss=sums.loss(equal),
        weighted_loss=sums.loss(weights),
        categories=() if categories is None else _by_category(losses, wrong, answers, categories.folded()),
    )


def _check_lengths(
    losses: npt.NDArray[Any],
    wrong: npt.NDArray[Any] | None,
    counted: npt.NDArray[np.int64] | None,
    categories: Categories | None,
) -> None:
    vectors = {"losses": losses, "answers": wrong, "counts": counted, "categories": categories}
    lengths = {name: len(vector) for name, vector in vectors.items() if vector is not None}
    if len(set(lengths.values())) != 1 or not len(losses):
        got = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise ValueError(f"evaluation: got {got}; allowed: one of each per row, at least one row")


class _Sums(NamedTuple):
    """Over the rows of each category, shape (categories,)."""

    rows: npt.NDArray[np.int64]
    answers: npt.NDArray[np.float64]
    errors: npt.NDArray[np.float64] | None
    losses: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls,
        losses: npt.NDArray[Any],
        wrong: npt.NDArray[Any] | None,
        answers: npt.NDArray[np.int64],
        categories: Categories,
    ) -> Self:
        codes, size = categories.codes, len(categories.names)
        totals = np.where(answers > 0, losses * answers.astype(np.float64), 0.0)
        return cls(
            rows=categories.counts(),
            answers=_by_code(answers, codes, size),
            errors=None if wrong is None else _by_code(wrong, codes, size),
            losses=_by_code(totals, codes, size),
        )

    def loss(self, weights: npt.NDArray[np.float64]) -> float:
        """Mean loss of an answer; NaN without one."""
        return _quotient(self.losses, self.answers, weights)

    def error_ratio(self, weights: npt.NDArray[np.float64]) -> float | None:
        """Share of wrong answers; None without one."""
        if self.errors is None:
            return None
        ratio = _quotient(self.errors, self.answers, weights)
        return None if math.isnan(ratio) else ratio


def _by_code(values: npt.NDArray[Any], codes: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.float64]:
    return np.bincount(codes, weights=values, minlength=size).astype(np.float64, copy=False)


def _quotient(
    above: npt.NDArray[np.float64], below: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]
) -> float:
    # A category without weight must not spoil the sum with a loss that is not finite.
    above, below, weights = above[weights > 0], below[weights > 0], weights[weights > 0]
    total = weights @ below
    return float(weights @ above / total) if total > 0 else math.nan


def _weights(categories: Categories, impacts: Mapping[str, float]) -> npt.NDArray[np.float64]:
    if unfit := [name for name, impact in impacts.items() if not 0 <= impact < math.inf]:
        raise ValueError(
            f"impact of category {unfit[0]!r}: got {impacts[unfit[0]]!r}, allowed: finite, at least 0"
        )
    return np.array([impacts.get(name, 1.0) for name in categories.names])


def _by_category(
    losses: npt.NDArray[Any],
    wrong: npt.NDArray[Any] | None,
    answers: npt.NDArray[np.int64],
    categories: Categories,
) -> tuple[CategoryFigures, ...]:
    sums = _Sums.of(losses, wrong, answers, categories)
    only = np.eye(len(categories.names))
    return tuple(
        CategoryFigures(
            category=name,
            examples=int(sums.rows[code]),
            errors=None if sums.errors is None else int(sums.errors[code]),
            error_ratio=sums.error_ratio(only[code]),
            loss=sums.loss(only[code]),
        )
        for code, name in enumerate(categories.names)
    )
