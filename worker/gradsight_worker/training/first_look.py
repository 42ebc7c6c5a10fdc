"""A look at the untouched model and its first batch: contracts that are cheap to check before anything is learnt.

One forward pass over a few rows, before the first step of an attempt. It also shows which activations follow which
layers, and whether there is attention, for all probes after it. Generators and buffers are put back, and nothing waits
for the device: the numbers are read when the first steps are reported.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradsight_insight.signals import FirstBatch
from gradsight_worker.training.data.encoding import Batch
from gradsight_worker.training.objectives import Objective
from gradsight_worker.training.probes import Prober

MOST_ROWS = 64
_SUM_TOLERANCE = 1e-4


@dataclass(frozen=True)
class FirstLook:
    """What was seen, still on the device."""

    _numbers: Tensor
    """float32 [5 + layers]: loss, whether the scores are probabilities, whether the targets make no difference, loss
    without inputs, gradients that are not 0; then the outputs' deviations."""

    def first_batch(self) -> FirstBatch:
        """The same on the host."""
        loss, probabilities, ignored, shuffled, stale, *deviations = self._numbers.double().cpu()
        return FirstBatch(
            loss=loss.item(),
            outputs_are_probabilities=bool(probabilities),
            loss_ignores_targets=bool(ignored),
            loss_without_inputs=shuffled.item(),
            stale_gradients=bool(stale),
            activation_deviation=torch.tensor(deviations, dtype=torch.float64).numpy(),
        )


def first_look(prober: Prober, objective: Objective, batch: Batch, *, rows: int, classes: bool) -> FirstLook:
    """Let the model answer some rows.

    Args:
        prober: Looks into the model, and remembers its activations.
        objective: The run's.
        batch: Of the first step.
        rows: Most rows to look at.
        classes: Whether the scores should be logits of exclusive answers.
    """
    inputs, targets = batch
    rows = min(MOST_ROWS, rows)
    targets = targets[:rows]
    scores, deviations, stale = prober.first_look(tuple(column[:rows] for column in inputs))
    with torch.no_grad():
        never = torch.zeros((), dtype=torch.bool, device=scores.device)
        numbers = [
            objective.loss(scores, targets),
            _are_probabilities(scores) if classes else never,
            _makes_no_difference(objective, scores, targets),
            # Rows do not know of each other: to exchange their inputs is to exchange their scores.
            objective.loss(scores.roll(1, 0), targets),
            stale,
        ]
        return FirstLook(torch.cat([torch.stack([number.float() for number in numbers]), deviations]))


def _are_probabilities(scores: Tensor) -> Tensor:
    sums = scores.float().sum(dim=-1)
    return (scores >= 0).all() & ((sums - 1).abs() < _SUM_TOLERANCE).all() & (scores.shape[-1] > 1)


def _makes_no_difference(objective: Objective, scores: Tensor, targets: Tensor) -> Tensor:
    """Whether other targets give the same loss, although no two scores of a row are the same."""
    # A model may begin with equal scores for everything, and then no target makes a difference, rightly.
    ramp = torch.linspace(-1.0, 1.0, scores[0].numel(), device=scores.device).view_as(scores[0])
    slopes = torch.linspace(1.0, 2.0, len(scores), device=scores.device).view(-1, *[1] * (scores.ndim - 1))
    different = scores.float() + ramp * slopes
    others = targets.roll(1, 0)
    same = objective.loss(different, targets) == objective.loss(different, others)
    return same & (targets != others).any()
