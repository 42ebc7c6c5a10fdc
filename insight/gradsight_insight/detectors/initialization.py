"""Was it broken before the first step? FM-11 bad initialization."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from gradsight_insight.detectors.windows import and_others, is_kind, plain
from gradsight_insight.kinds import Family, FindingKind, Number, Observation, Threshold
from gradsight_insight.signals import FirstBatch, Floats, RunFacts, Signals

BAD_INITIALIZATION = FindingKind(
    code="FM-11",
    name="bad_initialization",
    title="Bad initialization",
    severity="warning",
    you_see=(
        "The loss of the very first step is far above what guessing costs, or training does nothing: the network "
        "behaves as if each layer had a single unit, and accuracy stays near that of guessing however long it trains."
    ),
    mechanism=(
        "Two units with the same weights give the same output, receive the same gradient and stay the same "
        "for ever: a layer whose units all start alike, and whose readers treat them alike, is one unit. "
        "Weights that are all 0 on both sides pass neither outputs nor gradients. Weights that are drawn too "
        "large multiply the signal at every layer: outputs explode, the loss of the untouched model is many "
        "times that of guessing, and the first updates are spent on undoing it, or break the network. Drawn "
        "too small, the signal shrinks layer by layer until nothing of the input is left at the end, and "
        "gradients shrink the same way back."
    ),
    rule=(
        "Before step 1: a hidden layer whose units are all the same, critical when the layer after it is so "
        "too; or a first loss above the loss of guessing by more than `loss_excess` times it; or a layer "
        "whose output deviates by more than `largest_deviation`, or by less than `smallest_deviation`. Models "
        "that start from trained weights are asked about symmetry only. All but symmetry is over once the "
        "model has learned (training loss below 0.8 of guessing)."
    ),
    look_alikes=(
        "A zero-initialized last layer, residual branch or LoRA matrix: zeros on one side are sound, for the other "
        "side tells the units apart. Only a layer followed by another symmetric one is critical; zeros alone are "
        "not flagged.",
        "Inputs that are out of proportion (FM-21): they make the first loss large with perfect weights. Then this "
        "finding is the consequence.",
        "Rare classes: guessing costs less than ln C. The larger of the two is used.",
    ),
    actions=(
        "Draw weights by fan-in: Kaiming for ReLU and its kin, Xavier for tanh and sigmoid; PyTorch's "
        "defaults are fine.",
        "Never set all weights of a hidden layer to the same value.",
        "Divide embeddings and tied output layers by the root of their width.",
        "Check that the loss of the untouched model is about that of guessing: ln C for C balanced classes.",
    ),
    gradsight_does=(
        "It reports the finding before the first update counts. Under `REPAIR` with `allow_recipe_changes` it "
        "draws new weights as wide as layer and activation ask for, as a trial. `STOP` ends training when "
        "units cannot be told apart, for that is critical."
    ),
    sources=(
        "Glorot, Bengio: Understanding the difficulty of training deep feedforward neural networks, AISTATS 2010",
        "He et al.: Delving deep into rectifiers, arXiv 1502.01852",
        "Karpathy: A recipe for training neural networks (2019): verify the loss at init",
        "Braiek, Khomh: TheDeepChecker, TOSEM 2022, arXiv 2204.00694",
    ),
    thresholds={
        "loss_excess": Threshold(
            default=1.0,
            low=0.1,
            high=1e6,
            meaning="How much the first loss may be above the loss of guessing, in units of that loss.",
        ),
        "largest_deviation": Threshold(
            default=100.0, low=2.0, high=1e9, meaning="Largest standard deviation of a layer's outputs."
        ),
        "smallest_deviation": Threshold(
            default=1e-4, low=0.0, high=0.5, meaning="Smallest standard deviation of a layer's outputs."
        ),
    },
    repairs=("reinitialize",),
)


def _bad_initialization(signals: Signals, limits: Mapping[str, float]) -> list[Observation]:
    symmetry = _symmetry(signals.facts, signals.step)
    if symmetry is not None:
        return [symmetry]
    facts, first = signals.facts, signals.facts.first_batch
    if first is None or facts.fine_tuning or signals.learned:
        return []
    return _by_loss(signals, first, limits["loss_excess"]) or _by_deviation(signals, limits)


def _symmetry(facts: RunFacts, step: int) -> Observation | None:
    hidden = range(len(facts.layers) - 1)
    deviation = _deviations(facts)
    # Outputs that are all 0 come from zeros on this side: sound, as long as the other side tells the units apart.
    both = [
        place for place in hidden if all(layer.symmetric_units for layer in facts.layers[place : place + 2])
    ]
    one = [
        place
        for place in hidden
        if facts.layers[place].symmetric_units and deviation[place] > 0 and not facts.fine_tuning
    ]
    places = both or one
    if not places:
        return None
    names = [facts.layers[place].path for place in places]
    return _observation(
        step,
        Number(name="symmetric_layers", observed=float(len(places)), threshold=0.0),
        f"All units of layer `{names[0]}`{and_others(names)} start with the same weights. Equal units give equal "
        "outputs and get equal gradients, so "
        + (
            "they stay equal for ever: the layer can do no more than a single unit could."
            if both
            else "only the layers around them can tell them apart: the layer starts as a single unit."
        ),
        layer=names[0],
        critical=bool(both),
        confidence=0.97 if both else 0.7,
    )


def _by_loss(signals: Signals, first: FirstBatch, excess: float) -> list[Observation]:
    guessing = _guessing_loss(signals.facts)
    if not first.loss > guessing * (1 + excess):
        return []
    return [
        _observation(
            signals.step,
            Number(name="first_loss", observed=first.loss, threshold=guessing * (1 + excess)),
            f"The untouched model's loss is {plain(first.loss)}, where guessing costs {plain(guessing)}: its "
            "answers are not ignorant but confidently wrong, because the weights make its outputs too large. "
            "The first updates are spent on undoing that, and may break units on the way.",
            confidence=0.8,
        )
    ]


def _by_deviation(signals: Signals, limits: Mapping[str, float]) -> list[Observation]:
    facts = signals.facts
    deviation = _deviations(facts)
    shrinks = [
        place
        for place, layer in enumerate(facts.layers[:-1])
        if 0 < deviation[place] < limits["smallest_deviation"] and not is_kind(layer, "norm", "embedding")
    ]
    grows = [place for place in range(len(facts.layers)) if deviation[place] > limits["largest_deviation"]]
    for places, limit, way in (
        (
            grows,
            limits["largest_deviation"],
            "grows: outputs saturate, and the loss is ruled by a few huge numbers",
        ),
        (
            shrinks,
            limits["smallest_deviation"],
            "shrinks: little of the input is left, and as little of the gradient",
        ),
    ):
        if places:
            names = [facts.layers[place].path for place in places]
            seen = float(deviation[places[0]])
            return [
                _observation(
                    signals.step,
                    Number(name="activation_deviation", observed=seen, threshold=limit),
                    f"In the untouched model the outputs of layer `{names[0]}`{and_others(names)} deviate by "
                    f"{plain(seen)}. Weights of this size change the signal's size at every layer, so it {way}.",
                    layer=names[0],
                    confidence=0.7,
                )
            ]
    return []


def _deviations(facts: RunFacts) -> Floats:
    first = facts.first_batch
    if first is None or len(first.activation_deviation) != len(facts.layers):
        return np.full(len(facts.layers), np.nan)
    return first.activation_deviation


def _guessing_loss(facts: RunFacts) -> float:
    """What an ignorant model costs: uniform answers cost more than train's frequencies where classes are rare."""
    uniform = 0.0
    if facts.class_counts is not None and len(facts.class_counts) > 1:
        uniform = math.log(len(facts.class_counts))
    elif facts.answers == "labels":
        uniform = math.log(2)
    return max(facts.prior_loss, uniform)


def _observation(
    step: int, number: Number, explanation: str, *, layer: str = "", critical: bool = False, confidence: float
) -> Observation:
    return Observation(
        kind=BAD_INITIALIZATION.name,
        subject_kind="layer" if layer else "run",
        subject=layer,
        first_step=0,
        last_step=max(1, step),
        evidence=(number,),
        confidence=confidence,
        explanation=explanation,
        severity="critical" if critical else None,
    )


def _find(signals: Signals, thresholds: Mapping[str, Mapping[str, float]]) -> Sequence[Observation]:
    return _bad_initialization(signals, thresholds[BAD_INITIALIZATION.name])


INITIALIZATION = Family(kinds=(BAD_INITIALIZATION,), find=_find)
