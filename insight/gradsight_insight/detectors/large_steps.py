"""Are the steps too large? FM-08 learning rate too high."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from gradsight_insight.detectors.windows import (
    EARLY_WINDOW,
    READABLE_WINDOW,
    SATURATED,
    medians,
    newest_loss,
    number,
    percent,
    plain,
    window,
    window_gain_ratio,
)
from gradsight_insight.kinds import Family, FindingKind, Number, Observation, Threshold
from gradsight_insight.signals import Probes, Signals
from gradsight_insight.statistics import SIGNIFICANT, finite, median, paired_z

WITHOUT_WORST = 0.2
"""Gain ratio that a window must stay below without its worst probe: one wild batch is no learning rate."""
DEAD = 0.5
"""Share of a layer's units whose death after a far too large step is the step's doing."""
ALIVE = 1e-6
"""Deviation of a layer's output over the first batch, above which its units answered at the beginning."""

LEARNING_RATE_TOO_HIGH = FindingKind(
    code="FM-08",
    name="learning_rate_too_high",
    title="Learning rate too high",
    severity="warning",
    you_see=(
        "The loss bounces instead of falling, or jumps up in the first steps and then stays high; runs with "
        "other seeds end in very different places. With a tenth of the learning rate it falls smoothly."
    ),
    mechanism=(
        "The gradient says how the loss changes for a tiny step. Along the step the loss is about a parabola: "
        "it falls by what the gradient promises, less half the curvature times the step squared. A step that "
        "lands at the bottom brings half of the promise; one of twice that length ends on the opposite slope "
        "at the same height and brings nothing; a longer one ends higher than it began. The gain ratio is "
        "exactly this share. Where steps go past the bottom every time, the run bounces between the walls of "
        "the valley, and large jumps push units into regions from which no gradient leads back."
    ),
    rule=(
        "Over a window of 8 to 20 probes: the gain ratio is below `gain_ratio`, also without its worst probe, "
        "the median update is above `update_ratio` of the weights, and the training loss is above `fitted` of "
        "guessing. From five probes on, when some layer's median update is above `early_update_ratio`. Also when a "
        "probe's update was above that and half a layer that answered to the first batch has died since. Silent "
        "while the newest evaluations show held-out rows getting better (paired z below −2.58). Critical "
        "while the model has not learned."
    ),
    look_alikes=(
        "Noise of small batches near the end of training: the ratio is low, and held-out rows still get "
        "better. A lower learning rate helps there too, but nothing is wrong.",
        "The edge of stability: a ratio of 0.2 to 0.5 with a falling loss. This is where the fastest runs are.",
        "Momentum: at the best settings the batch's loss goes up in every fifth probe. Only the pooled window "
        "counts.",
        "A single wild batch (FM-02): it spoils one probe, and the window is read without it.",
        "Dead units (FM-06): after a collapse the ratio looks healthy again. That is why FM-06 is asked first.",
    ),
    actions=(
        "Divide the learning rate by 10, and look for the largest that still has a gain ratio above 0.2.",
        "Warm the learning rate up over the first few hundred steps.",
        "Let it decay towards the end.",
        "Limit the gradient's norm, when single steps are to blame.",
    ),
    gradsight_does=(
        "It measures the gain ratio on probe steps with the same batch before and after the update. Under "
        "`REPAIR` it goes back to the newest good snapshot with a tenth to a hundredth of the learning rate; when the "
        "model has learned something already, it stays where it is and halves the learning rate. Each is a trial "
        "that is kept only if held-out rows are answered better. `STOP` ends training while the model has not "
        "learned."
    ),
    sources=(
        "Conn, Gould, Toint: Trust-region methods, 2000 (gain ratio)",
        "Schneider, Dangel, Hennig: Cockpit, arXiv 2102.06604 (their alpha is 1 − 2 × gain ratio)",
        "Cohen et al.: Gradient descent on neural networks typically occurs at the edge of stability, arXiv "
        "2103.00065",
        "Braiek, Khomh: TheDeepChecker, TOSEM 2022, arXiv 2204.00694 (update ratio 0.1)",
    ),
    thresholds={
        "gain_ratio": Threshold(
            default=0.1,
            low=-10.0,
            high=0.5,
            meaning="Share of the promised decrease that the window must bring.",
        ),
        "update_ratio": Threshold(
            default=1e-3,
            low=0.0,
            high=1.0,
            meaning="Median size of an update over the weights' size, below which steps are small.",
        ),
        "early_update_ratio": Threshold(
            default=0.1,
            low=1e-3,
            high=10.0,
            meaning="The same for some layer, from which five probes are enough.",
        ),
        "fitted": Threshold(
            default=0.1,
            low=0.0,
            high=1.0,
            meaning="Training loss over that of guessing, below which a low gain ratio is noise.",
        ),
    },
    repairs=("roll_back", "scale_learning_rate"),
)


def _too_high(signals: Signals, limits: Mapping[str, float]) -> list[Observation]:
    probes = window(signals)
    loss = newest_loss(signals)
    gain = window_gain_ratio(probes)
    if (
        len(probes) < EARLY_WINDOW
        or not gain < limits["gain_ratio"]
        or not _without_worst(probes) < WITHOUT_WORST
    ):
        return []
    by_layer = finite(medians(probes.update_ratio))
    typical, largest = median(by_layer), float(by_layer.max(initial=0.0))
    early = largest > limits["early_update_ratio"]
    usual = len(probes) >= READABLE_WINDOW and typical > limits["update_ratio"]
    if (
        not (early or usual)
        or loss <= limits["fitted"] * signals.facts.prior_loss
        or _held_out_improves(signals)
    ):
        return []
    up = float((probes.actual_decrease < 0).mean())
    return [
        Observation(
            kind=LEARNING_RATE_TOO_HIGH.name,
            first_step=int(probes.step[0]),
            last_step=int(probes.step[-1]),
            evidence=(
                number("gain_ratio", gain, probes, threshold=limits["gain_ratio"]),
                number("update_ratio", typical, probes, threshold=limits["update_ratio"]),
                number("largest_update_ratio", largest, probes, threshold=limits["early_update_ratio"]),
                number("learning_rate", probes.learning_rate[-1], probes),
            ),
            confidence=0.9 if len(probes) >= READABLE_WINDOW else 0.75,
            explanation=f"Over {len(probes)} probes the updates brought {_share(gain)} of the decrease that "
            f"their gradients promised, and {percent(up)} of them raised the loss of their own batch. At a "
            f"learning rate of {plain(float(probes.learning_rate[-1]))} each step changes the weights by "
            f"{percent(typical)} and goes past the bottom of the valley to the other slope, so the loss "
            "bounces instead of falling.",
            severity=None if signals.learned else "critical",
        )
    ]


def _killing(signals: Signals, limits: Mapping[str, float]) -> list[Observation]:
    """Units that were alive before steps that were far too large, and are dead now."""
    place, share, evaluation = _died(signals)
    largest = np.nan_to_num(signals.probes.update_ratio).max(axis=1, initial=0.0)
    before = np.flatnonzero((largest > limits["early_update_ratio"]) & (signals.probes.step <= evaluation))
    if share < DEAD or not len(before) or _begins_saturated(signals.probes):
        return []
    at = int(before[0])
    path, probes = signals.facts.layers[place].path, _rows(signals.probes, np.array([at]))
    return [
        Observation(
            kind=LEARNING_RATE_TOO_HIGH.name,
            # Of the steps before this probe nobody knows how large they were.
            first_step=int(signals.probes.step[at - 1]) + 1 if at else 1,
            last_step=max(evaluation, int(probes.step[-1])),
            evidence=(
                number("largest_update_ratio", largest[at], probes, threshold=limits["early_update_ratio"]),
                Number(
                    name="dead_ratio",
                    observed=share,
                    threshold=DEAD,
                    first_step=evaluation,
                    last_step=evaluation,
                ),
                number("learning_rate", probes.learning_rate[-1], probes),
            ),
            confidence=0.85,
            explanation=f"At step {int(probes.step[0])} one update, at a learning rate of "
            f"{plain(float(probes.learning_rate[-1]))}, changed a layer's weights by {percent(largest[at])} of their "
            f"size. At step {evaluation} {percent(share)} of the units of layer `{path}` answer 0 to every held-out "
            "row; at the beginning they did not. Such steps throw units to where no gradient leads back.",
            severity=None if signals.learned else "critical",
        )
    ]


def _begins_saturated(probes: Probes) -> bool:
    """Whether a layer was saturated at the first probe: then what became of its neighbours is no step's doing."""
    return bool(np.nan_to_num(probes.saturated_ratio[:1]).max(initial=0.0) > SATURATED)


def _died(signals: Signals) -> tuple[int, float, int]:
    """The layer of which most units died since the beginning, their share, and the evaluation's step; share 0: none."""
    layers, first = signals.facts.layers, signals.facts.first_batch
    measured = [seen for seen in signals.evaluations[-1:] if len(seen.dead_ratio) == len(layers)]
    if not measured or first is None or len(first.activation_deviation) != len(layers):
        return 0, 0.0, 0
    lived = np.nan_to_num(first.activation_deviation) > ALIVE
    shares = np.where(lived, np.nan_to_num(measured[0].dead_ratio), 0.0)
    place = int(shares.argmax()) if len(shares) else 0
    return place, float(shares[place]) if len(shares) else 0.0, measured[0].step


def _without_worst(probes: Probes) -> float:
    """Gain ratio without the probe that fell furthest short of its promise; minus infinity where it cannot be read."""
    shortfall = np.where(
        np.isfinite(probes.actual_decrease), probes.actual_decrease - probes.predicted_decrease, 0
    )
    kept = np.arange(len(probes)) != int(shortfall.argmin())
    rest = window_gain_ratio(_rows(probes, kept))
    return rest if math.isfinite(rest) else -math.inf


def _rows(probes: Probes, kept: np.ndarray) -> Probes:
    return Probes(**{name: column[kept] for name, column in vars(probes).items()})


def _held_out_improves(signals: Signals) -> bool:
    """Whether held-out rows got better from the evaluation before to the newest, well within this window."""
    with_rows = [seen.rows for seen in signals.evaluations[-2:] if seen.rows is not None]
    if len(with_rows) < 2 or len(with_rows[0].losses) != len(with_rows[1].losses):
        return False
    return paired_z(with_rows[0].losses, with_rows[1].losses) <= -SIGNIFICANT


def _share(gain: float) -> str:
    return "less than nothing" if gain < 0 else percent(gain)


def _find(signals: Signals, thresholds: Mapping[str, Mapping[str, float]]) -> Sequence[Observation]:
    limits = thresholds[LEARNING_RATE_TOO_HIGH.name]
    return _too_high(signals, limits) or _killing(signals, limits)


LARGE_STEPS = Family(kinds=(LEARNING_RATE_TOO_HIGH,), find=_find)
