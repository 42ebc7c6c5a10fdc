"""Do the weights last? FM-29 weight decay too strong."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from gradsight_insight.detectors.windows import (
    EARLY_WINDOW,
    and_others,
    medians,
    newest_loss,
    number,
    percent,
    plain,
)
from gradsight_insight.kinds import Family, FindingKind, Number, Observation, Threshold
from gradsight_insight.signals import Floats, Probes, Signals, Steps
from gradsight_insight.statistics import finite, median

MOST = 0.5
"""Share of the layers that decay must rule."""

EXCESSIVE_DECAY = FindingKind(
    code="FM-29",
    name="excessive_decay",
    title="Weight decay too strong",
    severity="critical",
    you_see=(
        "The loss falls to that of guessing within the first steps and stays there: the model gives every row the "
        "same answer. The norms of the weights fall from probe to probe, soon units are dead and gradients vanish. "
        "With a tenth of the decay the same run learns."
    ),
    mechanism=(
        "Decay takes the same share from every weight in each step: the learning rate times the decay. The gradient "
        "puts something back where that lowers the loss. A weight settles where both are equal, and the stronger the "
        "decay, the smaller that size. When decay takes more in a step than the gradient can put back, all layers "
        "shrink at once. Outputs are a product over the layers and shrink faster than any one of them; the gradient "
        "of a layer is a product of the others and shrinks with them. So the pull of the data dies away first, and "
        "what is left are biases, which answer every row with the frequencies of the classes."
    ),
    rule=(
        "From five probes on, while the model has not learned, in most of the layers that decay: learning rate times "
        "decay is more than `decay_share` of the size of the median update, of the newest 64 probes in which the layer "
        "got a gradient at all; decay alone halves the weights within `halving_share` of the budget, at the highest "
        "rate of the newest 1,024 steps; and over these steps it would have halved them already. SGD's decay counts "
        "1 / (1 − momentum) times; Adam's, which is divided by the gradient's size, is not judged. A warning while the "
        "training loss is below `no_progress` of guessing."
    ),
    look_alikes=(
        "Usual decay: AdamW at 1e-3 with 0.01 takes 0.001 % of the weights in a step and moves them a hundred times "
        "as far.",
        "A model at rest: gradient and decay balance there, and the share of decay is as high as here. It has "
        "learned, and this finding is silent.",
        "Decay that is only stronger than it should be: the model learns, less and later than it could. While it has "
        "hardly begun, it is warned of.",
        "Layers without a gradient (FM-06, FM-10): decay is all that moves them, however weak it is.",
        "Learning rate too low (FM-09): updates are tiny, and decay, which is multiplied by the same rate, is so too. "
        "It would need many times the budget to halve a weight.",
        "Learning rate too high (FM-08): norms jump up, not down.",
    ),
    actions=(
        "Divide the weight decay by 10 until the loss falls: 0.01 to 0.1 is usual for AdamW, 1e-4 to 5e-4 for SGD.",
        "Mind the product: 1 / (learning rate × decay) is the number of steps that a weight remembers. For SGD with "
        "momentum 0.9 it is ten times smaller. It should be at least a good part of the budget.",
        "Against overfitting, take dropout, more rows or early stopping instead of more decay.",
    ),
    gradsight_does=(
        "It knows from the optimizer's settings what a step takes from each layer, and measures at every probe how "
        "far the step moved it. Decay is part of the recipe: it is reported and never changed, also under `REPAIR`, "
        "and what follows from it is not repaired either. `STOP` ends training when it is critical."
    ),
    sources=(
        "Braiek, Khomh: TheDeepChecker, TOSEM 2022, arXiv 2204.00694 (over-regularization as a fault)",
        "Loshchilov, Hutter: Decoupled weight decay regularization, arXiv 1711.05101",
        "Andriushchenko et al.: Why do we need weight decay in modern deep learning?, arXiv 2310.04415",
        "Wang, Aitchison: How to set AdamW's weight decay as you scale model and dataset size, arXiv 2405.13698",
    ),
    thresholds={
        "decay_share": Threshold(
            # At 0.71 a gradient at right angles to the weights moves them as far as decay does.
            default=0.8,
            low=0.05,
            high=1.0,
            meaning="What decay takes over the size of a layer's update, above which decay rules the layer.",
        ),
        "halving_share": Threshold(
            default=0.1,
            low=1e-4,
            high=1.0,
            meaning="Share of the budget, 0 to 1, below which decay that halves the weights in it is strong.",
        ),
        "no_progress": Threshold(
            default=0.95,
            low=0.0,
            high=10.0,
            meaning="Training loss over that of guessing, above which there is no progress.",
        ),
    },
)


def _excessive_decay(signals: Signals, limits: Mapping[str, float]) -> list[Observation]:
    shrinkage = np.array([layer.shrinkage_per_rate for layer in signals.facts.layers])
    decaying = shrinkage > 0
    if signals.learned or len(signals.probes) < EARLY_WINDOW or not decaying.any():
        return []
    shares = _shares(signals.probes, shrinkage)
    halving = math.log(2) / (_highest_rate(signals.steps) * shrinkage)
    strong = halving < limits["halving_share"] * signals.facts.total_steps
    had_time = _sum_of_rates(signals.steps) * shrinkage > math.log(2)
    ruled = decaying & strong & had_time & (shares > limits["decay_share"])
    if not ruled.sum() > MOST * decaying.sum():
        return []
    return [_observation(signals, ruled, median(shares[ruled]), median(halving[ruled]), limits)]


def _shares(probes: Probes, shrinkage: Floats) -> Floats:
    """What decay takes over the size of the update, by layer: above 1 where the gradient holds it up, NaN where none.

    Where there is no gradient, for units are dead, decay is all that moves a layer: that tells nothing of its strength.
    """
    moved = np.where((probes.update_ratio > 0) & (probes.gradient_norm > 0), probes.update_ratio, np.nan)
    return medians(probes.learning_rate[:, None] * shrinkage / moved)


def _highest_rate(steps: Steps) -> float:
    return float(finite(steps.learning_rate).max(initial=0.0))


def _sum_of_rates(steps: Steps) -> float:
    """Of the steps that changed anything; times the shrinkage it is how often decay alone has divided by e."""
    return float(finite(steps.learning_rate[~(steps.nonfinite | steps.skipped)]).sum())


def _observation(
    signals: Signals, ruled: np.ndarray, share: float, halving: float, limits: Mapping[str, float]
) -> Observation:
    probes = signals.probes
    # Decay does not begin with the window: it has shrunk the weights since the first step that is remembered.
    first, last = int(signals.steps.step[0]), signals.step
    left = median(probes.weight_norm[-1, ruled] / probes.weight_norm[0, ruled])
    limit = limits["halving_share"] * signals.facts.total_steps
    return Observation(
        kind=EXCESSIVE_DECAY.name,
        first_step=first,
        last_step=last,
        evidence=(
            number("decay_share", share, probes, threshold=limits["decay_share"]),
            Number(name="halving_steps", observed=halving, threshold=limit, first_step=first, last_step=last),
            number("weight_norm_left", left, probes),
            number("learning_rate", probes.learning_rate[-1], probes),
        ),
        confidence=0.9,
        explanation=_said(signals, ruled, share, halving, left),
        severity="warning"
        if newest_loss(signals) < limits["no_progress"] * signals.facts.prior_loss
        else None,
    )


def _said(signals: Signals, ruled: np.ndarray, share: float, halving: float, left: float) -> str:
    names = [layer.path for layer, is_ruled in zip(signals.facts.layers, ruled, strict=True) if is_ruled]
    part = "as large as" if share >= 1 else f"{percent(share)} of"
    return (
        f"Weight decay alone halves the weights in {plain(halving)} steps, of {signals.facts.total_steps:,} in all. "
        f"What it takes from layer `{names[0]}`{and_others(names)} is {part} the whole update: the gradient hardly "
        f"puts anything back. The norm of these layers is {percent(left)} of what it was at step "
        f"{int(signals.probes.step[0])}, and the model has not learned."
    )


def _find(signals: Signals, thresholds: Mapping[str, Mapping[str, float]]) -> Sequence[Observation]:
    return _excessive_decay(signals, thresholds[EXCESSIVE_DECAY.name])


DECAY = Family(kinds=(EXCESSIVE_DECAY,), find=_find)
