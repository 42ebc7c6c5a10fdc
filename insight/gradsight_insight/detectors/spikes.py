"""Did the loss run away? FM-02 loss spike, FM-03 divergence."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gradsight_insight.detectors.windows import plain
from gradsight_insight.kinds import Family, FindingKind, Number, Observation, Severity, Threshold
from gradsight_insight.rings import newest
from gradsight_insight.signals import Floats, Signals, Steps

BEFORE = 128
"""Steps before a step that say what is usual."""
LEAST_BEFORE = 64
RECENT_STEPS = 256
"""Steps that are searched for spikes."""
STEPS_TO_OVERFLOW = 2
"""With a loss far above the first before one that is no number: a single one may be the same bad row."""
AFTER = 8
"""Steps after a spike that show whether it threw the weights off."""
RECOVERY_STEPS = 50
FULL_WINDOW_STEPS = 200
"""Steps of a full window of the densest probes."""
_TINY = 1e-300

LOSS_SPIKE = FindingKind(
    code="FM-02",
    name="loss_spike",
    title="Loss spike",
    severity="warning",
    you_see=(
        "The loss curve, quiet before, jumps up from one step to the next. Often it comes back within some "
        "dozen steps; sometimes it stays higher than before."
    ),
    mechanism=(
        "A rare batch, an outlier in the data say, has a gradient many times larger than usual. Adam divides "
        "by the size that gradients used to have, which knows nothing of it yet, so the update is as many "
        "times too large; momentum repeats it for several steps. The weights are thrown off, the loss jumps, "
        "and it takes the steps after to find the way back, if there is one. In transformers growing "
        "attention logits do the same to a batch that is not special at all."
    ),
    rule=(
        "A step's loss is above the mean of the 128 steps before by more than `deviations` of their standard "
        "deviation, and above their median by more than `floor` of what guessing costs, or of the first loss "
        "if that was more; or its gradient norm is above its mean by as many deviations and more than "
        "`gradient_factor` times its median and half that over the ten steps before, while the loss is above "
        "0.1 of guessing. Critical when the loss is still that high 50 steps later, or from `frequent` spikes "
        "among the newest 256 steps; a flag while the loss stays below guessing's and the steps after it are "
        "undisturbed, or where the gradient had grown for steps and the loss is below what it was soon after: so does "
        "learning begin at a high learning rate."
    ),
    look_alikes=(
        "A loss of nearly 0: tiny absolute jumps are many standard deviations. The floor leaves them out.",
        "A restart of the learning rate, or the end of warm-up: the loss follows the schedule. Silent where the "
        "learning rate has just doubled.",
        "Ripples at the edge of stability: up and down from step to step, down in the long run.",
        "Another part of the data that is simply harder: it stays, and no gradient is out of line.",
    ),
    actions=(
        "Look at the batch of the step: outliers, wrong units, duplicated or broken rows.",
        "Limit the gradient's norm, to about the 90th percentile of what it is in quiet stretches.",
        "Warm up longer, or lower Adam's beta2 to 0.95.",
        "In transformers: normalize queries and keys, or penalize large logits (z-loss).",
    ),
    gradsight_does=(
        "Under `REPAIR` a step that is out of line changes nothing, decided on the device without waiting, "
        "three in a row at most. When more than three among 1,000 were skipped, it limits the gradient's "
        "norm; when the loss does not come back, it returns to the snapshot before with half the learning "
        "rate and goes on behind the rows that did it. Each of these is a trial. `STOP` ends training once "
        "the finding is critical."
    ),
    sources=(
        "OLMo-core: skip-step optimizers (6 standard deviations over 128 steps)",
        "Chowdhery et al.: PaLM, arXiv 2204.02311, section 5.1 (go back, leave out 200 to 500 batches)",
        "Kumar et al.: ZClip, arXiv 2504.02507; Huang et al.: SPAM, arXiv 2501.06842",
        "Cohen et al.: Gradient descent on neural networks typically occurs at the edge of stability, arXiv "
        "2103.00065",
    ),
    thresholds={
        "deviations": Threshold(
            default=6.0,
            low=2.0,
            high=100.0,
            meaning="Standard deviations above the mean of the steps before.",
        ),
        "floor": Threshold(
            default=0.25,
            low=0.0,
            high=100.0,
            meaning="Smallest height of a spike, in units of what guessing costs.",
        ),
        "gradient_factor": Threshold(
            default=10.0, low=2.0, high=1e6, meaning="Gradient norm over the median of the steps before."
        ),
        "frequent": Threshold(
            default=4.0,
            low=1.0,
            high=1000.0,
            meaning="Spikes among the newest 256 steps from which it is critical.",
        ),
    },
    repairs=("skip_step", "tighten_clipping", "roll_back"),
)

DIVERGENCE = FindingKind(
    code="FM-03",
    name="divergence",
    title="Divergence",
    severity="critical",
    you_see="The loss rises, far above what it had been, even above what guessing costs, and does not come back.",
    mechanism=(
        "Along a direction of curvature c a step of size η multiplies the distance from the bottom by 1 − ηc. "
        "Once ηc is above 2 the distance grows at every step, geometrically: weights, outputs and loss run "
        "away together, until something overflows. A loss of the wrong sign does it too, on purpose as it "
        "were. What the model had learned is gone; only earlier weights have it."
    ),
    rule=(
        "The training loss of every block of the newest 200 steps is above `factor` times the best before and "
        "above what guessing costs; or that of the newest three blocks is above `fast_factor` times both and "
        "above the first loss as much; or that of the two steps before the first one that was not finite is."
    ),
    look_alikes=(
        "A spike that comes back (FM-02): it does not last a window.",
        "A first loss that is far too high and falls (FM-11): it is measured against itself.",
        "Objectives that have no reason to fall, such as those of two networks that compete: switch this one off.",
    ),
    actions=(
        "Divide the learning rate by 10 and begin again from the best weights.",
        "Warm up, and limit the gradient's norm.",
        "Check the sign and the reduction of a loss of your own.",
    ),
    gradsight_does=(
        "It keeps the best weights whatever comes after. Under `REPAIR` it goes back to the newest good "
        "snapshot with a tenth to a hundredth of the learning rate, then a tenth of that, each as a trial; after that "
        "it ends training. `STOP` ends it at once."
    ),
    sources=(
        "Braiek, Khomh: TheDeepChecker, TOSEM 2022, arXiv 2204.00694 (twice the minimum)",
        "Megatron-LM, rerun state machine (ten times the largest)",
        "Cohen et al.: Gradient descent on neural networks typically occurs at the edge of stability, arXiv "
        "2103.00065",
    ),
    thresholds={
        "factor": Threshold(
            default=2.0,
            low=1.05,
            high=1e6,
            meaning="Loss over the best before, for a window of 200 steps.",
        ),
        "fast_factor": Threshold(
            default=10.0, low=2.0, high=1e9, meaning="The same for three blocks of at least 10 steps."
        ),
    },
    repairs=("roll_back", "roll_back", "stop"),
)


class _Spike(NamedTuple):
    place: int
    height: float
    """Loss above the median before."""
    usual: float
    """Median loss before."""
    deviation: float
    steepness: float
    """Gradient norm over the median before."""
    jump: float
    """Gradient norm over the largest of the ten steps before: gradients that grow as learning begins do not jump."""


def _loss_spike(signals: Signals, limits: Mapping[str, float]) -> list[Observation]:
    steps = _finite_steps(newest(signals.steps, RECENT_STEPS + BEFORE))
    floor = limits["floor"] * max(signals.facts.prior_loss, _first_loss(signals))
    spikes = [
        spike
        for spike in _candidates(steps, limits["deviations"])
        if steps.skipped[spike.place]
        or spike.height > floor
        or (
            min(spike.steepness, 2 * spike.jump) > limits["gradient_factor"]
            and spike.usual > 0.1 * signals.facts.prior_loss
        )
    ]
    return [_spike(steps, spikes, floor, signals.facts.prior_loss, limits)] if spikes else []


def _candidates(steps: Steps, deviations: float) -> list[_Spike]:
    """Steps out of line with those before; what a repair skipped is one, and says nothing of what is usual."""
    usual = ~steps.skipped
    if int(usual.sum()) <= LEAST_BEFORE:
        return []
    loss, loss_deviation = _mean_and_deviation(steps.loss, usual)
    norm, norm_deviation = _mean_and_deviation(steps.gradient_norm, usual)
    out_of_line = (steps.loss > loss + deviations * loss_deviation) | (
        steps.gradient_norm > norm + deviations * norm_deviation
    )
    out_of_line = (out_of_line & ~_rate_has_doubled(steps.learning_rate)) | steps.skipped
    out_of_line[: max(LEAST_BEFORE, len(steps) - RECENT_STEPS)] = False
    found = []
    for place in np.flatnonzero(out_of_line).tolist():
        before = slice(max(0, place - BEFORE), place)
        usual_loss = float(np.median(steps.loss[before]))
        gradient, norms = float(steps.gradient_norm[place]), steps.gradient_norm[before]
        found.append(
            _Spike(
                place=place,
                height=float(steps.loss[place]) - usual_loss,
                usual=usual_loss,
                deviation=float(loss_deviation[place]),
                steepness=gradient / max(float(np.median(norms)), _TINY),
                jump=gradient / max(float(norms[-10:].max()), _TINY),
            )
        )
    return found


def _mean_and_deviation(values: Floats, usual: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Mean and standard deviation of the usual ones among the up to 128 values before each, shape (steps,)."""
    ends = np.arange(len(values))
    starts = np.maximum(0, ends - BEFORE)
    kept = np.where(usual, values, 0.0)
    scale = float(np.abs(kept).max(initial=0.0)) or 1.0
    kept = kept / scale
    columns = np.stack((usual.astype(np.float64), kept, np.square(kept)))
    sums = np.concatenate((np.zeros((3, 1)), np.cumsum(columns, axis=1)), axis=1)
    count, total, squares = sums[:, ends] - sums[:, starts]
    count = np.maximum(count, 1)
    mean = total / count
    return mean * scale, np.sqrt(np.maximum(squares / count - np.square(mean), 0)) * scale


def _spike(
    steps: Steps, spikes: Sequence[_Spike], floor: float, guessing: float, limits: Mapping[str, float]
) -> Observation:
    worst = max(spikes, key=lambda spike: spike.height)
    at = int(steps.step[worst.place])
    after = steps.loss[worst.place + RECOVERY_STEPS :]
    still_high = worst.usual + max(floor, limits["deviations"] * worst.deviation)
    lasting = len(after) >= 10 and float(np.median(after[-10:])) > still_high
    height = float(steps.loss[worst.place])
    steepness = Number(
        name="gradient_norm_over_median",
        observed=worst.steepness,
        threshold=limits["gradient_factor"],
        first_step=at,
        last_step=at,
    )
    count = Number(
        name="spikes", observed=float(len(spikes)), threshold=limits["frequent"], unit="steps",
        first_step=int(steps.step[0]), last_step=int(steps.step[-1]),
    )  # fmt: skip
    return Observation(
        kind=LOSS_SPIKE.name,
        first_step=int(steps.step[spikes[0].place]),
        last_step=int(steps.step[spikes[-1].place]),
        evidence=(
            Number(name="loss", observed=height, threshold=worst.usual + floor, first_step=at, last_step=at),
            steepness,
            count,
        ),
        confidence=0.9,
        explanation=f"At step {at} the loss was {plain(height)} where {plain(worst.usual)} was usual, with a "
        f"gradient {plain(worst.steepness)} times its usual size. A batch out of line gives an update out of "
        "line, which throws the weights off for the steps after it; "
        + _outcome(lasting, bool(steps.skipped[worst.place])),
        severity=_severity(steps, worst, lasting or len(spikes) >= limits["frequent"], guessing, limits),
    )


def _severity(
    steps: Steps, worst: _Spike, serious: bool, guessing: float, limits: Mapping[str, float]
) -> Severity | None:
    """A flag where the batch was only unlucky (below guessing, undisturbed since), or learning began with a jolt."""
    if serious:
        return "critical"
    after = steps.loss[worst.place + 1 : worst.place + 1 + AFTER]
    settled = float(np.median(after)) if len(after) >= AFTER // 2 else -math.inf
    thrown_off = settled > worst.usual + 2 * worst.deviation and worst.steepness > limits["gradient_factor"]
    jolt = settled <= worst.usual and 2 * worst.jump <= limits["gradient_factor"]
    lost = steps.loss[worst.place] > guessing and not jolt
    return None if thrown_off or lost else "info"


def _outcome(lasting: bool, skipped: bool) -> str:
    if lasting:
        return "the loss has not come back since."
    return "this one was skipped." if skipped else "the loss came back, or is on its way."


def _finite_steps(steps: Steps) -> Steps:
    kept = ~steps.nonfinite & np.isfinite(steps.loss) & np.isfinite(steps.gradient_norm)
    return Steps(**{name: column[kept] for name, column in vars(steps).items()})


def _rate_has_doubled(rate: Floats) -> npt.NDArray[np.bool_]:
    """Whether the learning rate of each step is more than twice that of 20 steps before."""
    before = np.concatenate((rate[:1].repeat(min(20, len(rate))), rate[:-20]))
    return rate > 2 * before


def _first_loss(signals: Signals) -> float:
    first = signals.facts.first_batch
    return first.loss if first is not None and math.isfinite(first.loss) else 0.0


def _divergence(signals: Signals, limits: Mapping[str, float]) -> list[Observation]:
    return _stays_high(signals, limits) or _overflowed(signals, limits)


def _stays_high(signals: Signals, limits: Mapping[str, float]) -> list[Observation]:
    kept = np.isfinite(signals.block_loss)
    loss, step = signals.block_loss[kept], signals.block_step[kept]
    if len(loss) < 3:
        return []
    length = int(step[1] - step[0]) if kept.all() else max(1, int(step[-1]) // len(step))
    guessing = signals.facts.prior_loss
    blocks = max(2, math.ceil(FULL_WINDOW_STEPS / max(1, length)))
    for count, factor, floor in (
        (blocks, limits["factor"], guessing),
        (3, limits["fast_factor"], limits["fast_factor"] * max(guessing, _first_loss(signals))),
    ):
        best = _best_before(loss[:-count], signals)
        limit = max(factor * best, floor)
        if len(loss) >= count and best >= 0 and bool((loss[-count:] > limit).all()):
            return [_diverged(signals, loss[-count:], step[-count:], length, best, limit)]
    return []


def _overflowed(signals: Signals, limits: Mapping[str, float]) -> list[Observation]:
    """A loss that ran away until it was no number: then the numbers are not finite because the steps were too long."""
    steps = signals.steps
    if not steps.nonfinite.any():
        return []
    place = int(steps.nonfinite.argmax())
    start = max(signals.facts.prior_loss, _first_loss(signals))
    limit = limits["fast_factor"] * start
    above = steps.loss[:place] > limit
    length = int(np.argmin(above[::-1])) if not above.all() else len(above)
    if length < STEPS_TO_OVERFLOW:
        return []
    first, last, highest = (
        int(steps.step[place - length]),
        int(steps.step[place]),
        float(steps.loss[place - 1]),
    )
    return [
        Observation(
            kind=DIVERGENCE.name,
            first_step=first,
            last_step=last,
            evidence=(
                Number(
                    name="training_loss", observed=highest, threshold=limit, first_step=first, last_step=last
                ),
                Number(name="best_training_loss", observed=_best_before(signals.block_loss, signals)),
            ),
            confidence=0.95,
            explanation=f"From step {first} on the training loss was above {plain(limit)}, it had grown to "
            f"{plain(highest)} one step before step {last}, and there it was no number any more; guessing costs "
            f"{plain(signals.facts.prior_loss)}. The steps are longer than the curvature allows, so each one ended "
            "further from the bottom than it began, until the numbers overflowed.",
        )
    ]


def _best_before(loss: Floats, signals: Signals) -> float:
    """Best loss before the window, of two blocks together; at the start what guessing costs, or the first batch."""
    start = max(signals.facts.prior_loss, _first_loss(signals))
    pairs = (loss[1:] + loss[:-1]) / 2
    return float(pairs.min(initial=start))


def _diverged(
    signals: Signals, loss: Floats, step: npt.NDArray[np.int64], length: int, best: float, limit: float
) -> Observation:
    first, last = max(1, int(step[0]) - length + 1), int(step[-1])
    now = float(loss[-1])
    return Observation(
        kind=DIVERGENCE.name,
        first_step=first,
        last_step=last,
        evidence=(
            Number(name="training_loss", observed=now, threshold=limit, first_step=first, last_step=last),
            Number(name="best_training_loss", observed=best),
        ),
        confidence=0.95,
        explanation=f"From step {first} to {last} the training loss stayed above {plain(limit)}, and is "
        f"{plain(now)} now; the best before was {plain(best)}, and guessing costs "
        f"{plain(signals.facts.prior_loss)}. The steps are longer than the curvature allows, so each one ends "
        "further from the bottom than it began. What the model had learned is gone from these weights.",
    )


def _find(signals: Signals, thresholds: Mapping[str, Mapping[str, float]]) -> Sequence[Observation]:
    return [
        *_loss_spike(signals, thresholds[LOSS_SPIKE.name]),
        *_divergence(signals, thresholds[DIVERGENCE.name]),
    ]


SPIKES = Family(kinds=(LOSS_SPIKE, DIVERGENCE), find=_find)
