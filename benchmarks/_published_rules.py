"""Rules that others published, with their defaults, on the signals that our jobs record.

SageMaker Debugger's built-in rules (its developer guide, 2023; MLSys 2021) and AUTOTRAINER's (Zhang et al., ICSE 2021,
doi 10.1109/ICSE43902.2021.00043, and its repository). Where they read tensors that a job does not record, the nearest
recorded number stands in, never a less sensitive one; each place says so. Debugger saves tensors every 500 steps by
default; here its rules see every probe, and means over 10 steps of the loss.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gradsight.v1 import event_pb2, state_pb2

SATISFIED_ACCURACY = 0.6
"""AUTOTRAINER reports faults of layers only below it."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a job recorded."""

    prepared: event_pb2.DataPrepared
    losses: Sequence[float]
    norms: Sequence[float]
    probes: Sequence[event_pb2.Probe]
    evaluations: Sequence[event_pb2.EvaluationCompleted]

    @classmethod
    def of(cls, events: Sequence[event_pb2.JobEvent]) -> "Record":
        """From the events of a run."""
        steps = [event.steps_recorded for event in events if event.HasField("steps_recorded")]
        return cls(
            prepared=next(
                (e.data_prepared for e in events if e.HasField("data_prepared")), event_pb2.DataPrepared()
            ),
            losses=[loss for batch in steps for loss in batch.loss],
            norms=[norm for batch in steps for norm in batch.gradient_norm],
            probes=[probe for batch in steps for probe in batch.probes],
            evaluations=[
                event.evaluation_completed
                for event in events
                if event.HasField("evaluation_completed")
                and event.evaluation_completed.split == state_pb2.SPLIT_VALIDATION
            ],
        )


Rule = Callable[[Record], Iterator[int]]
"""The steps at which it fires; the first is what counts."""


def fired(events: Sequence[event_pb2.JobEvent]) -> dict[str, int]:
    """Which rules fire on the events of a run, by name, and at which step first."""
    record = Record.of(events)
    steps = {name: next(rule(record), None) for name, rule in RULES.items()}
    return {name: step for name, step in steps.items() if step is not None}


# SageMaker Debugger


def _vanishing_gradient(record: Record) -> Iterator[int]:
    """Mean of the gradient's magnitudes in a layer below 1e-7; here their root mean square."""
    yield from (probe.step for probe in record.probes if any(rms < 1e-7 for rms in probe.layer_gradient_rms))


def _exploding_tensor(record: Record) -> Iterator[int]:
    """NaN or infinity in any tensor; here in loss or gradient."""
    for step, (loss, norm) in enumerate(zip(record.losses, record.norms, strict=True), start=1):
        if not (math.isfinite(loss) and math.isfinite(norm)):
            yield step


def _all_zero(record: Record) -> Iterator[int]:
    """Every value of a gradient or of a layer's output is 0."""
    for probe in record.probes:
        if 0.0 in probe.layer_gradient_norm or any(share >= 1 for share in probe.layer_zero_ratio):
            yield probe.step


def _unchanged_tensor(record: Record) -> Iterator[int]:
    """A weight all close to itself at three saved steps (relative tolerance 1e-5); here updates of less than that."""
    still: dict[int, int] = {}
    for probe in record.probes:
        for layer, ratio in enumerate(probe.layer_update_ratio):
            still[layer] = still.get(layer, 0) + 1 if ratio < 1e-5 else 0
        if any(times >= 3 for times in still.values()):
            yield probe.step


def _weight_update_ratio(record: Record) -> Iterator[int]:
    """Update over weight above 10 or below 1e-8."""
    for probe in record.probes:
        if any(ratio > 10 or ratio < 1e-8 for ratio in probe.layer_update_ratio):
            yield probe.step


def _poor_weight_initialization(record: Record) -> Iterator[int]:
    """Ratio of variances between layers above 10; here of their outputs at the first probe."""
    for probe in record.probes[:1]:
        known = [value**2 for value in probe.layer_activation_deviation if math.isfinite(value)]
        if known and max(known) > 10 * min(known):
            yield probe.step


def _saturated_activation(record: Record) -> Iterator[int]:
    """More than half of a layer saturated; here beyond tanh 0.97 or sigmoid 0.01 to 0.99, which comes sooner."""
    yield from (probe.step for probe in record.probes if any(r > 0.5 for r in probe.layer_saturated_ratio))


def _dead_relu(record: Record) -> Iterator[int]:
    """More than half of a layer's units active for less than 1 % of the rows; here for none of validation's."""
    yield from (e.step for e in record.evaluations if any(ratio > 0.5 for ratio in e.layer_dead_ratio))


def _loss_not_decreasing(record: Record) -> Iterator[int]:
    """Over 10 steps the loss fell by less than 0.1 % or rose by more than 5 %; here means of 10 steps."""
    blocks = [float(np.mean(record.losses[at : at + 10])) for at in range(0, len(record.losses) - 9, 10)]
    for number, (old, new) in enumerate(pairwise(blocks), start=2):
        if not new < old * (1 - 0.001):
            yield number * 10


def _overfit(record: Record) -> Iterator[int]:
    """Validation loss more than 10 % above train's; here of the steps since the evaluation before."""
    for before, now in pairwise(record.evaluations):
        train = float(np.mean(record.losses[before.step : now.step] or [math.nan]))
        if (now.loss - train) / train > 0.1:
            yield now.step


def _overtraining(record: Record) -> Iterator[int]:
    """Validation loss not better by more than 0.01 for ten evaluations."""
    best, since = math.inf, 0
    for evaluation in record.evaluations:
        better = evaluation.loss < best - 0.01
        best, since = (evaluation.loss, 0) if better else (best, since + 1)
        if since >= 10:
            yield evaluation.step


def _class_imbalance(record: Record) -> Iterator[int]:
    """Ten times as many rows of one class as of another, or more than 70 % of a class answered wrongly."""
    counts = [
        rows.rows
        for category in record.prepared.categories
        for rows in category.splits
        if rows.split == state_pb2.SPLIT_TRAIN
    ]
    if counts and max(counts) > 10 * min(counts):
        yield 0
    for evaluation in record.evaluations:
        if any(category.error_ratio > 0.7 for category in evaluation.categories):
            yield evaluation.step


def _check_input_images(record: Record) -> Iterator[int]:
    """Mean of an input beyond 0.2."""
    if any(figures.HasField("mean") and abs(figures.mean) > 0.2 for figures in record.prepared.inputs):
        yield 0


# AUTOTRAINER


def _not_satisfied(rule: Rule) -> Rule:
    def satisfied_first(record: Record) -> Iterator[int]:
        for step in rule(record):
            past = [e.error_ratio for e in record.evaluations if e.step <= step]
            if not past or min(past) > 1 - SATISFIED_ACCURACY:
                yield step

    return satisfied_first


def _gradients(probe: event_pb2.Probe) -> tuple[float, float]:
    norms = list(probe.layer_gradient_norm)
    return (norms[0], norms[-1]) if norms else (math.nan, math.nan)


def _gradient_vanish(record: Record) -> Iterator[int]:
    for probe in record.probes:
        first, last = _gradients(probe)
        if first < 1e-4 and first < 1e-3 * last:
            yield probe.step


def _gradient_explode(record: Record) -> Iterator[int]:
    for probe in record.probes:
        first, last = _gradients(probe)
        if not (math.isfinite(first) and math.isfinite(last)) or first > 70 * last:
            yield probe.step
    yield from (step for step, loss in enumerate(record.losses, start=1) if not loss <= 1e3)


def _dying_relu(record: Record) -> Iterator[int]:
    """At least 70 % of the gradient's entries are 0; here of a layer's units, over validation."""
    yield from (e.step for e in record.evaluations if any(ratio >= 0.7 for ratio in e.layer_dead_ratio))


def _oscillating(record: Record) -> Iterator[int]:
    """Accuracy goes up and down by at least 3 points in a fifth of the epochs; here of the evaluations."""
    accuracies = [1 - e.error_ratio for e in record.evaluations]
    swings = 0
    for place in range(1, len(accuracies) - 1):
        before, here, after = accuracies[place - 1 : place + 2]
        if (here - before) * (after - here) < 0 and abs(here - after) >= 0.03:
            swings += 1
    if len(accuracies) >= 5 and swings >= 0.2 * len(accuracies):
        yield record.evaluations[-1].step


def _slow_convergence(record: Record) -> Iterator[int]:
    """The best gain of accuracy in an epoch is below a point; here between evaluations."""
    accuracies = [1 - e.error_ratio for e in record.evaluations]
    if len(accuracies) >= 4 and max(new - old for old, new in pairwise(accuracies)) < 0.01:
        yield record.evaluations[-1].step


RULES: Mapping[str, Rule] = {
    "SMD VanishingGradient": _vanishing_gradient,
    "SMD ExplodingTensor": _exploding_tensor,
    "SMD AllZero": _all_zero,
    "SMD UnchangedTensor": _unchanged_tensor,
    "SMD WeightUpdateRatio": _weight_update_ratio,
    "SMD PoorWeightInitialization": _poor_weight_initialization,
    "SMD SaturatedActivation": _saturated_activation,
    "SMD DeadRelu": _dead_relu,
    "SMD LossNotDecreasing": _loss_not_decreasing,
    "SMD Overfit": _overfit,
    "SMD Overtraining": _overtraining,
    "SMD ClassImbalance": _class_imbalance,
    "SMD CheckInputImages": _check_input_images,
    "AT vanish": _not_satisfied(_gradient_vanish),
    "AT explode": _not_satisfied(_gradient_explode),
    "AT dying": _not_satisfied(_dying_relu),
    "AT oscillation": _oscillating,
    "AT slow": _slow_convergence,
}

NAMES: Mapping[str, tuple[str, ...]] = {
    "nonfinite_values": ("SMD ExplodingTensor", "AT explode"),
    "loss_spike": ("SMD LossNotDecreasing", "AT oscillation"),
    "divergence": ("SMD LossNotDecreasing", "AT explode", "AT oscillation"),
    "exploding_gradient": ("SMD WeightUpdateRatio", "AT explode"),
    "vanishing_gradient": ("SMD VanishingGradient", "SMD UnchangedTensor", "AT vanish"),
    "dead_units": ("SMD DeadRelu", "SMD AllZero", "AT dying"),
    "saturated_activations": ("SMD SaturatedActivation",),
    "learning_rate_too_high": (
        "SMD WeightUpdateRatio",
        "SMD LossNotDecreasing",
        "AT oscillation",
        "AT explode",
    ),
    "learning_rate_too_low": ("SMD WeightUpdateRatio", "SMD UnchangedTensor", "AT slow"),
    "frozen_parameters": ("SMD UnchangedTensor", "SMD WeightUpdateRatio", "SMD AllZero"),
    "bad_initialization": ("SMD PoorWeightInitialization", "SMD AllZero"),
    "not_learning": ("SMD LossNotDecreasing", "AT slow"),
    "overfitting": ("SMD Overfit", "SMD Overtraining"),
    "memorization": ("SMD Overfit", "SMD Overtraining"),
    "weak_category": ("SMD ClassImbalance",),
    "prediction_collapse": ("SMD ClassImbalance",),
    "input_contract": ("SMD CheckInputImages",),
}
"""Which published rule would have named a kind of finding; kinds that are missing have none."""
