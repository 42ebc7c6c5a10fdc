"""Training rows that the kept weights contradict: a file of them, and categories where they crowd."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet
from torch import nn

from gradsight.v1 import insight_pb2, state_pb2
from gradsight_insight.categories import Categories
from gradsight_insight.kinds import Observation
from gradsight_insight.suspects import crowded_categories, most_suspect_first
from gradsight_models.outputs import Outputs
from gradsight_worker.training.answers import Answers, Autocast, answer
from gradsight_worker.training.data.sampling import evenly_spaced
from gradsight_worker.training.objectives import Objective
from gradsight_worker.training.preparation import Prepared
from gradsight_worker.training.train_sample import judged_rows_of_train

MOST_ANSWERED = 100_000
"""Training rows that are answered once more at the end; of a larger file so many, evenly spaced."""
_MOST_WRITTEN = 10_000
_SHARE_WRITTEN = 0.15
_MOST_SHOWN = 50
"""Rows of one finding."""


@dataclass(frozen=True, kw_only=True)
class Suspects:
    """Training rows in the order in which they should be looked at."""

    order: npt.NDArray[np.int64]
    """Places, most suspect first."""
    ids: npt.NDArray[np.object_]
    categories: Categories | None
    losses: npt.NDArray[np.float32]
    targets: Sequence[str]
    """Names of the classes as the file has them; empty where answers are no classes."""
    predicted: Sequence[str]
    contradicted: npt.NDArray[np.bool_] | None
    """Whether the model answers each row otherwise; None where a row is not right or wrong."""

    def crowded(self, step: int, thresholds: Mapping[str, float]) -> Sequence[Observation]:
        """As `crowded_categories`; none without categories, or where no row is right or wrong."""
        if self.categories is None or self.contradicted is None:
            return ()
        return crowded_categories(self.order, self.categories, self.contradicted, step, thresholds)

    def rows(self, category: str | None = None) -> list[insight_pb2.SuspectRow]:
        """The most suspect rows, at most 50: of one category, or of all when it is None."""
        chosen: Iterable[tuple[int, int]] = enumerate(self.order.tolist(), 1)
        if category is not None:
            chosen = (pair for pair in chosen if self._category_of(pair[1]) == category)
        return [
            self._message(rank, place) for (rank, place), _ in zip(chosen, range(_MOST_SHOWN), strict=False)
        ]

    def write(self, path: Path) -> None:
        """Write the most suspect rows, worst first: 15 % of them, at most 10,000.

        Columns: `rank` from 1, `row_id`, `category` (null without one), `loss` in the objective's unit, and for classes
        `target` and `predicted`.
        """
        places = self.order[: min(_MOST_WRITTEN, math.ceil(_SHARE_WRITTEN * len(self.order)))]
        columns: dict[str, pa.Array] = {
            "rank": pa.array(np.arange(1, len(places) + 1)),
            "row_id": pa.array(self.ids[places], pa.string()),
            "category": pa.array([self._category_of(place) or None for place in places], pa.string()),
            "loss": pa.array(self.losses[places], pa.float32()),
        }
        if self.targets:
            columns["target"] = pa.array([self.targets[place] for place in places], pa.string())
            columns["predicted"] = pa.array([self.predicted[place] for place in places], pa.string())
        path.parent.mkdir(parents=True, exist_ok=True)
        pa.parquet.write_table(pa.table(columns), path)

    def _category_of(self, place: int) -> str:
        return "" if self.categories is None else self.categories.names[self.categories.codes[place]]

    def _message(self, rank: int, place: int) -> insight_pb2.SuspectRow:
        return insight_pb2.SuspectRow(
            row_id=self.ids[place],
            split=state_pb2.SPLIT_TRAIN,
            category=self._category_of(place),
            target=self.targets[place] if self.targets else "",
            predicted=self.predicted[place] if self.predicted else "",
            loss=float(self.losses[place]),
            rank=rank,
        )


def find_suspects(
    prepared: Prepared, model: nn.Module, objective: Objective, autocast: Autocast, most: int = MOST_ANSWERED
) -> Suspects:
    """Let the model answer training rows once, and put them in order."""
    sample = judged_rows_of_train(prepared, evenly_spaced(len(prepared.splits.train), most))
    answers = answer(model, sample, objective, prepared.outputs, autocast)
    targets, predicted = _names(answers, prepared.outputs)
    return Suspects(
        order=most_suspect_first(answers.losses),
        ids=sample.rows.ids,
        categories=sample.categories,
        losses=answers.losses,
        targets=targets,
        predicted=predicted,
        contradicted=answers.wrong_rows,
    )


def _names(answers: Answers, outputs: Outputs) -> tuple[Sequence[str], Sequence[str]]:
    if answers.expected is None or answers.predicted is None:
        return (), ()
    names = np.array(outputs.names, dtype=object)
    return names[answers.expected].tolist(), names[answers.predicted].tolist()
