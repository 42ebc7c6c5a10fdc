"""The device waits more than it computes (FM-27)."""

import math
from collections.abc import Mapping, Sequence

from gradsight_insight.kinds import Family, FindingKind, Number, Observation, Threshold
from gradsight_insight.signals import Signals
from gradsight_insight.wording import figure, percent

STARVED_JOB = FindingKind(
    code="FM-27",
    name="starved_job",
    title="Starved or stalled job",
    severity="warning",
    you_see=(
        "Steps per second are far below what the device can do, or the job stands still for minutes and goes on. The "
        "device's load is low; nothing is wrong with the loss."
    ),
    mechanism=(
        "A step needs rows, and rows need to be read, decoded and brought to the device. When that takes longer "
        "than the step itself, the device waits, and the run takes as long as the slowest disk, decoder or network "
        "allows. A single step that takes many times the usual has met something else: a neighbour on the machine, "
        "a full disk, a network that hangs, memory that is swapped."
    ),
    rule=(
        "The loop waited for rows for more than `waiting_share` of the time; or a step took more than `times_usual` "
        "times the median and more than `least_seconds`. A job that makes no step at all is seen by the worker's "
        "watch and by the alert on its last step's time, not here."
    ),
    look_alikes=(
        "The first steps, which compile and warm caches.",
        "Evaluations and checkpoints between steps: they are not counted as steps.",
        "A tiny model: its step takes so little that any reading looks long. The run is short anyway.",
    ),
    actions=(
        "Put the data on a local disk, in Parquet or tensors instead of many small files.",
        "Decode and scale images once, before training.",
        "Raise the batch size, so that the device has more to do for each reading.",
        "Look at the machine at that time: memory, disk, neighbours.",
    ),
    gradsight_does=(
        "Reports the finding under every policy. A job without progress is taken from its worker and goes on "
        "elsewhere from its last checkpoint."
    ),
    sources=(
        "Amazon SageMaker Debugger, IOBottleneck and StalledTrainingRule",
        "J. Mohan et al., Analyzing and Mitigating Data Stalls in DNN Training, arXiv 2007.06775",
    ),
    thresholds={
        "waiting_share": Threshold(
            default=0.5, low=0.01, high=1.0, meaning="Share of the time that the loop waited for rows."
        ),
        "times_usual": Threshold(
            default=20,
            low=2,
            high=1e6,
            meaning="Longest step over the median one from which it counts as stalled.",
        ),
        "least_seconds": Threshold(
            default=60, low=0.001, high=1e6, meaning="Seconds that a stalled step took at least."
        ),
    },
)


def _find(signals: Signals, thresholds: Mapping[str, Mapping[str, float]]) -> Sequence[Observation]:
    """At most one, of the run."""
    limits, timing = thresholds[STARVED_JOB.name], signals.timing
    number = None
    if timing.data_wait_ratio > limits["waiting_share"]:
        number = Number(
            name="data_wait_ratio",
            observed=timing.data_wait_ratio,
            threshold=limits["waiting_share"],
            last_step=signals.step,
        )
        said = (
            f"The loop waits for rows {percent(timing.data_wait_ratio)} of the time; the device is idle meanwhile. "
            "Reading and decoding set the pace, not training."
        )
    elif (
        math.isfinite(timing.longest_step_seconds)
        and timing.longest_step_seconds > limits["least_seconds"]
        and timing.longest_step_seconds > limits["times_usual"] * timing.step_seconds
    ):
        number = Number(
            name="longest_step_seconds",
            observed=timing.longest_step_seconds,
            threshold=max(limits["least_seconds"], limits["times_usual"] * timing.step_seconds),
            unit="seconds",
            last_step=signals.step,
        )
        said = (
            f"One of the newest steps took {figure(timing.longest_step_seconds)} seconds, the usual one "
            f"{figure(timing.step_seconds)}. Training itself takes the same time at every step, so the machine was "
            "busy or waiting for something else."
        )
    if number is None:
        return ()
    return (
        Observation(
            kind=STARVED_JOB.name,
            first_step=max(0, signals.step - 1),
            last_step=signals.step,
            evidence=(number,),
            confidence=0.8,
            explanation=said,
        ),
    )


STALLS = Family(kinds=(STARVED_JOB,), find=_find)
