"""Do gradients reach every layer? FM-05 vanishing and FM-04 exploding gradient, FM-10 frozen parameters."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from gradsight_insight.detectors.windows import (
    FULL_WINDOW,
    READABLE_WINDOW,
    and_others,
    is_kind,
    medians,
    newest_loss,
    number,
    percent,
    plain,
    window,
    window_gain_ratio,
)
from gradsight_insight.kinds import Family, FindingKind, Number, Observation, Threshold
from gradsight_insight.rings import newest
from gradsight_insight.signals import Floats, Probes, Signals

CLIPPED_STEPS = 200
"""Steps over which clipping is judged."""

VANISHING_GRADIENT = FindingKind(
    code="FM-05",
    name="vanishing_gradient",
    title="Vanishing gradient",
    severity="critical",
    you_see=(
        "A deep network learns hardly at all, a shallow one of the same kind does. On the heat map of "
        "gradients the layers near the input are dark from the start, those near the output are bright."
    ),
    mechanism=(
        "The gradient of an early layer is a product with one factor per layer above it: the weights there, "
        "times the derivative of each activation. Where these factors are below 1 the product shrinks "
        "geometrically: a sigmoid's derivative is at most 0.25, so eight of them leave at most 0.000015. "
        "Early layers then keep the random weights that they began with, and late layers can only learn from "
        "what these happen to pass on."
    ),
    rule=(
        "While the model has not learned (training loss above 0.8 of guessing), over a full window of 20 "
        "probes: some layer but the last has a gradient, root mean square per weight, below "
        "`gradient_quotient` of the last layer's, and its weights change by less than `update_ratio` of their "
        "size per step, or the loss is still above `no_progress` of guessing. At once, from step 20 on, when "
        "such a gradient is also below `gradient_rms`."
    ),
    look_alikes=(
        "Dead units (FM-06): gradients are exactly 0, not small. Exact zeros are left to FM-06 and FM-10.",
        "A converged model: all layers' gradients shrink together, and it has learned.",
        "Embeddings: their gradient is spread over rows of which a batch uses few. They are not asked.",
        "Adam divides each gradient by its own size, so a small gradient need not mean a small update: this is why "
        "the update ratio or the lack of progress has to agree.",
    ),
    actions=(
        "Use ReLU, GELU or SiLU instead of sigmoid or tanh.",
        "Add residual connections and normalization: they give the gradient a way around the product.",
        "Draw weights by fan-in (Kaiming, Xavier); very small weights vanish as surely as sigmoids.",
        "Take away layers. A higher learning rate does not help.",
    ),
    gradsight_does=(
        "It measures every layer's gradient at every probe, before clipping. Under `REPAIR` with "
        "`allow_recipe_changes` it draws new weights of the right scale, as a trial, which helps where "
        "weights were too small and not where the activations shrink the gradient; no learning rate is "
        "changed. `STOP` ends training."
    ),
    sources=(
        "Hochreiter: Untersuchungen zu dynamischen neuronalen Netzen, 1991; Bengio, Simard, Frasconi, 1994",
        "Glorot, Bengio: Understanding the difficulty of training deep feedforward neural networks, AISTATS 2010",
        "Zhang et al.: AUTOTRAINER, ICSE 2021, doi 10.1109/ICSE43902.2021.00043 (quotient of first and last layer)",
        "Amazon SageMaker Debugger, built-in rule VanishingGradient (documentation)",
        "Wortsman et al.: Small-scale proxies for large-scale transformer training instabilities, arXiv 2309.14322",
    ),
    thresholds={
        "gradient_quotient": Threshold(
            default=1e-3,
            low=1e-9,
            high=0.5,
            meaning="Gradient per weight of a layer over that of the last layer, below which it vanishes.",
        ),
        "update_ratio": Threshold(
            default=1e-5,
            low=0.0,
            high=1e-2,
            meaning="Size of an update over size of the weights, below which weights stand still.",
        ),
        "no_progress": Threshold(
            default=0.95,
            low=0.0,
            high=10.0,
            meaning="Training loss over that of guessing, above which there is no progress.",
        ),
        "gradient_rms": Threshold(
            default=1e-7,
            low=0.0,
            high=1e-2,
            meaning="Gradient per weight, in units of the loss, that optimizers can no longer tell from 0.",
        ),
    },
    repairs=("reinitialize",),
)

EXPLODING_GRADIENT = FindingKind(
    code="FM-04",
    name="exploding_gradient",
    title="Exploding gradient",
    severity="warning",
    you_see=(
        "The loss jumps about from the start, or clipping is at work at almost every step and halving the "
        "learning rate changes nothing."
    ),
    mechanism=(
        "It is the mirror image of vanishing: factors above 1, one per layer, multiply into an early gradient "
        "that is hundreds of times larger than a late one. One learning rate cannot suit both: early weights "
        "are thrown about while late ones hardly move. Clipping the norm keeps the whole step small, and with "
        "it the steps of the layers that were in order; when nearly every step is cut to a small part, the "
        "learning rate is no longer the one you set but what clipping makes of it."
    ),
    rule=(
        "Over a full window: the first layer's gradient per weight is more than `gradient_quotient` times the "
        "last layer's, and the model has not learned or its gain ratio is below 0.1; or two neighbouring "
        "layers differ by more than `adjacent_quotient`. As information only: over the newest 200 steps more "
        "than `clipped_ratio` of them were cut, the median one to less than `clip_factor` of its gradient."
    ),
    look_alikes=(
        "A frozen or tiny late layer: a quotient with a small denominator. Layers without gradient are left out.",
        "Normalization and embedding layers, whose few or rarely used weights have gradients of another size: "
        "they are not asked.",
        "A single spike (FM-02), which is over after a few steps.",
    ),
    actions=(
        "Limit the gradient's norm, to about the 90th percentile of what it is in quiet stretches.",
        "Add normalization, scale residual branches down, draw orthogonal or smaller weights.",
        "Lower the learning rate: when half of all steps are clipped, it is too high for them.",
    ),
    gradsight_does=(
        "Under `REPAIR` it limits the norm to the 90th percentile of the newest steps, then halves the "
        "learning rate, each as a trial; hard clipping alone is only told. `STOP` does nothing, for this is a "
        "warning."
    ),
    sources=(
        "Pascanu, Mikolov, Bengio: On the difficulty of training recurrent neural networks, arXiv 1211.5063",
        "Zhang et al.: AUTOTRAINER, ICSE 2021, doi 10.1109/ICSE43902.2021.00043",
        "Godbole et al.: Deep learning tuning playbook, 2023 (share of clipped steps)",
    ),
    thresholds={
        "gradient_quotient": Threshold(
            default=70.0,
            low=2.0,
            high=1e9,
            meaning="Gradient per weight of the first layer over that of the last.",
        ),
        "adjacent_quotient": Threshold(
            default=1e3,
            low=10.0,
            high=1e12,
            meaning="Gradient per weight of a layer over that of the next one.",
        ),
        "clipped_ratio": Threshold(
            default=0.5, low=0.01, high=1.0, meaning="Share of the newest 200 steps that clipping cut."
        ),
        "clip_factor": Threshold(
            default=0.1, low=0.0, high=1.0, meaning="What clipping leaves of the median gradient."
        ),
    },
    repairs=("tighten_clipping", "scale_learning_rate"),
)

FROZEN_PARAMETERS = FindingKind(
    code="FM-10",
    name="frozen_parameters",
    title="Frozen parameters",
    severity="warning",
    you_see=(
        "The model learns, but less than it should; part of it is, at the end, bit for bit what it was at the start."
    ),
    mechanism=(
        "A weight moves only if a gradient reaches it and the optimizer applies it. A `detach`, an operation "
        "without a derivative, a branch that no row takes, or a layer that never reaches the loss cuts the "
        "chain: the gradient is exactly 0. Zeros on both sides of a product do the same. And a change that is "
        "less than about a ten-millionth of a weight is lost in float32's rounding. The layer stays random "
        "and the others learn around it."
    ),
    rule=(
        "Over `probes` probes at which other layers moved: a layer that is meant to train has a gradient of "
        "exactly 0 at all of them, or its weights did not change in any bit, and it is not because its "
        "gradient vanished (FM-05)."
    ),
    look_alikes=(
        "Layers that the spec freezes: known, and not asked.",
        "Layers behind dead units (FM-06): they receive no gradient; the dead layer is named as their cause.",
        "Warm-up from a learning rate of 0, and skipped steps: nothing moves at all then, and that is not flagged.",
        "Rows of an embedding that the data never uses: the rest of the table moves.",
    ),
    actions=(
        "Look for `detach`, `no_grad`, `argmax` and unused outputs between the layer and the loss.",
        "Check that the layer's weights and those after it do not all start at 0.",
        "If it is meant: freeze it in the spec, and the finding is gone.",
    ),
    gradsight_does="It reports the layer. Nothing is repaired: whether a layer should learn is yours to say.",
    sources=(
        "Amazon SageMaker Debugger, built-in rule UnchangedTensor (documentation)",
        "OPT-175B chronicles, metaseq (positions that were frozen unnoticed)",
    ),
    thresholds={
        "probes": Threshold(
            default=8.0,
            low=3.0,
            high=64.0,
            meaning="Probes at which the layer stood still while others moved.",
        )
    },
)


def _vanishing(signals: Signals, limits: Mapping[str, float]) -> list[Observation]:
    probes = window(signals)
    if signals.learned or signals.step < 20 or len(probes) < 3:
        return []
    gradient, update = medians(probes.gradient_rms), medians(probes.update_ratio)
    deep = _deep(signals)
    last = _last_with_gradient(gradient)
    if last is None:
        return []
    small = deep & (gradient > 0) & (gradient < limits["gradient_quotient"] * gradient[last])
    small[last:] = False
    no_progress = newest_loss(signals) > limits["no_progress"] * signals.facts.prior_loss
    stands_still = (update < limits["update_ratio"]) | no_progress
    windowed = small & stands_still if len(probes) >= FULL_WINDOW else np.zeros(len(small), bool)
    vanished = windowed | (small & (gradient < limits["gradient_rms"]))
    if not vanished.any():
        return []
    return [_vanished(signals, probes, vanished, gradient, update, last, limits)]


def _vanished(
    signals: Signals,
    probes: Probes,
    vanished: npt.NDArray[np.bool_],
    gradient: Floats,
    update: Floats,
    last: int,
    limits: Mapping[str, float],
) -> Observation:
    places = np.flatnonzero(vanished)
    layers = signals.facts.layers
    names = [layers[place].path for place in places]
    quotient = float(gradient[places[0]] / gradient[last])
    return Observation(
        kind=VANISHING_GRADIENT.name,
        subject_kind="layer",
        subject=names[0],
        first_step=int(probes.step[0]),
        last_step=int(probes.step[-1]),
        evidence=(
            number("gradient_quotient", quotient, probes, threshold=limits["gradient_quotient"]),
            number("gradient_rms", gradient[places[0]], probes, threshold=limits["gradient_rms"]),
            number("update_ratio", update[places[0]], probes, threshold=limits["update_ratio"]),
        ),
        confidence=0.9,
        explanation=f"The gradient of layer `{names[0]}`{and_others(names)} is {plain(quotient)} of that of "
        f"`{layers[last].path}`, per weight. Each layer in between multiplies it by a factor below 1, so "
        f"almost nothing arrives: the weights change by {plain(float(update[places[0]]))} of their size per "
        "step, stay close to the random ones they began with, and the layers above learn from noise.",
    )


def _exploding(signals: Signals, limits: Mapping[str, float]) -> list[Observation]:
    probes = window(signals)
    if len(probes) < FULL_WINDOW:
        return []
    gradient = medians(probes.gradient_rms)
    asked = np.flatnonzero(_deep(signals) & (gradient > 0))
    if len(asked) < 2:
        return []
    first, last = asked[0], asked[-1]
    quotient = float(gradient[first] / gradient[last])
    quotients = gradient[asked[:-1]] / gradient[asked[1:]]
    steepest = int(quotients.argmax())
    gain = window_gain_ratio(probes)
    harmful = not signals.learned or gain < 0.1
    if quotient > limits["gradient_quotient"] and harmful:
        seen = number("gradient_quotient", quotient, probes, threshold=limits["gradient_quotient"])
        return [_exploded(signals, seen, first, last)]
    if quotients[steepest] > limits["adjacent_quotient"]:
        observed, limit = float(quotients[steepest]), limits["adjacent_quotient"]
        seen = number("adjacent_quotient", observed, probes, threshold=limit)
        return [_exploded(signals, seen, asked[steepest], asked[steepest + 1])]
    return []


def _exploded(signals: Signals, seen: Number, early: int, late: int) -> Observation:
    name, reference = (signals.facts.layers[place].path for place in (early, late))
    return Observation(
        kind=EXPLODING_GRADIENT.name,
        subject_kind="layer",
        subject=name,
        first_step=seen.first_step,
        last_step=seen.last_step,
        evidence=(seen,),
        confidence=0.8,
        explanation=f"The gradient of layer `{name}` is {plain(seen.observed)} times that of `{reference}`, "
        "per weight: every layer in between multiplies it by a factor above 1. One learning rate cannot suit "
        "both; early weights are thrown about while late ones hardly move.",
    )


def _clipped(signals: Signals, limits: Mapping[str, float]) -> list[Observation]:
    recent = newest(signals.steps, CLIPPED_STEPS)
    kept = recent.clip_factor[np.isfinite(recent.clip_factor)]
    if len(kept) < CLIPPED_STEPS:
        return []
    share, middle = float((kept < 1).mean()), float(np.median(kept))
    if share <= limits["clipped_ratio"] or middle >= limits["clip_factor"]:
        return []
    first, last = int(recent.step[0]), int(recent.step[-1])
    return [
        Observation(
            kind=EXPLODING_GRADIENT.name,
            first_step=first,
            last_step=last,
            evidence=(
                Number(name="clipped_ratio", observed=share, threshold=limits["clipped_ratio"], first_step=first,
                       last_step=last),
                Number(name="clip_factor", observed=middle, threshold=limits["clip_factor"], first_step=first,
                       last_step=last),
            ),
            confidence=0.7,
            explanation=f"Clipping cut {percent(share)} of the newest {len(kept)} steps, the median one to "
            f"{percent(middle)} of its gradient. The size of the steps is then set by the limit and no longer by the "
            "learning rate, and changing the latter changes little.",
            severity="info",
        )
    ]  # fmt: skip


def _frozen(signals: Signals, least: int) -> list[Observation]:
    probes = newest(signals.probes, max(FULL_WINDOW, least))
    moved = (probes.update_ratio > 0) & np.isfinite(probes.update_ratio)
    live: npt.NDArray[np.bool_] = np.asarray(moved.any(axis=1))
    if int(live.sum()) < least:
        return []
    update, gradient = probes.update_ratio[live], probes.gradient_norm[live]
    without_gradient = (gradient == 0).all(axis=0) & (gradient > 0).any()
    unmoved = (update == 0).all(axis=0) & ~_vanishes(probes, live)
    trainable = np.array([layer.trainable and layer.parameters > 0 for layer in signals.facts.layers], bool)
    places = np.flatnonzero(trainable & (without_gradient | unmoved))
    if not len(places) or len(places) == int(trainable.sum()):
        return []
    names = [signals.facts.layers[place].path for place in places]
    cut = bool(without_gradient[places[0]])
    reason = (
        "no gradient arrives: the chain from the loss is cut before it, or every factor on the way is 0"
        if cut
        else "its gradient is not 0, but the updates are lost in rounding or never applied"
    )
    return [
        Observation(
            kind=FROZEN_PARAMETERS.name,
            subject_kind="layer",
            subject=names[0],
            first_step=int(probes.step[0]),
            last_step=int(probes.step[-1]),
            evidence=(
                number("update_ratio", medians(update)[places[0]], probes, threshold=0.0),
                number("gradient_norm", medians(gradient)[places[0]], probes),
                number("probes", float(live.sum()), probes, threshold=float(least), unit="probes"),
            ),
            confidence=0.95 if cut else 0.8,
            explanation=f"Layer `{names[0]}`{and_others(names)} stood still at {int(live.sum())} probes while "
            f"other layers moved, and {reason}. It keeps the weights that it began with, and the rest learns "
            "around it.",
        )
    ]


def _vanishes(probes: Probes, live: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Whether each layer's gradient is there but small: its updates underflow, which is FM-05's to tell."""
    gradient = medians(probes.gradient_rms[live])
    largest = float(np.nanmax(gradient, initial=0.0))
    return (gradient > 0) & (gradient < 1e-3 * largest)


def _deep(signals: Signals) -> npt.NDArray[np.bool_]:
    """Layers whose gradients compare: not those with few or rarely used weights."""
    return np.array(
        [layer.trainable and not is_kind(layer, "norm", "embedding") for layer in signals.facts.layers], bool
    )


def _last_with_gradient(gradient: Floats) -> int | None:
    places = np.flatnonzero(gradient > 0)
    return int(places[-1]) if len(places) else None


def _find(signals: Signals, thresholds: Mapping[str, Mapping[str, float]]) -> Sequence[Observation]:
    if not signals.facts.layers or len(signals.probes) < min(3, READABLE_WINDOW):
        return []
    exploding = thresholds[EXPLODING_GRADIENT.name]
    least = thresholds[FROZEN_PARAMETERS.name]["probes"]
    return [
        *_vanishing(signals, thresholds[VANISHING_GRADIENT.name]),
        *(_exploding(signals, exploding) or _clipped(signals, exploding)),
        *_frozen(signals, math.ceil(least)),
    ]


DEPTH = Family(kinds=(VANISHING_GRADIENT, EXPLODING_GRADIENT, FROZEN_PARAMETERS), find=_find)
