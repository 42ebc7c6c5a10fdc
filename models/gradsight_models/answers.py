"""What a model says about a row, in the words of its user."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradsight_models.outputs import NumberOutputs, Outputs


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
    """Of `tokens`: how well the model foresaw a text, and how it would go on.

    `loss` is the mean over the row's tokens, in nats; `perplexity` its exponential; `tokens` how many were judged.
    `next` are the most probable next tokens with their probabilities (0 to 1), best first.
    """

    loss: float
    perplexity: float
    tokens: int
    next: tuple[tuple[str | int, float], ...]


Answer = Prediction | LabelsPrediction | NumberPrediction | TokensPrediction


def answers_of(
    scores: Tensor, outputs: Outputs, *, most: int, threshold: float
) -> Sequence[Prediction | LabelsPrediction | NumberPrediction]:
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


def _class(best: Sequence[tuple[str, float]]) -> Prediction:
    return Prediction(label=best[0][0], confidence=best[0][1], best=tuple(best))


def _labels(probabilities: Sequence[float], names: Sequence[str], threshold: float) -> LabelsPrediction:
    by_name = dict(zip(names, probabilities, strict=True))
    return LabelsPrediction(
        labels=tuple(name for name, probability in by_name.items() if probability >= threshold),
        probabilities=by_name,
    )
