"""Attention scores that grow without bound (FM-26)."""

from collections.abc import Mapping, Sequence
from functools import partial

from gradsight_insight.kinds import Family, FindingKind, Number, Observation, Threshold
from gradsight_insight.signals import Signals
from gradsight_insight.statistics import finite, mann_kendall_z, median
from gradsight_insight.wording import figure

LOGIT_GROWTH = FindingKind(
    code="FM-26",
    name="logit_growth",
    title="Logit growth",
    severity="warning",
    you_see=(
        "In a transformer the largest attention score climbs from probe to probe into the hundreds and "
        "thousands. The loss looks well at first; then it spikes, or stays high for good."
    ),
    mechanism=(
        "Attention weighs tokens by a softmax over scores, products of queries and keys. When the norms of both "
        "grow, the scores grow with their product, and the softmax turns into a choice: one token gets all the "
        "weight. Its derivative is then close to zero, so nothing pulls the scores back, while a small change of a "
        "score near a tie switches the choice and the output jumps. Large learning rates drive the growth, and it "
        "shows in small models as it does in large ones. In bfloat16, scores of some hundreds are also rounded to "
        "whole numbers."
    ),
    rule=(
        "The largest attention score of the newest 8 probes has a median above `largest` and at least `growth` times "
        "that of the oldest 8 in memory, with a rising trend (Mann–Kendall's z > 1.64); or it is above 10 times "
        "`largest`, whatever the trend."
    ),
    look_alikes=(
        "Heads that copy: some heads attend to one token on purpose and have scores of some tens. They do not keep "
        "growing.",
        "A learning rate that is too high in general: the gain ratio is low as well.",
    ),
    actions=(
        "Normalize queries and keys before their product (QK-norm).",
        "Lower the learning rate, or warm it up for longer.",
        "Use weight decay on the projections of queries and keys.",
        "Add a small penalty on the log of the softmax's sum (z-loss, 1e-4) for the output layer's logits.",
    ),
    gradsight_does=(
        "Reports the finding. Under REPAIR it tries half the learning rate and keeps it only if the scores stop "
        "growing and held-out rows are no worse; normalization is a change of the model and stays with you."
    ),
    sources=(
        "Wortsman et al., Small-scale proxies for large-scale Transformer training instabilities, arXiv 2309.14322",
        "Dehghani et al., Scaling Vision Transformers to 22 Billion Parameters, arXiv 2302.05442",
    ),
    thresholds={
        "largest": Threshold(
            default=100, low=1, high=1e6, meaning="Attention score from which growth is told."
        ),
        "growth": Threshold(
            default=2, low=1, high=1e3, meaning="Times the score of the oldest probes in memory."
        ),
    },
    repairs=("scale_learning_rate",),
)
_PROBES = 8


def _find(signals: Signals, thresholds: Mapping[str, Mapping[str, float]]) -> Sequence[Observation]:
    """At most one, of the run."""
    limits = thresholds[LOGIT_GROWTH.name]
    scores = finite(signals.probes.attention_logit_max)
    if not signals.facts.has_attention or len(scores) < 2 * _PROBES:
        return ()
    before, now = median(scores[:_PROBES]), median(scores[-_PROBES:])
    if now <= limits["largest"]:
        return ()
    grown = now >= limits["growth"] * before and mann_kendall_z(scores) > 1.64
    if not grown and now <= 10 * limits["largest"]:
        return ()
    first = min(signals.step, int(signals.probes.step[0]))
    number = partial(Number, first_step=first, last_step=signals.step)
    return (
        Observation(
            kind=LOGIT_GROWTH.name,
            first_step=first,
            last_step=signals.step,
            evidence=(
                number(name="attention_logit_max", observed=now, threshold=limits["largest"]),
                number(
                    name="growth", observed=now / before if before > 0 else 0.0, threshold=limits["growth"]
                ),
            ),
            confidence=0.8,
            explanation=(
                f"The largest attention score went from {figure(before)} to {figure(now)} since step {first}. The "
                "softmax over such scores is a choice of one token: hardly any gradient passes it, and a small "
                "change can switch the choice. That is how loss spikes in transformers begin."
            ),
        ),
    )


ATTENTION = Family(kinds=(LOGIT_GROWTH,), find=_find)
