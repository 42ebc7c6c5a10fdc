"""Held-out figures that are too good to be true: held-out rows were seen in training (FM-25)."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

from gradsight_insight.held_out import newest
from gradsight_insight.kinds import Family, FindingKind, Number, Observation, Threshold
from gradsight_insight.signals import EvaluationSignals, RunFacts, Signals
from gradsight_insight.wording import percent

LEAKAGE = FindingKind(
    code="FM-25",
    name="leakage",
    title="Leakage",
    severity="warning",
    you_see=(
        "Held-out error is surprisingly low, perhaps lower than on the training rows, and the model disappoints as "
        "soon as it meets rows from elsewhere."
    ),
    mechanism=(
        "Held-out rows are there to say how the model answers rows it has not seen. If some of them are also in "
        "train, under the same or nearly the same content, the model has seen their answers, and remembering is "
        "easier than understanding. The share of such rows is then answered right whatever the model has learnt, "
        "the error comes out too low by about that share, and of two models the one that remembers better looks the "
        "better one."
    ),
    rule=(
        "More than `leaked_share` of the held-out rows have the same content as a training row. Or, at "
        "`confirmations` evaluations in a row, held-out error is below the training error, both measured without "
        "dropout, by more than `smallest_gap` and with z above `error_z`."
    ),
    look_alikes=(
        "Dropout and augmentation: the training loss during the steps is higher than what the same rows cost "
        "afterwards. The rule compares both sides measured the same way.",
        "A validation set that is easier than train, because it was cleaned or chosen.",
        "Texts that legitimately repeat, such as greetings: then the figure is right for a world that repeats them.",
        "A pretrained model that has met the held-out rows elsewhere: not visible here.",
    ),
    actions=(
        "Remove from train what is also in validation or test, and train again.",
        "Leave out `data.validation` and `data.test`: rows that gradsight splits off by their content never "
        "straddle.",
        "Split by what belongs together (customer, document, day) and not by row.",
        "Look for an input column that is made from the target.",
    ),
    gradsight_does=(
        "It counts the rows that occur on both sides before the first step and reports the finding under every "
        "policy; the run's verdict is then UNSOUND, because its figures say nothing about new rows. Nothing is "
        "repaired: which side a row belongs to is yours to say."
    ),
    sources=(
        "Kaufman et al., Leakage in data mining, doi 10.1145/2382577.2382579",
        "Kapoor and Narayanan, Leakage and the reproducibility crisis, doi 10.1016/j.patter.2023.100804",
    ),
    thresholds={
        "leaked_share": Threshold(
            default=0.005,
            low=0.0,
            high=1.0,
            meaning="Share of held-out rows whose content also occurs in train.",
        ),
        "error_z": Threshold(
            default=3.0,
            low=1.0,
            high=10.0,
            meaning="z from which held-out error counts as lower than train's.",
        ),
        "smallest_gap": Threshold(
            default=0.01, low=0.0, high=1.0, meaning="Held-out error ratio below train's, at least."
        ),
        "confirmations": Threshold(
            default=2, low=1, high=50, meaning="Evaluations in a row at which the second rule must hold."
        ),
    },
)


def _find(signals: Signals, thresholds: Mapping[str, Mapping[str, float]]) -> Sequence[Observation]:
    """At most one: rows counted on both sides say more than figures that are too good."""
    limits = thresholds[LEAKAGE.name]
    found = _rows_on_both_sides(signals, limits) or _better_than_train(signals, limits)
    return () if found is None else (found,)


LEAKS = Family(kinds=(LEAKAGE,), find=_find, at_evaluations=True)


def _rows_on_both_sides(signals: Signals, limits: Mapping[str, float]) -> Observation | None:
    facts = signals.facts
    held_out = facts.validation_rows + facts.test_rows
    if held_out <= 0 or not facts.leaked_rows > limits["leaked_share"] * held_out:
        return None
    share = facts.leaked_rows / held_out
    return Observation(
        kind=LEAKAGE.name,
        subject_kind="split",
        first_step=0,
        last_step=signals.step,
        evidence=(
            Number(
                name="leaked_share", observed=share, threshold=limits["leaked_share"], last_step=signals.step
            ),
            Number(name="leaked_rows", observed=facts.leaked_rows, unit="rows", last_step=signals.step),
        ),
        confidence=1.0,
        explanation=(
            f"{facts.leaked_rows} of the {held_out} held-out rows ({percent(share)}) have the same content as a row "
            "of train. The model has seen their answers, so held-out error comes out too low by up to that share "
            "and says little about new rows."
        ),
    )


def _better_than_train(signals: Signals, limits: Mapping[str, float]) -> Observation | None:
    evaluations = newest(signals, int(limits["confirmations"]))
    gaps = [_gap_z(signals.facts, evaluation) for evaluation in evaluations]
    found = [(gap, z) for gap, z in gaps if gap > limits["smallest_gap"] and z > limits["error_z"]]
    if not gaps or len(found) < len(gaps):
        return None
    now, (gap, z) = evaluations[-1], found[-1]
    number = partial(Number, first_step=evaluations[0].step, last_step=now.step)
    return Observation(
        kind=LEAKAGE.name,
        subject_kind="split",
        first_step=evaluations[0].step,
        last_step=now.step,
        evidence=(
            number(name="error_below_train", observed=gap, threshold=limits["smallest_gap"]),
            number(name="error_z", observed=z, threshold=limits["error_z"], unit="z"),
        ),
        confidence=0.6,
        explanation=(
            f"Held-out error is {percent(now.error_ratio or 0)}, below the {percent(now.train_error_ratio or 0)} on "
            "rows of train, measured the same way. A model is not better at rows it has never seen than at those it "
            "learns from: either the held-out rows are easier ones, or they, or their answers, were in train."
        ),
    )


def _gap_z(facts: RunFacts, evaluation: EvaluationSignals) -> tuple[float, float]:
    """By how much held-out error is below the training error, and in standard errors."""
    held_out, train = evaluation.error_ratio, evaluation.train_error_ratio
    if held_out is None or train is None or evaluation.examples <= 0 or not facts.judged_by_error:
        return 0.0, 0.0
    # How large the sample of train was is not known: not larger than either side.
    sample = max(1, min(facts.train_rows, evaluation.examples))
    pooled = (held_out * evaluation.examples + train * sample) / (evaluation.examples + sample)
    error = math.sqrt(pooled * (1 - pooled) * (1 / evaluation.examples + 1 / sample))
    return train - held_out, (train - held_out) / error if error > 0 else 0.0
