"""Which of the failure modes that hold at once is the first cause, and which are its consequences?

One fault shows in many numbers: a network whose units died has small updates, frozen weights, a loss that stands still
and, late, even a healthy gain ratio. Detectors look at one mechanism each; here their answers are put in order. What
comes earlier in the chain from data to update to result is asked first (`ORDER`), and each kind says which later ones
it can explain (`EXPLAINS`): a leak between the splits has nothing to do with the learning rate, whatever the order.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

from gradsight_insight.findings import Key

ORDER: Sequence[str] = (
    # Is the task what it seems? Then every later number is about another task.
    "loss_contract", "input_contract", "step_protocol",
    # Did arithmetic hold? The scale of float16 explains its own overflows.
    "mixed_precision_range", "nonfinite_values",
    # Was it broken before the first step?
    "bad_initialization",
    # Do the weights last? Decay shrinks them from the first step on, whatever the gradients say.
    "excessive_decay",
    # Can gradients pass? Units first, for one dead layer makes all gradients before it vanish.
    "dead_units", "saturated_activations", "vanishing_gradient", "frozen_parameters",
    # Are the steps of the right size?
    "logit_growth", "learning_rate_too_high", "learning_rate_too_low",
    # What did that do to the loss?
    "loss_spike", "divergence", "exploding_gradient", "gradient_noise", "oscillation", "not_learning", "plateau",
    # And to rows it has not seen?
    "leakage", "suspect_labels", "memorization", "overfitting", "overconfidence", "prediction_collapse",
    "weak_category", "starved_job",
)  # fmt: skip
"""From data to update to result."""

_LOSS_RUNS_AWAY = ("loss_spike", "divergence", "exploding_gradient", "oscillation")
_NO_PROGRESS = ("not_learning", "plateau", "prediction_collapse", "weak_category", "suspect_labels")
_NO_GRADIENT = ("vanishing_gradient", "frozen_parameters", "learning_rate_too_low", *_NO_PROGRESS)
_ALL_OF_TRAINING = (
    "mixed_precision_range", "nonfinite_values", "bad_initialization", "excessive_decay", "dead_units",
    "saturated_activations", "logit_growth", "learning_rate_too_high", "gradient_noise", "memorization",
    *_LOSS_RUNS_AWAY, *_NO_GRADIENT,
)  # fmt: skip

EXPLAINS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "loss_contract": (*_ALL_OF_TRAINING, "overconfidence"),
        "input_contract": _ALL_OF_TRAINING,
        "step_protocol": (*_ALL_OF_TRAINING, "overfitting", "overconfidence"),
        "mixed_precision_range": ("nonfinite_values", *_LOSS_RUNS_AWAY, *_NO_GRADIENT),
        "nonfinite_values": ("gradient_noise", *_LOSS_RUNS_AWAY, *_NO_GRADIENT),
        "bad_initialization": (
            "dead_units", "saturated_activations", "logit_growth", "learning_rate_too_high", *_LOSS_RUNS_AWAY,
            *_NO_GRADIENT,
        ),
        # Without weights there are no outputs to tell rows apart and no gradients: each later number looks wrong.
        "excessive_decay": (
            "dead_units", "saturated_activations", "learning_rate_too_high", *_LOSS_RUNS_AWAY, *_NO_GRADIENT,
        ),
        "dead_units": ("saturated_activations", "learning_rate_too_high", *_LOSS_RUNS_AWAY, *_NO_GRADIENT),
        "saturated_activations": ("dead_units", "learning_rate_too_high", *_LOSS_RUNS_AWAY, *_NO_GRADIENT),
        # When a layer that was cut off begins to learn at last, its gradients and the loss jump.
        "vanishing_gradient": (
            "saturated_activations", "frozen_parameters", "learning_rate_too_low", *_LOSS_RUNS_AWAY, *_NO_PROGRESS,
        ),
        "frozen_parameters": ("exploding_gradient", "learning_rate_too_low", *_NO_PROGRESS),
        "logit_growth": (*_LOSS_RUNS_AWAY, "learning_rate_too_high", *_NO_PROGRESS),
        # Too large steps also kill units, saturate them and overflow: see `_place`.
        "learning_rate_too_high": (
            "mixed_precision_range", "nonfinite_values", "dead_units", "saturated_activations", "logit_growth",
            "gradient_noise", *_LOSS_RUNS_AWAY, *_NO_GRADIENT,
        ),
        "learning_rate_too_low": _NO_PROGRESS,
        "loss_spike": ("divergence", "exploding_gradient", "oscillation"),
        # A loss that ran away before it was no number: see `_place`.
        "divergence": ("nonfinite_values", "exploding_gradient", "oscillation", "gradient_noise", *_NO_PROGRESS),
        "exploding_gradient": ("gradient_noise", "oscillation", *_NO_PROGRESS),
        "gradient_noise": ("oscillation", "plateau"),
        "not_learning": ("plateau", "prediction_collapse", "weak_category", "suspect_labels", "gradient_noise"),
        "suspect_labels": ("memorization", "overfitting", "weak_category"),
        "memorization": ("overfitting", "overconfidence", "weak_category"),
        "overfitting": ("overconfidence", "weak_category"),
        "prediction_collapse": ("weak_category",),
    }
)  # fmt: skip
"""What each kind can explain. Reasons: `mechanism` of the kinds."""


_EARLY_CAUSES = (
    "saturated_activations",
    "vanishing_gradient",
    "logit_growth",
    "learning_rate_too_high",
    "divergence",
)
"""Kinds that also explain some that are asked before them."""


_SPREADING = ("dead_units", "saturated_activations", "vanishing_gradient", "exploding_gradient")
"""Kinds that pass from layer to layer: the layer that had it first explains the others."""


def causes(since: Mapping[Key, int], flags: Collection[Key] = ()) -> dict[Key, Key]:
    """The cause of each finding that has one: the first in order that explains it.

    Args:
        since: First step of every finding that is open or observed now.
        flags: Those of them that are only worth knowing: they explain nothing that is worse.

    Returns:
        Cause by consequence. Never a circle: causes come before their consequences in one order.
    """
    ordered = sorted(since, key=lambda key: (_place(key, since), since[key], rank(key[0]), key))
    found: dict[Key, Key] = {}
    for place, key in enumerate(ordered):
        explaining = _first_explaining(
            key[0], (other for other in ordered[:place] if other not in flags or key in flags)
        )
        if explaining is not None:
            found[key] = explaining
    return found


def is_of_the_start(kind: str) -> bool:
    """Whether the kind is something that was wrong before the first step."""
    return rank(kind) <= rank("bad_initialization") and kind not in (
        "mixed_precision_range",
        "nonfinite_values",
    )


def rank(kind: str) -> int:
    """Place of a kind in `ORDER`; one that is not listed comes last."""
    return ORDER.index(kind) if kind in ORDER else len(ORDER)


def _place(key: Key, since: Mapping[Key, int]) -> float:
    """Place in the order, where what can break the units comes before them when it was there first.

    Dead units, saturation and overflow are asked first because they can make a learning rate look wrong; but when the
    steps were too large before any of that was there, they were the cause.
    """
    if key[0] not in _EARLY_CAUSES:
        return rank(key[0])
    broken = [
        other
        for other in since
        if other[0] in EXPLAINS[key[0]] and rank(other[0]) < rank(key[0]) and since[key] < since[other]
    ]
    return min((rank(other[0]) - 0.5 for other in broken), default=rank(key[0]))


def _first_explaining(kind: str, candidates: Iterable[Key]) -> Key | None:
    return next(
        (
            candidate
            for candidate in candidates
            if kind in EXPLAINS.get(candidate[0], ()) or (kind == candidate[0] and kind in _SPREADING)
        ),
        None,
    )
