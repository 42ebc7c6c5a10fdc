"""Can units still answer? FM-06 dead units, FM-07 saturated activations."""

from collections.abc import Mapping, Sequence

import numpy as np

from gradsight_insight.detectors.windows import (
    and_others,
    is_kind,
    medians,
    number,
    percent,
    window,
)
from gradsight_insight.kinds import Family, FindingKind, Number, Observation, Severity, Threshold
from gradsight_insight.signals import LayerFacts, Probes, Signals

RECTIFIERS = ("relu", "relu6")
"""Activations that answer exactly 0 to half of the world, with a derivative of exactly 0."""
SEEN_BY_PROBES = 3
"""Probes in a row that see nothing but zeros before a layer counts as dead."""
SATURATION_WINDOW = 8
LASTING = 3
"""Evaluations in a row: units that are silent in the first steps often come back."""
NEARLY_ALL = 0.95
"""Share of a layer's units from which one evaluation is enough."""
LEAST_EXAMPLES = 256
"""Held-out rows from which a unit that never answers is called dead."""

DEAD_UNITS = FindingKind(
    code="FM-06",
    name="dead_units",
    title="Dead units",
    severity="critical",
    you_see=(
        "The loss stops falling early, often right after a jump, and stays where guessing would be; or a model that "
        "should be large enough is worse than a small one. Gradients of some layers are exactly 0."
    ),
    mechanism=(
        "A ReLU gives max(0, w·x + b). One large update, or a bad start, can push w·x + b below 0 for every row of "
        "the data. Then the unit's output is 0, and so is its derivative: no gradient reaches w and b any more, and "
        "nothing can bring it back. Each dead unit is lost capacity; when a whole layer is dead, every row gives the "
        "same output, the layers before it receive no gradient at all, and only the last biases can still learn: the "
        "model answers the most frequent class to everything."
    ),
    rule=(
        "At least `dead_ratio` of a layer's units are 0 for every row of three evaluations in a row, or 95 % "
        "of them in one, with 256 rows or more; or three probes in a row at which at least `zero_ratio` of a "
        "ReLU layer's outputs are exactly 0; or a share of dead units that grew by more than `growth` since "
        "the earliest evaluation that is remembered (a flag). Critical when "
        "nearly the whole layer is dead; a flag where half of it is and the model has learned all the same."
    ),
    look_alikes=(
        "Sparse answers: a healthy ReLU is 0 for half of the rows or more, but not for all of them. Only units that "
        "never answer count.",
        "Units that belong to rare classes: they answer to some row of a large, mixed held-out set.",
        "Dropout and masks: they zero outputs at random, other ones each time.",
        "Frozen parameters (FM-10) and a learning rate that is too low (FM-09): a dead layer shows both, as "
        "consequences.",
    ),
    actions=(
        "Lower the learning rate or warm it up: large first updates are what kills units.",
        "Use GELU, SiLU or a leaky ReLU, whose derivative is nowhere exactly 0 for long stretches.",
        "Put a normalization before the activation, and begin with biases of 0.",
        "Check the inputs' scale (FM-21).",
    ),
    gradsight_does=(
        "It counts dead units over the validation rows at every evaluation and zeros at every probe. Under "
        "`REPAIR` it goes back to the snapshot before the updates that killed the units, with a tenth to a hundredth "
        "of the learning rate; with `allow_recipe_changes`, layers that were dead from the start get new weights. "
        "Each is a trial that is kept only if held-out rows are answered better. `STOP` ends training once "
        "the finding is critical."
    ),
    sources=(
        "Lu et al.: Dying ReLU and initialization, arXiv 1903.06733",
        "Sokar et al.: The dormant neuron phenomenon (ReDo), arXiv 2302.12902",
        "Amazon SageMaker Debugger, built-in rule DeadRelu (documentation)",
        "Braiek, Khomh: TheDeepChecker, TOSEM 2022, arXiv 2204.00694",
    ),
    thresholds={
        "dead_ratio": Threshold(
            default=0.5, low=0.05, high=1.0, meaning="Share of a layer's units that never answer."
        ),
        "zero_ratio": Threshold(
            default=0.995,
            low=0.5,
            high=1.0,
            meaning="Share of a layer's outputs in a batch that are exactly 0.",
        ),
        "growth": Threshold(
            default=0.1,
            low=0.01,
            high=1.0,
            meaning="Growth of the share of dead units that is worth a warning.",
        ),
    },
    repairs=("reinitialize", "roll_back"),
)

SATURATED_ACTIVATIONS = FindingKind(
    code="FM-07",
    name="saturated_activations",
    title="Saturated activations",
    severity="warning",
    you_see=(
        "A network with tanh or sigmoid learns very slowly or not at all; layers near the input hardly change."
    ),
    mechanism=(
        "tanh and sigmoid are flat where their input is large: at an input of 5 the derivative of tanh is "
        "0.00018. The chain rule multiplies the gradient by that derivative, so a unit that is driven into "
        "its flat part passes almost nothing back, to its own weights and to all layers before it. Its answer "
        "is stuck at −1, 0 or 1, and since the derivative is tiny for large inputs of either sign, it rarely "
        "finds its way back."
    ),
    rule=(
        "Over eight probes or more: the median share of a layer's outputs in the flat part (tanh beyond "
        "±0.97, sigmoid outside 0.01 to 0.99) is above `saturated_ratio`. The last layer and the gates of "
        "recurrent layers are not asked. Critical while the model has not learned."
    ),
    look_alikes=(
        "A sigmoid at the output of a model that is confident and right.",
        "Gates of LSTM and GRU cells, which are meant to be open or shut.",
        "Vanishing gradients (FM-05) without saturation: many layers, each of which shrinks the gradient a little.",
    ),
    actions=(
        "Draw smaller weights, scaled by fan-in (Xavier), and standardize the inputs.",
        "Put a normalization before the activation, or use ReLU or GELU.",
        "Lower the learning rate, if saturation came during training.",
    ),
    gradsight_does=(
        "It measures saturation at every probe. Under `REPAIR` with `allow_recipe_changes` it draws new "
        "weights; without, or when that did not help, it halves the learning rate. Each is a trial. `STOP` "
        "ends training while the model has not learned."
    ),
    sources=(
        "Glorot, Bengio: Understanding the difficulty of training deep feedforward neural networks, AISTATS 2010",
        "Karpathy: Building makemore, part 3 (2022)",
        "Amazon SageMaker Debugger, built-in rule SaturatedActivation (documentation)",
    ),
    thresholds={
        "saturated_ratio": Threshold(
            default=0.5, low=0.05, high=1.0, meaning="Share of a layer's outputs in the flat part."
        )
    },
    repairs=("reinitialize", "scale_learning_rate"),
)


def _dead_units(signals: Signals, limits: Mapping[str, float]) -> list[Observation]:
    return (
        _dead_in_probes(signals, limits["zero_ratio"])
        or _dead_in_evaluation(signals, limits["dead_ratio"])
        or _dying(signals, limits["growth"])
    )


def _dead_in_probes(signals: Signals, limit: float) -> list[Observation]:
    newest = window(signals, SEEN_BY_PROBES)
    layers = signals.facts.layers
    if len(newest) < SEEN_BY_PROBES:
        return []
    zeros = newest.zero_ratio >= limit
    # Of other activations exact zeros are no surprise, unless no gradient comes through them either.
    stuck = (newest.zero_ratio >= 1) & (newest.gradient_norm == 0)
    rectifier = np.array([layer.activation in RECTIFIERS for layer in layers], bool)
    dead = np.where(rectifier, zeros.all(axis=0), stuck.all(axis=0))
    names = [layer.path for layer, is_dead in zip(layers, dead, strict=True) if is_dead]
    if not names:
        return []
    share = float(medians(newest.zero_ratio)[np.flatnonzero(dead)[0]])
    return [
        _dead(
            names,
            number("zero_ratio", share, newest, threshold=limit),
            f"{percent(share)} of the outputs of layer `{names[0]}`{and_others(names)} are exactly 0",
            severity="critical",
        )
    ]


def _dead_in_evaluation(signals: Signals, limit: float) -> list[Observation]:
    layers = signals.facts.layers
    newest = [seen for seen in signals.evaluations[-LASTING:] if len(seen.dead_ratio) == len(layers)]
    if not newest or newest[-1].examples < LEAST_EXAMPLES:
        return []
    evaluation, ratio = newest[-1], newest[-1].dead_ratio
    lasting = np.all([seen.dead_ratio >= limit for seen in newest], axis=0) & (len(newest) == LASTING)
    places = np.flatnonzero((ratio >= limit) & (lasting | (ratio >= NEARLY_ALL)))
    if not len(places):
        return []
    names = [layers[place].path for place in places]
    share = float(ratio[places[0]])
    step = evaluation.step
    # Half a layer is capacity lost; whether that matters shows in what the other half achieves.
    severity: Severity = "info" if signals.learned else "warning"
    return [
        _dead(
            names,
            Number(name="dead_ratio", observed=share, threshold=limit, first_step=step, last_step=step),
            f"{percent(share)} of the units of layer `{names[0]}`{and_others(names)} answer 0 to every one of "
            f"{evaluation.examples} held-out rows",
            severity="critical" if share >= NEARLY_ALL else severity,
        )
    ]


def _dying(signals: Signals, growth: float) -> list[Observation]:
    layers = signals.facts.layers
    measured = [seen for seen in signals.evaluations if len(seen.dead_ratio) == len(layers)]
    if len(measured) < 2 or measured[-1].examples < LEAST_EXAMPLES:
        return []
    before, now = measured[-min(len(measured), 6)], measured[-1]
    places = np.flatnonzero(now.dead_ratio - before.dead_ratio > growth)
    if not len(places):
        return []
    names = [layers[place].path for place in places]
    was, share = (float(seen.dead_ratio[places[0]]) for seen in (before, now))
    return [
        _dead(
            names,
            Number(
                name="dead_ratio",
                observed=share,
                threshold=was + growth,
                first_step=before.step,
                last_step=now.step,
            ),
            f"The share of units of layer `{names[0]}`{and_others(names)} that answer 0 to every held-out row "
            f"rose from {percent(was)} to {percent(share)}",
            # Sound networks lose units as well, small layers most of all.
            severity="info",
        )
    ]


def _dead(names: Sequence[str], seen: Number, what: str, *, severity: Severity) -> Observation:
    return Observation(
        kind=DEAD_UNITS.name,
        subject_kind="layer",
        subject=names[0],
        first_step=seen.first_step,
        last_step=seen.last_step,
        evidence=(seen,),
        confidence=0.95 if severity == "critical" else 0.8,
        explanation=f"{what}. The derivative of a ReLU is 0 there as well, so no gradient reaches these units' "
        "weights, and nothing can wake them. What they could have learned is lost, and layers before them "
        "learn less or nothing.",
        severity=severity,
    )


def _saturated(signals: Signals, limit: float) -> list[Observation]:
    newest = window(signals)
    if len(newest) < SATURATION_WINDOW:
        return []
    shares = medians(newest.saturated_ratio)
    places = [
        place
        for place, layer in enumerate(signals.facts.layers[:-1])
        if shares[place] > limit and _is_plain(layer) and _measured(newest, place)
    ]
    if not places:
        return []
    names = [signals.facts.layers[place].path for place in places]
    share = float(shares[places[0]])
    return [
        Observation(
            kind=SATURATED_ACTIVATIONS.name,
            subject_kind="layer",
            subject=names[0],
            first_step=int(newest.step[0]),
            last_step=int(newest.step[-1]),
            evidence=(number("saturated_ratio", share, newest, threshold=limit),),
            confidence=0.9,
            explanation=f"{percent(share)} of the outputs of layer `{names[0]}`{and_others(names)} lie where its "
            "activation is flat. The chain rule multiplies the gradient by a derivative of almost 0 there, so hardly "
            "anything comes back to this layer's weights and to the layers before it.",
            severity=None if signals.learned else "critical",
        )
    ]


def _is_plain(layer: LayerFacts) -> bool:
    return not is_kind(layer, "lstm", "gru", "rnn") and layer.activation not in RECTIFIERS


def _measured(probes: Probes, place: int) -> bool:
    return int(np.isfinite(probes.saturated_ratio[:, place]).sum()) >= SATURATION_WINDOW


def _find(signals: Signals, thresholds: Mapping[str, Mapping[str, float]]) -> Sequence[Observation]:
    return [
        *_dead_units(signals, thresholds[DEAD_UNITS.name]),
        *_saturated(signals, thresholds[SATURATED_ACTIVATIONS.name]["saturated_ratio"]),
    ]


UNITS = Family(kinds=(DEAD_UNITS, SATURATED_ACTIVATIONS), find=_find)
