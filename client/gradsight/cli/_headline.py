"""The one figure that a model is known by: error of classes and labels, RMSE of numbers, perplexity of tokens."""

import dataclasses
from typing import Self

from gradsight._figures import number, percent, points
from gradsight._measurements import EvaluationCompleted


@dataclasses.dataclass(frozen=True)
class Headline:
    """A figure with its name; smaller is better.

    Attributes:
        name: What people call it.
        metric: Name of its curve on validation.
        value: In its own unit.
    """

    name: str
    metric: str
    value: float

    @classmethod
    def of(cls, evaluation: EvaluationCompleted) -> Self:
        """Returns the figure of an evaluation."""
        if evaluation.perplexity is not None:
            return cls("perplexity", "validation_perplexity", evaluation.perplexity)
        if evaluation.error_ratio is not None:
            return cls("error", "validation_error_ratio", evaluation.error_ratio)
        if evaluation.root_mean_square_error is not None:
            return cls("RMSE", "validation_root_mean_square_error", evaluation.root_mean_square_error)
        return cls("loss", "validation_loss", evaluation.loss)

    @property
    def figure(self) -> str:
        """The value as people read it, without its name."""
        return percent(self.value) if self.name == "error" else number(self.value)

    @property
    def short(self) -> str:
        """The value with its name, where the name is not plain: `9.1 %`, `RMSE 3.2`."""
        return self.figure if self.name == "error" else f"{self.name} {self.figure}"

    def change_since(self, before: "Headline") -> str:
        """Returns how far it moved from `before`: errors in percentage points, others as a percentage of it."""
        if self.name == "error":
            return f"{points(self.value - before.value)} points"
        if not before.value > 0:
            return "–"
        return f"{points(self.value / before.value - 1)} %"


METRICS = (
    "validation_error_ratio",
    "validation_root_mean_square_error",
    "validation_perplexity",
    "validation_loss",
)
"""Curves of which a run has its headline's."""
