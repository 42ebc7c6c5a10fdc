"""Rows of train, judged as validation is: what the model makes of rows that it has seen."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from gradsight.v1 import state_pb2
from gradsight_insight.categories import Categories
from gradsight_worker.training.answers import Autocast, HeldOut, answer
from gradsight_worker.training.data.encoding import ResidentRows
from gradsight_worker.training.data.sampling import SampledRows
from gradsight_worker.training.objectives import Objective
from gradsight_worker.training.preparation import Prepared

_MOST_ROWS = 1024
_MOST_NUMBERS = 1 << 23
_BUDGET = 0.1
"""Rows judged for a row trained on, at most: judging one costs a third of training on it."""


@dataclass(kw_only=True)
class TrainSample:
    """Rows of train, the same throughout a run, no more than validation has."""

    prepared: Prepared
    rows: int
    batch_size: int
    seed: int

    def due(self, step: int, *, before: int, total_steps: int) -> bool:
        """Whether to judge the sample at the evaluation after `step`, the one before having been after `before`.

        A function of the step only: a resumed run judges where the unbroken one does.
        """
        cost = self.rows / (_BUDGET * self.batch_size)
        return step == total_steps or step // cost > before // cost

    def error_ratio(self, model: nn.Module, objective: Objective, autocast: Autocast) -> float | None:
        """Share of wrong answers, 0 to 1."""
        wrong = answer(model, self._held_out, objective, self.prepared.outputs, autocast).wrong_rows
        return None if wrong is None else float(wrong.mean())

    @cached_property
    def _held_out(self) -> HeldOut:
        """Drawn when it is needed: reading rows would delay the first step."""
        train = self.prepared.train
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(len(train), generator=generator)[: self.rows].sort().values
        inputs, targets = train.fetch(chosen.to(train.index_device))
        sample = judged_rows_of_train(self.prepared, chosen.numpy())
        return replace(sample, encoded=ResidentRows((*inputs, targets)))


def judged_rows_of_train(prepared: Prepared, places: npt.NDArray[np.int64]) -> HeldOut:
    """These rows of train, ascending, each once, to be judged as validation is."""
    rows = prepared.splits.train.take(places)
    return replace(
        prepared.validation,
        split=state_pb2.SPLIT_TRAIN,
        rows=rows,
        encoded=SampledRows(prepared.train, places),
        categories=None if rows.categories is None else Categories.of(rows.categories),
    )


def train_sample(prepared: Prepared, *, batch_size: int, seed: int) -> TrainSample | None:
    """A sample drawn by the seed; None where answers are not right or wrong, or several belong to a row."""
    train = prepared.train
    if prepared.outputs.kind not in ("classes", "labels") or train.owners is not None:
        return None
    a_row = sum(math.prod(spec.shape) for spec in train.inputs_spec)
    most = min(_MOST_ROWS, max(1, _MOST_NUMBERS // max(1, a_row)))
    rows = min(len(train), len(prepared.validation.encoded), most)
    return TrainSample(prepared=prepared, rows=rows, batch_size=batch_size, seed=seed)
