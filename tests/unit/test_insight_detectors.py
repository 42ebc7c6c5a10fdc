"""Each failure mode is found in its fault and in none of its look-alikes; detectors survive whatever is measured."""

import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tests.unit.synthetic_signals import (
    LAYERS,
    PRIOR_LOSS,
    evaluation,
    facts,
    falling_loss,
    first_batch,
    probes,
    signals,
    steps,
)

from gradsight_insight.attribution import causes
from gradsight_insight.catalogue import DETECTORS, complete_thresholds, default_thresholds
from gradsight_insight.kinds import Observation
from gradsight_insight.signals import FirstBatch, InputFacts, LayerFacts, Signals, Timing

SOUND_INPUT = InputFacts(name="pixels", mean=0.1, deviation=1.0, largest=4.0, neighbour_correlation=0.9)


def found(seen: Signals, **thresholds: dict[str, float]) -> dict[str, Observation]:
    """What all detectors find, by kind; the first of each."""
    complete = complete_thresholds(thresholds)
    answers: dict[str, Observation] = {}
    with np.errstate(all="ignore"):
        for detector in DETECTORS:
            for observation in detector(seen, complete):
                answers.setdefault(observation.kind, observation)
    return answers


def layer(place: int, value: float, usual: float, count: int = 40) -> npt.NDArray[np.float64]:
    """Usual values by layer, but one."""
    columns = np.full((count, len(LAYERS)), usual)
    columns[:, place] = value
    return columns


def flat(count: int = 400, level: float = PRIOR_LOSS, **changes: Any) -> Signals:
    """A run whose loss stays where it is."""
    loss = level * (1 + 0.002 * np.random.default_rng(0).normal(size=count))
    blocks = count // 10
    return signals(
        count,
        steps=steps(loss),
        block_loss=loss[: blocks * 10].reshape(-1, 10).mean(axis=1),
        probes=changes.pop("probes", probes(loss[9::10])),
        evaluations=changes.pop("evaluations", (evaluation(200, level, 0.9), evaluation(400, level, 0.9))),
        **changes,
    )


def test_a_healthy_run_has_no_finding() -> None:
    for count in (0, 10, 50, 200, 400, 1000):
        assert found(signals(count, facts(inputs=(SOUND_INPUT,)))) == {}


# Contracts.


@pytest.mark.parametrize(
    "changes",
    [
        {"outputs_are_probabilities": True},
        {"loss_ignores_targets": True},
        {"loss": -2.3},
    ],
)
def test_loss_contract(changes: dict[str, Any]) -> None:
    seen = found(signals(10, facts(first_batch=first_batch(**changes))))
    assert seen["loss_contract"].severity is None
    assert len(seen["loss_contract"].evidence) == 1


def test_a_loss_of_ones_own_may_be_negative() -> None:
    run = signals(10, facts(first_batch=first_batch(loss=-2.3)))
    assert "loss_contract" not in found(run, loss_contract={"lowest_loss": -5.0})


@pytest.mark.parametrize(
    ("changes", "severity"),
    [
        ({"nonfinite_ratio": 0.01}, "critical"),
        ({"deviation": 80.0, "largest": 255.0}, "warning"),
        ({"deviation": 2.0, "largest": 900.0}, "warning"),
        ({"deviation": 0.001, "largest": 0.004}, "warning"),
        ({"constant": True}, "warning"),
        ({"padding_ratio": 0.8, "deviation": None, "largest": None}, "warning"),
    ],
)
def test_input_contract(changes: dict[str, Any], severity: str) -> None:
    seen = found(signals(10, facts(inputs=(SOUND_INPUT, replace(SOUND_INPUT, name="odd", **changes)))))
    assert (seen["input_contract"].subject, seen["input_contract"].severity) == ("odd", severity)
    assert "`odd`" in seen["input_contract"].explanation


def test_mixed_up_positions_matter_to_convolutions_only() -> None:
    shuffled = replace(SOUND_INPUT, neighbour_correlation=0.01)
    convolution = LayerFacts(path="conv", kind="Conv1d", parameters=50)
    run = facts(inputs=(shuffled,), layers=(convolution, *facts().layers[1:]))
    assert found(signals(10, run))["input_contract"].subject == "pixels"
    assert "input_contract" not in found(signals(10, facts(inputs=(shuffled,))))
    assert "input_contract" not in found(signals(10, replace(run, inputs=(SOUND_INPUT,))))


def test_sparse_counts_are_no_small_inputs() -> None:
    counts = InputFacts(name="words", mean=0.001, deviation=0.03, largest=1.0)
    assert "input_contract" not in found(signals(10, facts(inputs=(counts,))))


def test_step_protocol() -> None:
    assert "step_protocol" in found(signals(10, facts(first_batch=first_batch(stale_gradients=True))))


# Arithmetic.


def broken_steps(places: list[int], count: int = 400, **changes: Any) -> Signals:
    loss, nonfinite = falling_loss(count), np.zeros(count, bool)
    nonfinite[places] = True
    if "float16" not in changes:
        loss[places] = math.nan
    changes.pop("float16", None)
    return signals(count, steps=steps(loss, nonfinite=nonfinite, **changes.pop("columns", {})), **changes)


def test_one_nonfinite_step_warns_and_three_in_a_hundred_alarm() -> None:
    assert found(broken_steps([390]))["nonfinite_values"].severity is None
    assert found(broken_steps([350, 370, 390]))["nonfinite_values"].severity == "critical"
    assert "nonfinite_values" not in found(broken_steps([10]))


def test_the_search_of_a_loss_scale_is_normal() -> None:
    half = facts(precision="float16")
    columns = {"loss_scale": np.full(400, 1024.0)}
    assert found(broken_steps([210, 300, 390], float16=True, run=half, columns=columns)) == {}
    start = broken_steps(
        list(range(14)), 100, float16=True, run=half, columns={"loss_scale": np.full(100, 4.0)}
    )
    assert found(start) == {}


@pytest.mark.parametrize(
    ("places", "scale"),
    [(list(range(201, 400, 7)), 1024.0), ([], 0.5), (list(range(300, 305)), 1024.0)],
)
def test_mixed_precision_range(places: list[int], scale: float) -> None:
    columns = {"loss_scale": np.full(400, scale)}
    seen = found(broken_steps(places, float16=True, run=facts(precision="float16"), columns=columns))
    assert "mixed_precision_range" in seen
    assert "nonfinite_values" not in seen


# Initialization.


def symmetric(*places: int, **changes: Any) -> Signals:
    layers = tuple(
        replace(each, symmetric_units=place in places) for place, each in enumerate(facts().layers)
    )
    return signals(10, facts(layers=layers, **changes))


def test_symmetric_layers_after_one_another_stay_symmetric() -> None:
    assert found(symmetric(0, 1, 2))["bad_initialization"].severity == "critical"
    assert found(symmetric(1, 2))["bad_initialization"].subject == "hidden"
    assert found(symmetric(0))["bad_initialization"].severity is None


def test_one_sided_zeros_are_sound() -> None:
    zeros = first_batch(activation_deviation=np.array([0.8, 0.0, 0.6]))
    assert "bad_initialization" not in found(symmetric(1, first_batch=zeros))
    assert "bad_initialization" not in found(symmetric(2))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"loss": 40.0}, "first_loss"),
        ({"activation_deviation": np.array([9.0, 400.0, 2.0])}, "activation_deviation"),
        ({"activation_deviation": np.array([0.01, 1e-6, 1e-9])}, "activation_deviation"),
    ],
)
def test_bad_initialization(changes: dict[str, Any], name: str) -> None:
    run = facts(first_batch=first_batch(**changes))
    untrained = signals(10, run, block_loss=np.array([PRIOR_LOSS]))
    assert found(untrained)["bad_initialization"].evidence[0].name == name
    assert "bad_initialization" not in found(signals(400, run)), "it has learned since"
    assert "bad_initialization" not in found(replace(untrained, facts=replace(run, fine_tuning=True)))


def test_rare_classes_are_no_bad_initialization() -> None:
    rare = facts(prior_loss=0.1, class_counts=np.array([6300, 100]), first_batch=first_batch(loss=0.7))
    assert "bad_initialization" not in found(signals(10, rare))


# Decay.


def decayed(
    count: int = 100,
    shrinkage: tuple[float, ...] = (1.0, 1.0, 1.0),
    update: npt.NDArray[np.float64] | float = 0.1,
    budget: int = 2000,
    **columns: Any,
) -> Signals:
    """A run at a rate of 0.1 that learns nothing, with updates of a tenth of the weights."""
    layers = tuple(
        replace(described, shrinkage_per_rate=share)
        for described, share in zip(facts().layers, shrinkage, strict=True)
    )
    rows, rate = count // 10, {"learning_rate": np.full(count // 10, 0.1)}
    moved = {"update_ratio": np.broadcast_to(update, (rows, len(LAYERS))).copy()}
    run = flat(count, probes=probes([PRIOR_LOSS] * rows, **{**rate, **moved, **columns}), evaluations=())
    steps_taken = replace(run.steps, learning_rate=np.full(count, 0.1))
    return replace(run, facts=facts(layers=layers, total_steps=budget), steps=steps_taken)


def test_excessive_decay() -> None:
    shrinking = np.outer(0.35 ** np.arange(10), np.full(len(LAYERS), 10.0))
    seen = found(decayed(weight_norm=shrinking))["excessive_decay"]
    assert seen.severity is None
    numbers = {number.name: number.observed for number in seen.evidence}
    assert numbers["decay_share"] == pytest.approx(1.0)
    assert numbers["halving_steps"] == pytest.approx(math.log(2) / 0.1)
    assert numbers["weight_norm_left"] == pytest.approx(0.35**9)
    assert (seen.first_step, seen.last_step) == (1, 100)
    assert "halves the weights in 6.93 steps" in seen.explanation


def test_decay_is_judged_from_five_probes_on_and_when_gradients_hold_it_up() -> None:
    assert "excessive_decay" in found(decayed(50))
    assert "excessive_decay" not in found(decayed(40))
    assert "excessive_decay" in found(decayed(update=0.003))


def test_decay_that_is_weak_beside_the_updates_or_in_itself_is_none_too_strong() -> None:
    assert "excessive_decay" not in found(decayed(update=0.13))
    assert "excessive_decay" in found(decayed(update=0.13), excessive_decay={"decay_share": 0.7})
    # A rate that is far too low, with the usual decay: the weights hardly move, and decay is most of that.
    usual = decayed(400, shrinkage=(0.01, 0.01, 0.01), update=1e-3)
    assert "excessive_decay" not in found(usual)
    assert "excessive_decay" in found(decayed(1000, shrinkage=(0.01, 0.01, 0.01), update=1e-3, budget=10_000))


def test_decay_needs_time_and_a_budget_to_be_too_strong_for() -> None:
    weak = (0.1, 0.1, 0.1)
    assert "excessive_decay" not in found(decayed(60, shrinkage=weak, update=0.01))
    assert "excessive_decay" in found(decayed(100, shrinkage=weak, update=0.01))
    short = decayed(100, shrinkage=weak, update=0.01, budget=500)
    assert "excessive_decay" not in found(short)
    assert "excessive_decay" in found(short, excessive_decay={"halving_share": 0.2})
    still = decayed(100, shrinkage=weak, update=0.01)
    skipped = replace(still, steps=replace(still.steps, skipped=np.arange(100) < 50))
    assert "excessive_decay" not in found(skipped)


def test_decay_must_rule_most_of_the_layers_that_decay() -> None:
    assert "excessive_decay" in found(decayed(shrinkage=(0.0, 1.0, 0.0)))
    assert "excessive_decay" not in found(decayed(shrinkage=(0.0, 0.0, 0.0)))
    one = np.array([0.1, 0.4, 0.4])
    assert "excessive_decay" not in found(decayed(update=one))
    assert "excessive_decay" in found(decayed(update=np.array([0.1, 0.1, 0.4])))


def test_a_model_at_rest_and_layers_without_gradient_are_not_ruled_by_decay() -> None:
    learned = replace(decayed(), block_loss=np.full(10, 0.5 * PRIOR_LOSS))
    assert "excessive_decay" not in found(learned)
    begun = replace(decayed(), block_loss=np.full(10, 0.9 * PRIOR_LOSS))
    assert found(begun)["excessive_decay"].severity == "warning"
    cut_off = decayed(gradient_norm=np.tile([0.0, 0.0, 0.5], (10, 1)))
    assert "excessive_decay" not in found(cut_off)
    # Units that died on the way leave no gradient either: what counts is how strong decay was while there was one.
    gradient = np.ones((10, len(LAYERS)))
    gradient[3:] = 0
    assert "excessive_decay" in found(decayed(gradient_norm=gradient))
    large = np.full((10, len(LAYERS)), 0.1)
    large[:3] = 0.5
    assert "excessive_decay" not in found(decayed(gradient_norm=gradient, update=large))


# Units.


def test_dead_layer_shows_in_three_probes() -> None:
    run = flat(30, probes=probes([2.3] * 3, zero_ratio=layer(1, 1.0, 0.5, 3)), evaluations=())
    assert found(run)["dead_units"].subject == "hidden"
    assert "dead_units" not in found(flat(20, probes=probes([2.3] * 2, zero_ratio=layer(1, 1.0, 0.5, 2))))


def test_exact_zeros_of_other_activations_need_a_gradient_of_zero() -> None:
    zeros: dict[str, Any] = {"zero_ratio": layer(2, 1.0, 0.5)}
    assert "dead_units" not in found(flat(probes=probes([2.3] * 40, **zeros)))
    stuck: dict[str, Any] = {**zeros, "gradient_norm": layer(2, 0.0, 0.5)}
    assert found(flat(probes=probes([2.3] * 40, **stuck)))["dead_units"].subject == "head"


def test_dead_units_over_held_out_rows() -> None:
    dead = evaluation(400, 2.3, 0.9, dead_ratio=np.array([0.1, 0.7, 0.0]))
    seen = found(flat(evaluations=(dead, dead, dead)))["dead_units"]
    assert (seen.subject, seen.severity) == ("hidden", "warning")
    learned = found(signals(evaluations=(dead, dead, dead)))["dead_units"]
    assert learned.severity == "info"
    whole = replace(dead, dead_ratio=np.array([0.1, 1.0, 0.0]))
    assert found(signals(evaluations=(whole,)))["dead_units"].severity == "critical"


def test_few_rows_and_a_first_evaluation_say_little_of_dead_units() -> None:
    dead = evaluation(400, 2.3, 0.9, dead_ratio=np.array([0.1, 0.7, 0.0]))
    few = replace(dead, examples=100)
    assert "dead_units" not in found(signals(evaluations=(few, few, few)))
    assert "dead_units" not in found(signals(evaluations=(dead, dead)))


def test_units_that_a_far_too_large_step_killed() -> None:
    updates = np.full((40, 3), 0.01)
    updates[1, 1] = 0.3
    dead = evaluation(400, 2.3, 0.9, dead_ratio=np.array([0.1, 0.7, 0.0]))
    alive = FirstBatch(
        loss=2.3,
        outputs_are_probabilities=False,
        loss_ignores_targets=False,
        loss_without_inputs=2.3,
        activation_deviation=np.ones(3),
    )
    run = flat(
        run=facts(first_batch=alive), evaluations=(dead,), probes=probes([2.3] * 40, update_ratio=updates)
    )
    seen = found(run)["learning_rate_too_high"]
    assert {number.name for number in seen.evidence} >= {"largest_update_ratio", "dead_ratio"}
    born_dead = replace(alive, activation_deviation=np.array([1.0, 0.0, 1.0]))
    assert "learning_rate_too_high" not in found(replace(run, facts=facts(first_batch=born_dead)))


def test_units_that_are_dying() -> None:
    before = evaluation(200, 1.0, dead_ratio=np.array([0.05, 0.1, 0.0]))
    after = evaluation(400, 0.9, dead_ratio=np.array([0.05, 0.3, 0.0]))
    assert found(signals(evaluations=(before, after)))["dead_units"].severity == "info"
    assert "dead_units" not in found(signals(evaluations=(before, before)))


def tanh(**changes: Any) -> Any:
    layers = tuple(replace(each, activation="tanh") for each in facts().layers)
    return facts(layers=layers, **changes)


def test_saturated_activations() -> None:
    run = flat(run=tanh(), probes=probes([2.3] * 40, saturated_ratio=layer(0, 0.9, 0.01)))
    seen = found(run)["saturated_activations"]
    assert (seen.subject, seen.severity) == ("embed", "critical")


def test_confident_outputs_and_gates_may_saturate() -> None:
    output = signals(run=tanh(), probes=probes(falling_loss(40), saturated_ratio=layer(2, 0.9, 0.01)))
    assert "saturated_activations" not in found(output)
    gates = tuple(replace(each, kind="LSTM") for each in tanh().layers)
    run = signals(
        run=facts(layers=gates), probes=probes(falling_loss(40), saturated_ratio=layer(0, 0.9, 0.01))
    )
    assert "saturated_activations" not in found(run)


# Depth.


def vanishing(gradient: float = 1e-6, update: float = 1e-6, **changes: Any) -> Signals:
    return flat(
        probes=probes([2.3] * 40, gradient_rms=layer(0, gradient, 0.02), update_ratio=layer(0, update, 1e-3)),
        **changes,
    )


def test_vanishing_gradient() -> None:
    assert found(vanishing())["vanishing_gradient"].subject == "embed"
    assert "vanishing_gradient" in found(vanishing(update=1e-3)), "no progress although Adam rescales"
    assert "vanishing_gradient" in found(vanishing(update=0.0)), (
        "updates lost in rounding are no frozen layer"
    )
    assert "frozen_parameters" not in found(vanishing(update=0.0))


def test_a_tiny_gradient_vanishes_at_once() -> None:
    early = probes([2.3] * 4, gradient_rms=layer(0, 1e-9, 0.02, 4), update_ratio=layer(0, 1e-3, 1e-3, 4))
    assert "vanishing_gradient" in found(flat(40, probes=early))


def test_converged_dead_and_embedding_layers_do_not_vanish() -> None:
    shrunk = probes(
        falling_loss(40), gradient_rms=np.full((40, 3), 1e-9), update_ratio=np.full((40, 3), 1e-6)
    )
    assert "vanishing_gradient" not in found(signals(probes=shrunk))
    assert "vanishing_gradient" not in found(vanishing(gradient=0.0))
    table = replace(facts().layers[0], kind="Embedding")
    assert "vanishing_gradient" not in found(vanishing(run=facts(layers=(table, *facts().layers[1:]))))


def test_exploding_gradient() -> None:
    explodes = probes([2.3] * 40, gradient_rms=layer(0, 20.0, 0.02))
    assert found(flat(probes=explodes))["exploding_gradient"].subject == "embed"
    learned = replace(explodes, loss=falling_loss(40))
    assert "exploding_gradient" not in found(signals(probes=learned)), "it learns all the same"
    steep = probes(falling_loss(40), gradient_rms=layer(0, 200.0, 0.02))
    assert found(signals(probes=steep))["exploding_gradient"].evidence[0].name == "adjacent_quotient"


def test_hard_clipping_is_worth_knowing() -> None:
    clipped = steps(falling_loss(400), clip_factor=np.full(400, 0.02))
    assert found(signals(steps=clipped))["exploding_gradient"].severity == "info"
    usual = steps(falling_loss(400), clip_factor=np.full(400, 0.7))
    assert "exploding_gradient" not in found(signals(steps=usual))


def test_frozen_parameters() -> None:
    disconnected: dict[str, Any] = {"gradient_norm": layer(1, 0.0, 0.5), "update_ratio": layer(1, 1e-6, 1e-3)}
    seen = found(signals(probes=probes(falling_loss(40), **disconnected)))["frozen_parameters"]
    assert seen.subject == "hidden"
    assert "cut" in seen.explanation
    unapplied: dict[str, Any] = {"update_ratio": layer(1, 0.0, 1e-3)}
    assert "frozen_parameters" in found(signals(probes=probes(falling_loss(40), **unapplied)))


def test_frozen_on_purpose_and_standing_still_as_a_whole_are_no_fault() -> None:
    still: dict[str, Any] = {"gradient_norm": layer(1, 0.0, 0.5), "update_ratio": layer(1, 0.0, 1e-3)}
    layers = tuple(replace(each, trainable=each.path != "hidden") for each in facts().layers)
    run = signals(run=facts(layers=layers), probes=probes(falling_loss(40), **still))
    assert "frozen_parameters" not in found(run)
    warm_up = probes(falling_loss(40), update_ratio=np.zeros((40, 3)))
    assert "frozen_parameters" not in found(signals(probes=warm_up))


# Learning rate.


def gain(
    ratio: float, loss: npt.NDArray[np.float64] | list[float], update: float = 1e-2, **changes: Any
) -> Any:
    promise = 0.01 * np.asarray(loss)
    generator = np.random.default_rng(1)
    columns = {
        "predicted_decrease": promise,
        "actual_decrease": promise * (ratio + 0.02 * generator.normal(size=len(promise))),
        "update_ratio": np.full((len(promise), len(LAYERS)), update),
    }
    return probes(loss, **{**columns, **changes})


def test_learning_rate_too_high() -> None:
    seen = found(flat(probes=gain(-0.3, [2.3] * 40)))["learning_rate_too_high"]
    assert seen.severity == "critical"
    assert "less than nothing" in seen.explanation
    early = flat(50, probes=gain(-0.3, [2.3] * 5, update=0.4), evaluations=())
    assert "learning_rate_too_high" in found(early)
    assert "learning_rate_too_high" not in found(flat(50, probes=gain(-0.3, [2.3] * 5), evaluations=()))


def test_noise_edge_of_stability_and_a_wild_batch_are_no_high_learning_rate() -> None:
    loss = falling_loss(40)
    assert "learning_rate_too_high" not in found(signals(probes=gain(0.25, loss)))
    fitted = flat(level=0.05 * PRIOR_LOSS, probes=gain(0.0, [0.1] * 40))
    assert "learning_rate_too_high" not in found(fitted)
    wild = gain(0.6, loss)
    wild.actual_decrease[30] = -50 * wild.predicted_decrease[30]
    assert "learning_rate_too_high" not in found(signals(probes=wild))
    better = (evaluation(200, 1.2, rows=evaluation(200, 1.2).rows), evaluation(400, 0.6))
    improving = signals(probes=gain(0.05, loss), evaluations=better)
    assert "learning_rate_too_high" not in found(improving)


def test_learning_rate_too_low() -> None:
    assert "learning_rate_too_low" in found(flat(probes=gain(0.98, [2.3] * 40, update=1e-6)))
    assert "learning_rate_too_low" in found(flat(probes=gain(0.98, [2.3] * 40, update=1e-4)))


def promising(share: float, count: int = 8, update: float = 1e-4, **changes: Any) -> Any:
    """Probes of which all remaining steps together promise this share of what guessing costs."""
    each = np.full(count, share * PRIOR_LOSS / (facts().total_steps - 10 * count))
    return probes(
        [2.3] * count,
        **{
            "predicted_decrease": each,
            "actual_decrease": each,
            "update_ratio": np.full((count, len(LAYERS)), update),
            **changes,
        },
    )


def test_a_low_learning_rate_is_known_early_from_what_all_steps_promise_together() -> None:
    seen = found(flat(80, probes=promising(0.01), evaluations=()))["learning_rate_too_low"]
    numbers = {number.name: number for number in seen.evidence}
    assert numbers["promised_share"].observed == pytest.approx(0.01)
    assert numbers["promised_share"].threshold == 0.05
    assert "gain_ratio" in numbers
    assert "learning_rate_too_low" not in found(flat(80, probes=promising(0.2), evaluations=()))
    assert "learning_rate_too_low" not in found(flat(70, probes=promising(0.01, 7), evaluations=()))


def test_a_promise_that_cannot_be_measured_is_the_lowest_learning_rate_of_all() -> None:
    seen = found(flat(80, probes=promising(1e-5), evaluations=()))["learning_rate_too_low"]
    assert "gain_ratio" not in {number.name for number in seen.evidence}
    assert "cannot be measured" in seen.explanation
    up = promising(1e-5)
    assert "learning_rate_too_low" not in found(
        flat(80, probes=replace(up, predicted_decrease=-up.predicted_decrease), evaluations=())
    ), "against the gradient: decay or momentum, and no matter of size"
    still = promising(0.0, update=0.0)
    assert "learning_rate_too_low" not in found(flat(80, probes=still, evaluations=())), "nothing moves"


def test_saturated_layers_make_small_steps_for_a_reason_of_their_own() -> None:
    flat_part = promising(0.01, saturated_ratio=layer(1, 0.9, 0.0, count=8))
    assert "learning_rate_too_low" not in found(flat(80, probes=flat_part, evaluations=()))


def test_warm_up_and_slow_but_sure_are_no_low_learning_rate() -> None:
    slow = gain(0.98, [2.3] * 40, update=1e-4)
    assert "learning_rate_too_low" not in found(flat(probes=slow, run=facts(warm_up_steps=500)))
    assert "learning_rate_too_low" not in found(flat(probes=gain(0.98, [2.3] * 40, update=1e-3)))
    sure = flat(probes=slow)
    falling = np.linspace(2.3, 2.0, len(sure.block_loss))
    assert "learning_rate_too_low" not in found(replace(sure, block_loss=falling))


# Spikes.


def spiked(places: list[int], height: float = 8.0, gradient: float = 40.0, **columns: Any) -> Signals:
    loss = falling_loss(400)
    norm = 1 + 0.1 * np.random.default_rng(3).normal(size=400)
    loss[places], norm[places] = height, gradient
    return signals(steps=steps(loss, gradient_norm=norm, **columns))


def test_loss_spike() -> None:
    assert found(spiked([390]))["loss_spike"].severity is None
    assert found(spiked([250, 290, 330, 370]))["loss_spike"].severity == "critical"
    assert found(spiked([300], height=0.8, gradient=100.0))["loss_spike"].evidence[1].observed > 50


def test_learning_that_begins_with_a_jolt_is_worth_knowing() -> None:
    loss = np.concatenate((np.full(150, 2.3), [2.1, 1.9, 3.4, 2.2], np.full(46, 1.6)))
    grown = np.concatenate((np.full(150, 0.2), [2.0, 6.0, 11.0, 4.0], np.full(46, 1.0)))
    begun = signals(200, steps=steps(loss, gradient_norm=grown))
    assert found(begun)["loss_spike"].severity == "info"
    out_of_nowhere = grown.copy()
    out_of_nowhere[150:152] = 0.2
    assert found(signals(200, steps=steps(loss, gradient_norm=out_of_nowhere)))["loss_spike"].severity is None


def test_a_loss_that_stays_up_is_critical() -> None:
    seen = spiked(list(range(320, 400)), height=4.0, gradient=1.0)
    assert found(seen)["loss_spike"].severity == "critical"


def test_a_skipped_step_is_a_spike_and_says_so() -> None:
    skipped = np.arange(400) == 390
    assert "skipped" in found(spiked([390], skipped=skipped))["loss_spike"].explanation


def test_tiny_losses_restarts_and_early_steps_are_no_spike() -> None:
    tiny = np.full(400, 0.001)
    tiny[390] = 0.2
    assert "loss_spike" not in found(signals(steps=steps(tiny)))
    restart = np.where(np.arange(400) < 385, 1e-4, 1e-2)
    assert "loss_spike" not in found(spiked([390], learning_rate=restart))
    assert "loss_spike" not in found(spiked([10]))


def test_gradients_that_grow_as_learning_begins_are_no_spike() -> None:
    norm = 0.01 * (1 + 0.1 * np.random.default_rng(5).normal(size=150))
    norm[100:] *= np.geomspace(1, 100, 50)
    run = flat(150, evaluations=())
    assert "loss_spike" not in found(replace(run, steps=replace(run.steps, gradient_norm=norm)))


def test_divergence() -> None:
    loss = np.concatenate((np.linspace(2.3, 1.0, 20), np.full(20, 5.0)))
    assert "divergence" in found(signals(block_loss=loss))
    fast = np.concatenate((np.linspace(2.3, 1.0, 20), np.full(3, 50.0)))
    assert "divergence" in found(signals(block_loss=fast, block_step=10 * np.arange(1, 24)))
    never_good = np.full(40, 30.0)
    assert "divergence" in found(signals(block_loss=never_good))


def overflowing(*before: float) -> Signals:
    """Twenty usual losses, these, and then none that is a number."""
    loss = np.array([*np.linspace(2.3, 2.1, 20), *before, math.inf, math.nan])
    count = len(loss)
    return signals(count, steps=steps(loss, nonfinite=~np.isfinite(loss)), block_loss=loss[:20].reshape(2, 10).mean(1),
                   block_step=np.array([10, 20]))  # fmt: skip


def test_a_loss_that_ran_away_before_it_was_no_number_diverged() -> None:
    seen = found(overflowing(40.0, 1e6))
    assert (seen["divergence"].first_step, seen["divergence"].last_step) == (21, 23)
    since = {(kind, ""): seen[kind].first_step for kind in ("divergence", "nonfinite_values")}
    assert causes(since) == {("nonfinite_values", ""): ("divergence", "")}


def test_one_bad_row_is_no_divergence() -> None:
    for before in ((), (1e6,), (1e6, 2.2), (5.0, 6.0)):
        seen = found(overflowing(*before))
        assert "nonfinite_values" in seen
        assert "divergence" not in seen


def test_a_spike_that_recovers_and_a_bad_start_do_not_diverge() -> None:
    back = np.concatenate((np.linspace(2.3, 1.0, 20), np.full(15, 5.0), np.full(5, 1.1)))
    assert "divergence" not in found(signals(block_loss=back))
    bad_start = 40 * np.exp(-np.arange(40) / 30)
    run = facts(first_batch=first_batch(loss=60.0))
    assert "divergence" not in found(signals(run=run, block_loss=bad_start))


# All of them.


def scaled(seen: Signals, by: float) -> Signals:
    """The same run with its loss in another unit."""

    def rescaled(value: Any, *names: str) -> Any:
        return replace(value, **{name: getattr(value, name) * by for name in names})

    run = replace(
        rescaled(seen.facts, "prior_loss"),
        first_batch=rescaled(seen.facts.first_batch, "loss", "loss_without_inputs"),
    )
    measured = ("loss", "predicted_decrease", "actual_decrease", "gradient_norm", "gradient_rms",
                "layer_predicted_decrease")  # fmt: skip
    evaluations = tuple(
        replace(
            rescaled(each, "loss", "figure", "train_loss"),
            rows=None if each.rows is None else rescaled(each.rows, "losses"),
        )
        for each in seen.evaluations
    )
    return replace(
        seen, facts=run, steps=rescaled(seen.steps, "loss", "gradient_norm"), block_loss=seen.block_loss * by,
        probes=rescaled(seen.probes, *measured), evaluations=evaluations,
    )  # fmt: skip


FAULTS: dict[str, Callable[[], Signals]] = {
    "healthy": signals,
    "excessive_decay": decayed,
    "vanishing_gradient": vanishing,
    "exploding_gradient": lambda: flat(probes=probes([2.3] * 40, gradient_rms=layer(0, 20.0, 0.02))),
    "learning_rate_too_high": lambda: flat(probes=gain(-0.3, [2.3] * 40)),
    "learning_rate_too_low": lambda: flat(probes=gain(0.98, [2.3] * 40, update=1e-6)),
    "loss_spike": lambda: spiked([390]),
    "divergence": lambda: signals(block_loss=np.concatenate((np.linspace(2.3, 1.0, 20), np.full(20, 5.0)))),
}


@pytest.mark.parametrize("name", FAULTS)
@given(power=st.integers(-8, 8))
@settings(max_examples=5, deadline=None)
def test_the_unit_of_the_loss_does_not_matter(name: str, power: int) -> None:
    seen = FAULTS[name]()
    seen = replace(seen, facts=replace(seen.facts, answers="numbers", prior_error_ratio=None))
    expected = {kind: answer.severity for kind, answer in found(seen).items()}
    # Powers of two are exact. The one absolute limit, on gradients that an optimizer cannot tell from 0, is off.
    absolute = {"vanishing_gradient": {"gradient_rms": 0.0}}
    answers = {kind: answer.severity for kind, answer in found(scaled(seen, 2.0**power), **absolute).items()}
    assert answers == expected


@given(power=st.integers(-8, 8))
@settings(max_examples=5, deadline=None)
def test_the_size_of_gradients_alone_does_not_matter(power: int) -> None:
    for make in FAULTS.values():
        seen = make()
        by = 2.0**power
        rescaled = replace(
            seen,
            steps=replace(seen.steps, gradient_norm=seen.steps.gradient_norm * by),
            probes=replace(
                seen.probes,
                gradient_norm=seen.probes.gradient_norm * by,
                gradient_rms=seen.probes.gradient_rms * by,
            ),
        )
        absolute = {"vanishing_gradient": {"gradient_rms": 0.0}}
        assert found(rescaled, **absolute).keys() == found(seen, **absolute).keys()


@given(seed=st.integers(0, 10_000), level=st.floats(0.05, 0.5))
@settings(max_examples=15, deadline=None)
def test_constant_and_shuffled_signals_are_no_fault_of_the_run(seed: int, level: float) -> None:
    generator = np.random.default_rng(seed)
    loss = PRIOR_LOSS * level * (1 + 0.05 * generator.normal(size=400))
    noise = signals(
        steps=steps(loss), block_loss=loss.reshape(40, 10).mean(axis=1), probes=probes(loss[9::10])
    )
    constant = signals(steps=steps(np.full(400, 0.5)), block_loss=np.full(40, 0.5), probes=probes([0.5] * 40))
    for seen in (noise, constant):
        assert found(seen).keys() <= {"plateau"}


wild = st.floats(allow_nan=True, allow_infinity=True)


def mangled(draw: st.DrawFn, columns: Any, count: int, layers: int) -> Any:
    changed = {}
    for field in fields(columns):
        old = getattr(columns, field.name)
        if field.name == "step":
            changed[field.name] = np.arange(1, count + 1)
        elif old.dtype == bool:
            changed[field.name] = draw(arrays.arrays(bool, count))
        else:
            shape = count if old.ndim == 1 else (count, layers)
            changed[field.name] = draw(arrays.arrays(np.float64, shape, elements=wild))
    return type(columns)(**changed)


@st.composite
def anything(draw: st.DrawFn) -> Signals:
    """Signals in the right shapes and without any sense."""
    layers, count = draw(st.integers(0, 4)), draw(st.integers(0, 30))
    names = st.sampled_from(["Linear", "Embedding", "LayerNorm", "Conv1d", "LSTM"])
    activations = st.sampled_from([None, "relu", "tanh", "sigmoid"])
    described = tuple(
        LayerFacts(path=str(place), kind=draw(names), parameters=draw(st.integers(0, 9)), activation=draw(activations),
                   trainable=draw(st.booleans()), symmetric_units=draw(st.booleans()),
                   shrinkage_per_rate=draw(st.sampled_from([0.0, 0.01, 100.0])))
        for place in range(layers)
    )  # fmt: skip
    number = st.one_of(st.none(), wild)
    inputs = (
        InputFacts(name="x", mean=draw(number), deviation=draw(number), largest=draw(number),
                   nonfinite_ratio=draw(wild), padding_ratio=draw(number), neighbour_correlation=draw(number)),
    )  # fmt: skip
    deviations = draw(arrays.arrays(np.float64, layers, elements=wild))
    started = draw(st.booleans())
    run = facts(
        layers=described,
        inputs=inputs,
        prior_loss=draw(wild),
        prior_error_ratio=draw(number),
        class_counts=draw(st.sampled_from([None, np.array([3, 0, 900])])),
        answers=draw(st.sampled_from(["classes", "labels", "numbers", "tokens"])),
        precision=draw(st.sampled_from(["float32", "float16"])),
        has_attention=draw(st.booleans()),
        leaked_rows=draw(st.integers(0, 900)),
        category_counts=draw(st.sampled_from([{}, {"returns": 9, "sizing": 4000}])),
        first_batch=first_batch(loss=draw(wild), activation_deviation=deviations) if started else None,
    )
    evaluations = tuple(
        evaluation(
            10 * place, draw(st.floats(0, 10)), draw(st.floats(0, 1)), dead_ratio=deviations, figure=draw(wild),
            train_loss=draw(wild), calibration_error=draw(number), answer_entropy_ratio=draw(number),
            train_error_ratio=draw(st.one_of(st.none(), st.floats(0, 1))), kept=draw(st.booleans()),
        )
        for place in range(draw(st.integers(0, 6)))
    )  # fmt: skip
    without_rows = draw(st.booleans())
    if evaluations and without_rows:
        evaluations = (*evaluations[:-1], replace(evaluations[-1], loss=draw(wild), rows=None))
    blocks = draw(arrays.arrays(np.float64, st.integers(0, 90), elements=wild))
    return Signals(
        facts=run,
        step=count,
        steps=mangled(draw, steps([]), count, layers),
        block_step=10 * np.arange(1, len(blocks) + 1),
        block_loss=blocks,
        probes=mangled(draw, probes([]), draw(st.integers(0, 25)), layers),
        evaluations=evaluations,
        timing=Timing(step_seconds=draw(wild), longest_step_seconds=draw(wild), data_wait_ratio=draw(wild)),
    )


@given(anything())
@settings(max_examples=30, deadline=None)
def test_whatever_is_measured_detectors_answer_soundly(seen: Signals) -> None:
    with np.errstate(all="ignore"):
        for detector in DETECTORS:
            for answer in detector(seen, default_thresholds()):
                assert answer.kind in {kind.name for kind in detector.kinds}
                assert 0 <= answer.confidence <= 1
                assert 0 <= answer.first_step <= answer.last_step
                assert answer.evidence
                assert answer.explanation


def test_thresholds_are_checked() -> None:
    with pytest.raises(ValueError, match="did you mean 'dead_ratio'"):
        complete_thresholds({"dead_units": {"dead_ratios": 0.5}})
    with pytest.raises(ValueError, match=r"got 7, allowed: 0.05 to 1\. Share of a layer's units"):
        complete_thresholds({"dead_units": {"dead_ratio": 7}})
