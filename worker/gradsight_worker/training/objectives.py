"""The loss to minimise, and what a model's scores are worth row by row.

Training and judging differ on purpose: only the training loss knows smoothing and weights, so that held-out losses of
two jobs can be compared whatever they were trained with. All of it is computed in float32, whatever the model computes
in. Nothing here asks the device for a number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from gradsight._objectives import TARGETS
from gradsight.v1 import spec_pb2
from gradsight_models.outputs import NumberOutputs, Outputs
from gradsight_worker.training.errors import TrainingFailed

IGNORED = -100
"""Target of a token that does not count."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What some scores are worth: one entry per encoded row, on the scores' device."""

    loss: Tensor
    """float32 [rows], in the unit that is reported, neither smoothed nor weighted. Of tokens: the sum over those that
    count."""
    predicted: Tensor | None
    """Classes: int64 [rows]. Labels: bool [rows, size]. Numbers: float32 [rows, size], in deviations from train's mean.
    None for tokens."""
    wrong: Tensor | None = None
    """int64 [rows]: wrong answers; None where answers are not right or wrong."""
    counted: Tensor | None = None
    """int64 [rows]: answers in a row that count; None: one each."""
    confidence: Tensor | None = None
    """float32 [rows]: probability of the answer, 0 to 1. Of classes only."""


class Objective(Protocol):
    """What training minimises and evaluation reports."""

    @property
    def scale(self) -> float:
        """What turns the training loss into the unit that is reported."""
        ...

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Mean training loss of a batch, float32 scalar."""
        ...

    def count(self, targets: Tensor) -> int | Tensor:
        """What that mean is over: the weight of a part of a batch. A tensor stays on the device."""
        ...

    def judge(self, scores: Tensor, targets: Tensor) -> Judged:
        """What the scores are worth, row by row."""
        ...


@dataclass(frozen=True, kw_only=True)
class ClassObjective:
    """Cross entropy over classes, in nats."""

    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes, 0 to below 1."""
    weights: Tensor | None = None
    """How much a row counts, by its class: float32 [classes], 1 on average over train's rows. None: all alike."""
    scale: float = 1.0

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Sum over the rows divided by their number, not by their weights: so a batch can be computed in parts."""
        if self.weights is None:
            return functional.cross_entropy(scores.float(), targets, label_smoothing=self.label_smoothing)
        losses = functional.cross_entropy(
            scores.float(), targets, label_smoothing=self.label_smoothing, reduction="none"
        )
        return (losses * self.weights[targets]).mean()

    def constant_loss(self, counts: npt.NDArray[np.int64]) -> float:
        """Mean loss over so many rows of each class of the constant answer with the lowest one."""
        weights = np.ones(len(counts)) if self.weights is None else self.weights.double().cpu().numpy()
        weighted = counts * weights / counts.sum()
        smoothing = self.label_smoothing
        expected = (1 - smoothing) * weighted + smoothing * weighted.sum() / len(counts)
        shares = expected[expected > 0]
        return float(-np.log(shares / shares.sum()) @ shares)

    def count(self, targets: Tensor) -> int:
        """Rows."""
        return len(targets)

    def judge(self, scores: Tensor, targets: Tensor) -> Judged:
        """The class of the highest score is the answer; scores that are no numbers are wrong."""
        scores = scores.float()
        losses = functional.cross_entropy(scores, targets, reduction="none")
        highest, predicted = scores.max(dim=1)
        wrong = (predicted != targets) | losses.isnan()
        confidence = (highest - scores.logsumexp(dim=1)).exp()
        return Judged(loss=losses, predicted=predicted, wrong=wrong.long(), confidence=confidence)


@dataclass(frozen=True, kw_only=True)
class LabelObjective:
    """Cross entropy of yes-or-no labels, in nats, averaged over the labels."""

    scale: float = 1.0

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Mean over rows and labels."""
        return functional.binary_cross_entropy_with_logits(scores.float(), targets)

    def count(self, targets: Tensor) -> int:
        """Rows."""
        return len(targets)

    def judge(self, scores: Tensor, targets: Tensor) -> Judged:
        """Labels at least as likely as not are the answer; it is wrong when one of them is."""
        losses = functional.binary_cross_entropy_with_logits(scores.float(), targets, reduction="none")
        predicted = scores >= 0
        wrong = (predicted != targets.bool()) | losses.isnan()
        return Judged(loss=losses.mean(dim=1), predicted=predicted, wrong=wrong.any(dim=1).long())


@dataclass(frozen=True, kw_only=True)
class NumberObjective:
    """Distance between numbers, in standard deviations over train, averaged over the columns."""

    distance: Callable[..., Tensor]
    """From scores and targets, both [rows, columns], and a `reduction`, as torch's own losses."""
    scale: float

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Mean over rows and columns."""
        return self.distance(scores.float(), targets)

    def count(self, targets: Tensor) -> int:
        """Rows."""
        return len(targets)

    def judge(self, scores: Tensor, targets: Tensor) -> Judged:
        """The scores are the answer, more or less wrong."""
        scores = scores.float()
        losses = self.distance(scores, targets, reduction="none").mean(dim=1)
        return Judged(loss=losses * self.scale, predicted=scores)


@dataclass(frozen=True, kw_only=True)
class TokenObjective:
    """Cross entropy of the next token, in nats per token that counts."""

    scale: float = 1.0

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Mean over the tokens that count; 0 when none does."""
        total = functional.cross_entropy(
            scores.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return total / self.count(targets).clamp(min=1)

    def count(self, targets: Tensor) -> Tensor:
        """Tokens that count, int64 scalar on the device."""
        return (targets != IGNORED).sum()

    def judge(self, scores: Tensor, targets: Tensor) -> Judged:
        """The token of the highest score is the answer, at each place that counts."""
        losses = functional.cross_entropy(
            scores.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none"
        )
        losses = losses.view_as(targets)
        counts = targets != IGNORED
        wrong = ((scores.argmax(dim=2) != targets) | losses.isnan()) & counts
        return Judged(
            loss=losses.sum(dim=1),
            predicted=None,
            wrong=wrong.sum(dim=1),
            counted=counts.sum(dim=1),
        )


def build_objective(
    spec: spec_pb2.ObjectiveSpec,
    outputs: Outputs,
    *,
    class_counts: npt.NDArray[np.int64] | None,
    device: torch.device,
) -> Objective:
    """The objective that a spec names, or the model's own when it names none.

    Args:
        spec: With the service's defaults filled in.
        outputs: What the scores mean.
        class_counts: Rows of train by class; needed for class weights only.
        device: Where the scores will be.

    Raises:
        TrainingFailed: The objective does not fit the outputs, or a class weight names no class.
    """
    kind = spec.WhichOneof("kind") or _OWN[outputs.kind]
    if outputs.kind != TARGETS[kind]:
        raise TrainingFailed.by_spec(
            f"objective {kind} needs a model and a target of {TARGETS[kind]}, got {outputs.kind}; "
            f"allowed here: {', '.join(name for name, judged in TARGETS.items() if judged == outputs.kind)}",
            field=f"objective.{kind}",
        )
    if kind == "cross_entropy":
        weights = _class_weights(spec.cross_entropy, outputs.names, class_counts)
        return ClassObjective(
            label_smoothing=spec.cross_entropy.label_smoothing,
            weights=None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device),
        )
    if kind == "binary_cross_entropy":
        return LabelObjective()
    if kind == "causal_language_model":
        return TokenObjective()
    assert isinstance(outputs, NumberOutputs)
    return _number_objective(kind, spec, outputs)


_OWN = {
    "classes": "cross_entropy",
    "labels": "binary_cross_entropy",
    "numbers": "mean_squared_error",
    "tokens": "causal_language_model",
}


def _number_objective(kind: str, spec: spec_pb2.ObjectiveSpec, outputs: NumberOutputs) -> NumberObjective:
    # Columns of different units have no common one: their loss stays in deviations.
    deviation = outputs.deviation[0] if outputs.size == 1 else 1.0
    if kind == "mean_absolute_error":
        return NumberObjective(distance=functional.l1_loss, scale=deviation)
    if kind == "mean_squared_error":
        return NumberObjective(distance=functional.mse_loss, scale=deviation**2)
    delta = spec.huber.delta if spec.huber.HasField("delta") else 1.0
    return NumberObjective(distance=partial(functional.huber_loss, delta=delta), scale=deviation**2)


def _class_weights(
    spec: spec_pb2.CrossEntropy, names: tuple[str, ...], class_counts: npt.NDArray[np.int64] | None
) -> npt.NDArray[np.float64] | None:
    """Weights by class with a mean of 1 over train's rows, so that the learning rate means what it did."""
    balanced = spec.class_weighting == spec_pb2.CLASS_WEIGHTING_BALANCED
    if not balanced and not spec.class_weights:
        return None
    assert class_counts is not None, "class weights need the classes' rows"
    if balanced:
        weights = 1.0 / np.maximum(class_counts, 1)
    else:
        if unknown := sorted(set(spec.class_weights) - set(names)):
            shown = ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
            raise TrainingFailed.by_spec(
                f"class_weights: got a weight for {unknown[0]!r}, allowed: the {len(names)} classes of the rows "
                f"({shown}); leave it out or correct its name",
                field="objective.cross_entropy.class_weights",
            )
        weights = np.array([spec.class_weights.get(name, 1.0) for name in names])
    mean: float = class_counts @ weights / class_counts.sum()
    return weights / mean
