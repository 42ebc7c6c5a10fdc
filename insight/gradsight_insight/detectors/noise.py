"""How the size of the batch fits the noise of its gradient (FM-24)."""

from collections.abc import Mapping, Sequence

from gradsight_insight.kinds import Family, FindingKind, Number, Observation, Threshold
from gradsight_insight.signals import Signals
from gradsight_insight.statistics import finite, mann_kendall_z, median
from gradsight_insight.wording import figure

GRADIENT_NOISE = FindingKind(
    code="FM-24",
    name="gradient_noise",
    title="Gradient noise",
    severity="info",
    you_see=(
        "The loss jitters and does not get ahead although the learning rate is moderate; or, on the other "
        "side, steps are expensive and half the batch would take the model as far."
    ),
    mechanism=(
        "Each row of a batch has a gradient of its own; the batch's is their mean. What the rows agree on adds up, "
        "what they disagree on cancels only with the root of the batch size. The noise scale is the batch size at "
        "which both are equally large. Much below it, an update is mostly chance: it goes one way now and back with "
        "the next batch. Much above it, the direction is as good as exact, and more rows only make the step dearer. "
        "The scale grows as the loss falls, because what all rows agree on is learnt first."
    ),
    rule=(
        "The gradient noise scale (trace of the gradients' covariance over the squared gradient, measured on "
        "parts of the batch), median of the probes in the window, at least 8 of them. Too small: batch below "
        "the scale by more than `too_small` times while Mann–Kendall's test sees no falling trend over the "
        "last 20 blocks. Wasteful: batch above the scale by more than `wasteful` times."
    ),
    look_alikes=(
        "A learning rate that is too high: the loss jitters too, but the gain ratio is below 0.25.",
        "The end of training: the noise scale is high because the common gradient is nearly gone. That is as it "
        "should be; lower the learning rate rather than raise the batch.",
    ),
    actions=(
        "Too small: accumulate gradients (`optimizer.accumulation_steps`), take a larger batch, or lower the "
        "learning rate.",
        "Too small: average the weights over the steps (`optimizer.average_decay`).",
        "Wasteful: halve the batch and take twice the steps at the same cost per row.",
    ),
    gradsight_does="Reports it as information under every policy. The batch is part of the recipe and stays "
    "as it is.",
    sources=("McCandlish et al., An Empirical Model of Large-Batch Training, arXiv 1812.06162",),
    thresholds={
        "too_small": Threshold(
            default=10,
            low=1,
            high=1e6,
            meaning="Noise scale over batch size from which the batch is too small.",
        ),
        "wasteful": Threshold(
            default=10,
            low=1,
            high=1e6,
            meaning="Batch size over noise scale from which the batch is wasteful.",
        ),
    },
)
_WINDOW = 20


def _find(signals: Signals, thresholds: Mapping[str, Mapping[str, float]]) -> Sequence[Observation]:
    """At most one, of the run."""
    limits, batch = thresholds[GRADIENT_NOISE.name], signals.facts.batch_size
    scales = finite(signals.probes.gradient_noise_scale[-_WINDOW:])
    scales = scales[scales > 0]
    if len(scales) < 8 or batch < 1:
        return ()
    scale = median(scales)
    if scale > limits["too_small"] * batch:
        blocks = finite(signals.block_loss[-_WINDOW:])
        if len(blocks) < _WINDOW or mann_kendall_z(blocks) < -1.64:
            return ()
        name, threshold = "noise_scale_over_batch", limits["too_small"]
        observed = scale / batch
        said = (
            f"Rows of a batch disagree so much that only about {figure(scale)} rows together would show a direction "
            f"as large as the noise; a batch has {batch}. So single updates are mostly chance, and the training loss "
            "no longer falls. Larger or accumulated batches, or a lower learning rate, let the common direction win."
        )
    elif batch > limits["wasteful"] * scale:
        name, threshold, observed = "batch_over_noise_scale", limits["wasteful"], batch / scale
        said = (
            f"The rows of a batch agree: about {figure(scale)} of them would show the direction well enough, and a "
            f"batch has {batch}. Smaller batches would take the model as far for each row at less cost for each step."
        )
    else:
        return ()
    first = min(signals.step, int(signals.probes.step[-_WINDOW:][0]))
    return (
        Observation(
            kind=GRADIENT_NOISE.name,
            first_step=first,
            last_step=signals.step,
            evidence=(
                Number(
                    name=name,
                    observed=observed,
                    threshold=threshold,
                    first_step=first,
                    last_step=signals.step,
                ),
                Number(
                    name="gradient_noise_scale",
                    observed=scale,
                    unit="rows",
                    first_step=first,
                    last_step=signals.step,
                ),
            ),
            confidence=0.6,
            explanation=said,
        ),
    )


NOISE = Family(kinds=(GRADIENT_NOISE,), find=_find)
