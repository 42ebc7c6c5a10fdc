"""What a model says about a row, in the words of its user."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from gradsight_models.outputs import NumberOutputs, Outputs
from gradsight_models.token_preprocessing import UNCOUNTED

_LARGEST_LOSS = 700.0
"""Nats: the exponential of more is infinite."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Of `classes`: the class, its probability (0 to 1), and the most probable classes, best first."""

    label: str
    confidence: float
    best: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class LabelsPrediction:
    """Of `labels`: those at least as probable as the threshold, and every label's probability (0 to 1)."""

    labels: tuple[str, ...]
    probabilities: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class NumberPrediction:
    """Of `numbers`: the first number, and all of them by name, in the units of the target."""

    value: float
    values: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class TokensPrediction:
    """Of `tokens`: how well the model foresaw a text.

    `loss` is the mean over the row's tokens, in nats; `perplexity` its exponential; `tokens` how many were judged, the
    end of a text among them.
    """

    loss: float
    perplexity: float
    tokens: int


Answer = Prediction | LabelsPrediction | NumberPrediction | TokensPrediction


def answers_of(scores: Tensor, outputs: Outputs, *, most: int, threshold: float) -> Sequence[Answer]:
    """One answer for each row of scores [rows, size], of outputs of any kind but tokens."""
    if isinstance(outputs, NumberOutputs):
        rows = outputs.decode(scores).tolist()
        return [
            NumberPrediction(value=row[0], values=dict(zip(outputs.names, row, strict=True))) for row in rows
        ]
    if outputs.kind == "labels":
        rows = torch.sigmoid(scores.float()).tolist()
        return [_labels(row, outputs.names, threshold) for row in rows]
    values, numbers = torch.softmax(scores.float(), dim=1).topk(min(most, outputs.size), dim=1)
    return [
        _class([(outputs.names[n], value) for n, value in zip(row_numbers, row_values, strict=True)])
        for row_numbers, row_values in zip(numbers.tolist(), values.tolist(), strict=True)
    ]


def window_losses(scores: Tensor, targets: Tensor) -> Tensor:
    """Summed loss of each window in nats, float64 [windows], of scores [windows, tokens, size] and targets."""
    losses = functional.cross_entropy(
        scores.float().flatten(0, 1), targets.flatten(), ignore_index=UNCOUNTED, reduction="none"
    )
    return losses.view(targets.shape).double().sum(dim=1)


def token_answers(
    losses: Tensor, targets: Tensor, owners: npt.NDArray[np.int64], *, rows: int
) -> list[TokensPrediction]:
    """One answer for each row, of its windows' losses [windows] and targets [windows, tokens]."""
    places = torch.from_numpy(owners)
    counts = (targets != UNCOUNTED).sum(dim=1)
    sums = torch.zeros(rows, dtype=torch.float64).index_add_(0, places, losses).tolist()
    tokens = torch.zeros(rows, dtype=torch.int64).index_add_(0, places, counts).tolist()
    means = [total / max(count, 1) for total, count in zip(sums, tokens, strict=True)]
    return [
        TokensPrediction(loss=mean, perplexity=math.exp(min(mean, _LARGEST_LOSS)), tokens=count)
        for mean, count in zip(means, tokens, strict=True)
    ]


def _class(best: Sequence[tuple[str, float]]) -> Prediction:
    return Prediction(label=best[0][0], confidence=best[0][1], best=tuple(best))


def _labels(probabilities: Sequence[float], names: Sequence[str], threshold: float) -> LabelsPrediction:
    by_name = dict(zip(names, probabilities, strict=True))
    return LabelsPrediction(
        labels=tuple(name for name, probability in by_name.items() if probability >= threshold),
        probabilities=by_name,
    )
