"""Did arithmetic hold? FM-23 mixed-precision range, FM-01 non-finite values."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from gradsight_insight.detectors.windows import percent, plain
from gradsight_insight.kinds import Family, FindingKind, Number, Observation, Threshold
from gradsight_insight.rings import newest
from gradsight_insight.signals import Signals, Steps

RECENT_STEPS = 200
"""Steps that are looked at: an isolated overflow longer ago is history."""
SCALE_SETTLES = 32
"""First steps in which a loss scale may search: from 2^16 it can be halved 16 times before it is 1."""

NONFINITE_VALUES = FindingKind(
    code="FM-01",
    name="nonfinite_values",
    title="Non-finite values",
    severity="warning",
    you_see=(
        "The loss is NaN or infinite at some steps. Elsewhere this is the end: from then on every prediction "
        "is NaN. Here such a step changes nothing, so you see gaps in the loss curve, and a job that ends "
        "when they become many."
    ),
    mechanism=(
        "A number overflows, a logarithm gets 0, a root gets a negative number, a division 0 by 0, or a row already "
        "holds NaN. The loss becomes NaN; by the chain rule every gradient is a product with that NaN; an optimizer "
        "that used it would make every weight NaN in a single step, and no later step could mend it, because NaN "
        "plus anything is NaN. Zeroing the gradients is not enough: Adam goes on moving weights from its moments."
    ),
    rule=(
        "Any of the newest 200 steps whose loss or gradient norm was not finite; critical from `fatal_count` "
        "such steps among 100. With float16 only steps whose loss itself was not finite count: overflowing "
        "gradients are how its scale is found."
    ),
    look_alikes=(
        "The search of a float16 loss scale: gradients overflow now and then, the scale is halved, the loss is "
        "finite. Normal; FM-23 says when it is not.",
        "A metric that is infinite while the loss is finite: nothing is wrong with the training.",
        "A loss that is very large but finite: FM-02 spike or FM-03 divergence.",
    ),
    actions=(
        "Look at the rows of the named steps: missing values read as NaN, division by a constant column.",
        "Add a small constant inside logarithms, roots and denominators of your own code.",
        "Use bfloat16 or float32 instead of float16.",
        "Lower the learning rate or limit the gradient's norm, if weights had grown before it happened.",
    ),
    gradsight_does=(
        "Under every policy a step that is not finite changes nothing: weights, optimizer, averages and "
        "buffers keep their values, decided on the device without waiting. Ten in a row, or 3 % of the steps, "
        "end the job, which keeps its best weights. Under `REPAIR`, from three among 100 steps on, gradsight "
        "goes back to the newest good snapshot with half the learning rate, as a trial, and ends training "
        "when that fails. `STOP` ends training once the finding is critical."
    ),
    sources=(
        "PyTorch documentation: torch.amp.GradScaler; torchtitan's and Composer's checks before the step",
        "Amazon SageMaker Debugger, built-in rule ExplodingTensor (documentation)",
    ),
    thresholds={
        "fatal_count": Threshold(
            default=3.0,
            low=1.0,
            high=100.0,
            meaning="Steps among the newest 100 from which the finding is critical.",
        )
    },
    repairs=("skip_step", "roll_back", "stop"),
)

MIXED_PRECISION_RANGE = FindingKind(
    code="FM-23",
    name="mixed_precision_range",
    title="Mixed-precision range",
    severity="critical",
    you_see=(
        "With `float16` many steps are skipped, the loss scale falls and falls, and the loss stands still. "
        "The same job trains well with `float32` or `bfloat16`."
    ),
    mechanism=(
        "A float16 number is at most 65,504, and below about 6e-8 it is 0. Small gradients would vanish, so "
        "the loss is multiplied by a scale before the backward pass and gradients are divided by it after. "
        "When a scaled gradient overflows, the step is skipped and the scale halved. If gradients are spread "
        "more widely than float16 can hold, no scale fits: large ones overflow at a scale at which small ones "
        "are still flushed to 0. The scale falls below 1, most steps change nothing, and the layers with "
        "small gradients stop learning."
    ),
    rule=(
        "With a loss scale, after the first 32 steps: more than `skipped_ratio` of the newest 200 steps not "
        "finite; or a scale below `lowest_scale`; or `halvings` steps in a row that were not finite."
    ),
    look_alikes=(
        "The first steps, in which the scale comes down from 65,536: normal, and left out.",
        "A single overflow every few thousand steps: the scale tries the next larger value. Normal.",
        "A diverging run (FM-03): its loss rises first, its scale falls after.",
    ),
    actions=(
        "Set `compute.precision` to bfloat16, which has the range of float32, or to float32.",
        "Limit the gradient's norm, and lower the learning rate.",
        "Normalize the layers whose activations are largest; keep logits and losses in float32.",
    ),
    gradsight_does=(
        "It scales the loss, skips overflowing steps and halves the scale by itself, and says when that no "
        "longer works. Under `REPAIR` it goes back to the newest good snapshot with half the learning rate, "
        "as a trial; it does not change the number format, which is yours. `STOP` ends training."
    ),
    sources=(
        "Micikevicius et al.: Mixed precision training, arXiv 1710.03740",
        "fairseq and DeepSpeed: smallest loss scale (documentation); OPT-175B chronicles, metaseq",
    ),
    thresholds={
        "skipped_ratio": Threshold(
            default=0.1,
            low=0.01,
            high=1.0,
            meaning="Largest share of the newest 200 steps that may overflow.",
        ),
        "lowest_scale": Threshold(
            default=1.0, low=1e-6, high=65536.0, meaning="Smallest loss scale with which training goes on."
        ),
        "halvings": Threshold(
            default=5.0,
            low=2.0,
            high=100.0,
            meaning="Overflowing steps in a row, each of which halves the scale.",
        ),
    },
    repairs=("roll_back",),
)


def _nonfinite_values(signals: Signals, fatal_count: float) -> list[Observation]:
    recent = newest(signals.steps, RECENT_STEPS)
    broken = recent.nonfinite
    if signals.facts.precision == "float16":
        broken = broken & ~np.isfinite(recent.loss)
    if not broken.any():
        return []
    steps = recent.step[broken]
    in_hundred = int(broken[-100:].sum())
    before = recent.loss[np.isfinite(recent.loss) & (recent.step < steps[0])]
    was = f" The loss had been {plain(float(before[-1]))} before the first." if len(before) else ""
    return [
        Observation(
            kind=NONFINITE_VALUES.name,
            first_step=int(steps[0]),
            last_step=int(steps[-1]),
            evidence=(
                _number("nonfinite_steps", len(steps), recent, unit="steps"),
                _number(
                    "nonfinite_steps_in_newest_100", in_hundred, recent, threshold=fatal_count, unit="steps"
                ),
            ),
            confidence=1.0,
            explanation=f"{_steps(len(steps))} of the newest {len(recent)} had a loss or gradient that was not "
            f"finite, the last at step {steps[-1]}.{was} One NaN makes every gradient NaN by the chain rule, "
            "so these steps were left without effect; the weights are sound.",
            severity="critical" if in_hundred >= fatal_count else None,
        )
    ]


def _mixed_precision_range(signals: Signals, limits: Mapping[str, float]) -> list[Observation]:
    scaled = signals.steps.loss_scale > 0
    settled = newest(signals.steps, RECENT_STEPS)
    settled = newest(settled, int((settled.step > SCALE_SETTLES).sum()))
    if not scaled.any() or not len(settled):
        return []
    skipped = float(settled.nonfinite.mean()) if len(settled) >= RECENT_STEPS / 2 else math.nan
    scale = float(settled.loss_scale[-1])
    in_a_row = _longest_run(settled.nonfinite)
    checks = (
        (
            skipped > limits["skipped_ratio"],
            f"{percent(skipped)} of the newest {len(settled)} steps overflowed",
        ),
        (0 < scale < limits["lowest_scale"], f"the loss scale has fallen to {plain(scale)}"),
        (in_a_row >= limits["halvings"], f"{in_a_row} steps in a row overflowed"),
    )
    reasons = [text for holds, text in checks if holds]
    if not reasons:
        return []
    reason = " and ".join(reasons)
    return [
        Observation(
            kind=MIXED_PRECISION_RANGE.name,
            first_step=int(settled.step[0]),
            last_step=int(settled.step[-1]),
            evidence=(
                _number("skipped_ratio", skipped, settled, threshold=limits["skipped_ratio"]),
                _number("loss_scale", scale, settled, threshold=limits["lowest_scale"]),
                _number("overflows_in_a_row", in_a_row, settled, threshold=limits["halvings"], unit="steps"),
            ),
            confidence=0.9,
            explanation=f"{reason[0].upper()}{reason[1:]}. The gradients are spread more widely than float16 "
            "can hold: large ones overflow at a scale at which small ones are still 0. Skipped steps change "
            "nothing, and layers with small gradients stop learning.",
        )
    ]


def _number(
    name: str, observed: float, steps: Steps, *, threshold: float | None = None, unit: str = ""
) -> Number:
    first, last = int(steps.step[0]), int(steps.step[-1])
    return Number(
        name=name, observed=float(observed), threshold=threshold, unit=unit, first_step=first, last_step=last
    )


def _steps(count: int) -> str:
    return "One step" if count == 1 else f"{count} steps"


def _longest_run(flags: np.ndarray) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _find(signals: Signals, thresholds: Mapping[str, Mapping[str, float]]) -> Sequence[Observation]:
    return [
        *_mixed_precision_range(signals, thresholds[MIXED_PRECISION_RANGE.name]),
        *_nonfinite_values(signals, thresholds[NONFINITE_VALUES.name]["fatal_count"]),
    ]


NONFINITE = Family(kinds=(MIXED_PRECISION_RANGE, NONFINITE_VALUES), find=_find)
