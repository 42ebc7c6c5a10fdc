"""What answering without a model costs: the figures that a model has to beat."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradsight.v1 import state_pb2
from gradsight_insight.priors import Prior, class_prior
from gradsight_models.outputs import Outputs
from gradsight_worker.training.answers import HeldOut, targets_of
from gradsight_worker.training.data.encoding import EncodedRows
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.objectives import IGNORED, ClassObjective, Objective


def prior(
    objective: Objective,
    outputs: Outputs,
    train: EncodedRows,
    held_out: HeldOut,
    counts: npt.NDArray[np.int64] | None = None,
) -> Prior:
    """Cost on held-out rows of the same answer for every row, the best one by train.

    Classes and tokens: train's frequencies. Labels: each one's frequency. Numbers: train's mean or median, whichever
    has the lower training loss. `counts` are train's answers by class or token, where they are known already.

    Raises:
        TrainingFailed: No token of train, or of the held-out rows, counts.
    """
    if outputs.kind in ("classes", "tokens"):
        counts = answer_counts(train, outputs) if counts is None else counts
        held_out_counts = answer_counts(held_out.encoded, outputs)
        _require_tokens(counts, state_pb2.SPLIT_TRAIN)
        _require_tokens(held_out_counts, held_out.split)
        return class_prior(counts, held_out_counts)
    targets = torch.cat(list(targets_of(train, outputs)))
    constants = _label_constants(targets) if outputs.kind == "labels" else _number_constants(targets)
    best = min(constants, key=lambda constant: objective.loss(constant.expand_as(targets), targets).item())
    expected = torch.cat(list(targets_of(held_out.encoded, outputs)))
    judged = objective.judge(best.to(expected.device).expand_as(expected), expected)
    return Prior(
        error_ratio=None if judged.wrong is None else judged.wrong.double().mean().item(),
        loss=judged.loss.double().mean().item(),
    )


def training_prior_loss(
    objective: Objective, outputs: Outputs, train: EncodedRows, counts: npt.NDArray[np.int64] | None
) -> float:
    """Training loss over train of the best constant answer, in the training loss's unit.

    `counts` are train's answers by class or token, where there are such.
    """
    if counts is not None:
        classes = objective if isinstance(objective, ClassObjective) else ClassObjective()
        return classes.constant_loss(counts)
    targets = torch.cat(list(targets_of(train, outputs)))
    constants = _label_constants(targets) if outputs.kind == "labels" else _number_constants(targets)
    return min(objective.loss(constant.expand_as(targets), targets).item() for constant in constants)


def answer_counts(encoded: EncodedRows, outputs: Outputs) -> npt.NDArray[np.int64]:
    """How often each class, or token, is the expected answer."""
    counts = torch.zeros(outputs.size, dtype=torch.int64)
    for targets in targets_of(encoded, outputs):
        counts += torch.bincount(targets[targets != IGNORED], minlength=outputs.size).cpu()
    return counts.numpy()


def _require_tokens(counts: npt.NDArray[np.int64], split: state_pb2.Split.ValueType) -> None:
    if not counts.any():
        name = state_pb2.Split.Name(split).removeprefix("SPLIT_").lower()
        raise TrainingFailed.by_data(
            f"no row of {name} has a token to foresee: its texts are empty or too short",
            field="data.input_columns",
        )


def _label_constants(targets: Tensor) -> list[Tensor]:
    """Scores that say each label's frequency; one that all rows have, or none, counts as half a row short of that."""
    rows = len(targets)
    with_label = targets.double().sum(dim=0).clamp(0.5, rows - 0.5)
    return [torch.logit(with_label / rows).float()]


def _number_constants(targets: Tensor) -> list[Tensor]:
    return [targets.double().mean(dim=0).float(), targets.median(dim=0).values]
