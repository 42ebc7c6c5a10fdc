"""The evaluations of a run, and the rows of those that paired tests need."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gradsight_insight.json_values import packed_fields, unpacked_fields
from gradsight_insight.signals import CategorySignals, EvaluationSignals, HeldOutRows, State

MOST_EVALUATIONS = 256
NEWEST_WITH_ROWS = 6
"""Evaluations whose rows are kept besides the best one's: a test at three in a row, each against one three before it.
Rows are what makes a training state large: 16,384 of them take 90 kB."""


class EvaluationHistory:
    """The newest evaluations, oldest first, and always the best one."""

    def __init__(self) -> None:
        self._evaluations: list[EvaluationSignals] = []
        self.count = 0
        """Evaluations of the run so far, forgotten ones included."""

    def add(self, evaluation: EvaluationSignals) -> None:
        """Take in the newest."""
        self._evaluations.append(evaluation)
        self.count += 1
        best = self._best()
        if len(self._evaluations) > MOST_EVALUATIONS:
            del self._evaluations[1 if best == 0 else 0]
            best = self._best()
        oldest = len(self._evaluations) - NEWEST_WITH_ROWS
        for place, kept in enumerate(self._evaluations[: max(0, oldest)]):
            if kept.rows is not None and place != best:
                self._evaluations[place] = replace(kept, rows=None)

    @property
    def evaluations(self) -> tuple[EvaluationSignals, ...]:
        """Oldest first, at most 256."""
        return tuple(self._evaluations)

    def _best(self) -> int:
        places = range(len(self._evaluations) - 1, -1, -1)
        return next((place for place in places if self._evaluations[place].kept), -1)

    def state(self) -> State:
        """All of it as plain JSON values, exact."""
        return {"count": self.count, "evaluations": [_packed(kept) for kept in self._evaluations]}

    @classmethod
    def from_state(cls, state: State) -> "EvaluationHistory":
        """The history that gave `state`."""
        history = cls()
        history.count = state["count"]
        history._evaluations = [_unpacked(kept) for kept in state["evaluations"]]
        return history


def _packed(evaluation: EvaluationSignals) -> dict[str, Any]:
    rows = evaluation.rows
    return {
        **packed_fields(evaluation),
        "categories": [vars(category) for category in evaluation.categories],
        "classes": [vars(category) for category in evaluation.classes],
        "confusions": [list(confusion) for confusion in evaluation.confusions],
        "rows": None if rows is None else packed_fields(rows),
    }


def _unpacked(state: Mapping[str, Any]) -> EvaluationSignals:
    nested: dict[str, Any] = {
        "categories": tuple(CategorySignals(**category) for category in state["categories"]),
        "classes": tuple(CategorySignals(**category) for category in state["classes"]),
        "confusions": tuple((target, answer, rows) for target, answer, rows in state["confusions"]),
        "rows": None if state["rows"] is None else HeldOutRows(**unpacked_fields(state["rows"])),
    }
    flat = {name: value for name, value in state.items() if name not in nested}
    return EvaluationSignals(**unpacked_fields(flat), **nested)
