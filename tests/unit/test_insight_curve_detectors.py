"""Trends, oscillation, gradient noise, attention and stalls: found in the fault, silent on what looks like it."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.synthetic_signals import PRIOR_LOSS, evaluation, facts, falling_loss, probes, signals, steps

from gradsight_insight.catalogue import complete_thresholds
from gradsight_insight.detectors.attention import ATTENTION
from gradsight_insight.detectors.noise import NOISE
from gradsight_insight.detectors.oscillation import OSCILLATIONS
from gradsight_insight.detectors.stalls import STALLS
from gradsight_insight.detectors.trends import TRENDS
from gradsight_insight.kinds import Observation
from gradsight_insight.signals import EvaluationSignals, InputFacts, RunFacts, Signals, Timing

FAMILIES = (TRENDS, OSCILLATIONS, NOISE, ATTENTION, STALLS)
Floats = npt.NDArray[np.float64]


def found(seen: Signals, **thresholds: dict[str, float]) -> dict[str, Observation]:
    """What the families of this file find, by kind."""
    complete = complete_thresholds(thresholds)
    return {answer.kind: answer for family in FAMILIES for answer in family(seen, complete)}


def run(loss: Floats, run_facts: RunFacts | None = None, **changes: Any) -> Signals:
    """A run with these losses, one block for ten steps."""
    count = len(loss)
    built = {
        "steps": steps(loss[-1024:], first=max(1, count - 1023)),
        "block_step": 10 * np.arange(1, count // 10 + 1),
        "block_loss": loss[: count // 10 * 10].reshape(-1, 10).mean(axis=1),
        "probes": probes(loss[9::10][-64:]),
        "evaluations": (),
    }
    return signals(count, run_facts or facts(total_steps=2 * count), **{**built, **changes})


def noisy(level: float, count: int = 600, noise: float = 0.05, seed: int = 0) -> Floats:
    return np.asarray(level * (1 + noise * np.random.default_rng(seed).normal(size=count)))


def flat_evaluations(loss: float, error: float, count: int = 5) -> tuple[EvaluationSignals, ...]:
    """Evaluations of one model, the first of them kept."""
    first = evaluation(100, loss, error)
    return tuple(replace(first, step=100 * (place + 1), kept=place == 0) for place in range(count))


def test_a_loss_that_stays_at_the_priors_is_not_learning_and_names_the_inputs() -> None:
    inputs = (InputFacts(name="height"), InputFacts(name="weight"))
    at_chance = flat_evaluations(PRIOR_LOSS, 0.9)
    told = found(run(noisy(PRIOR_LOSS), facts(inputs=inputs), evaluations=at_chance))["not_learning"]
    assert told.severity == "critical"
    assert "depend on the inputs 'height' and 'weight'" in told.explanation


def test_a_model_that_learnt_a_little_and_stopped_is_warned_of() -> None:
    told = found(run(noisy(0.9 * PRIOR_LOSS), evaluations=flat_evaluations(2.1, 0.6)))["not_learning"]
    assert told.severity == "warning"
    assert "too small for the task" in told.explanation


@pytest.mark.parametrize(
    "loss",
    [
        falling_loss(600),  # It learns.
        np.linspace(2.3, 2.0, 600)
        + 0.01 * np.random.default_rng(0).normal(size=600),  # Slowly, but steadily.
    ],
)
def test_what_still_falls_is_not_called_not_learning(loss: Floats) -> None:
    assert "not_learning" not in found(run(loss))


def test_two_windows_or_half_the_budget_must_be_over() -> None:
    assert "not_learning" not in found(run(noisy(PRIOR_LOSS, 300), facts(total_steps=2000)))
    assert "not_learning" in found(run(noisy(PRIOR_LOSS, 400), facts(total_steps=2000)))
    assert "not_learning" in found(run(noisy(PRIOR_LOSS, 150), facts(total_steps=300)))


def test_warm_up_and_the_first_tenth_of_the_budget_do_not_count() -> None:
    loss = noisy(PRIOR_LOSS, 600)
    assert "not_learning" not in found(run(loss, facts(total_steps=600, warm_up_steps=500)))
    assert "not_learning" not in found(run(loss, facts(total_steps=10_000)))
    assert "not_learning" in found(run(loss, facts(total_steps=10_000)), not_learning={"least_budget": 0.05})


def test_a_plateau_is_flat_learnt_and_not_at_the_end_of_the_schedule() -> None:
    loss = np.concatenate([falling_loss(400), noisy(0.2 * PRIOR_LOSS, 600)])
    told = found(run(loss, evaluations=flat_evaluations(0.5, 0.2)))["plateau"]
    assert told.severity is None
    assert told.kind == "plateau"
    decayed = run(loss, facts(highest_learning_rate=1.0), evaluations=flat_evaluations(0.5, 0.2))
    assert "plateau" not in found(decayed)
    fitted = np.concatenate([falling_loss(400), noisy(0.01 * PRIOR_LOSS, 600)])
    assert "plateau" not in found(run(fitted, evaluations=flat_evaluations(0.5, 0.2)))
    assert "plateau" not in found(run(falling_loss(1000), evaluations=flat_evaluations(0.5, 0.2)))


def test_a_held_out_gain_is_no_plateau() -> None:
    loss = np.concatenate([falling_loss(400), noisy(0.2 * PRIOR_LOSS, 600)])
    gaining = tuple(replace(evaluation(100 * place, 0.5, 0.2), kept=True) for place in range(1, 6))
    assert "plateau" not in found(run(loss, evaluations=gaining))


def test_steps_that_alternate_and_blocks_that_swing_are_oscillation() -> None:
    alternating = noisy(1.0, 600, 0.02) + 0.4 * (-1.0) ** np.arange(600)
    assert "from step to step" in found(run(alternating))["oscillation"].explanation
    swinging = noisy(1.0, 600, 0.02) + 0.4 * np.sin(2 * np.pi * np.arange(600) / 60)
    assert "from one stretch" in found(run(swinging))["oscillation"].explanation


@pytest.mark.parametrize(
    "loss",
    [
        noisy(1.0, 600, 0.5),  # Noise of single batches.
        noisy(1.0, 600, 0.02) + 1.0 * (np.abs(np.arange(600) - 500) < 15),  # One spike.
        falling_loss(600) * (1 + 0.1 * (-1.0) ** np.arange(600)),  # Ripples that fall.
        0.1 * (noisy(1.0, 600, 0.02) + 0.4 * (-1.0) ** np.arange(600)),  # Swings too small to matter.
    ],
)
def test_noise_spikes_and_ripples_are_no_oscillation(loss: Floats) -> None:
    assert "oscillation" not in found(run(loss))


def test_held_out_error_that_jumps_is_oscillation_and_chance_is_not() -> None:
    loss = np.concatenate([falling_loss(400), noisy(0.3 * PRIOR_LOSS, 600)])
    jumping = tuple(evaluation(100 * (5 + place), 1.0, 0.2 + 0.3 * (place % 2)) for place in range(6))
    assert "At the last 6 evaluations" in found(run(loss, evaluations=jumping))["oscillation"].explanation
    steady = tuple(evaluation(100 * (5 + place), 1.0, 0.2 + 0.02 * (place % 2)) for place in range(6))
    assert "oscillation" not in found(run(loss, evaluations=steady))


def test_a_batch_too_small_for_its_noise_or_larger_than_it_must_be() -> None:
    loss = noisy(1.0, 600)

    def with_scale(scale: float, losses: Floats = loss) -> Signals:
        return run(
            losses, probes=probes(losses[9::10], gradient_noise_scale=np.full(len(losses[9::10]), scale))
        )

    assert "only about 5e+03 rows" in found(with_scale(5000))["gradient_noise"].explanation
    assert "Smaller batches" in found(with_scale(3))["gradient_noise"].explanation
    assert "gradient_noise" not in found(with_scale(200))
    assert "gradient_noise" not in found(with_scale(5000, falling_loss(600)))
    assert "gradient_noise" not in found(with_scale(float("nan")))


def test_attention_scores_that_grow() -> None:
    loss = falling_loss(600)
    transformer = facts(has_attention=True)

    def with_scores(scores: Floats, run_facts: RunFacts = transformer) -> Signals:
        return run(loss, run_facts, probes=probes(loss[9::10], attention_logit_max=scores))

    growing = np.geomspace(5, 400, 60)
    assert "hardly any gradient" in found(with_scores(growing))["logit_growth"].explanation
    assert "logit_growth" in found(with_scores(np.full(60, 2000.0)))
    assert "logit_growth" not in found(with_scores(np.full(60, 150.0)))
    assert "logit_growth" not in found(with_scores(np.geomspace(5, 60, 60)))
    assert "logit_growth" not in found(with_scores(growing, facts()))


def test_waiting_for_rows_and_stalled_steps() -> None:
    healthy = signals(100)
    waiting = replace(healthy, timing=Timing(step_seconds=0.1, longest_step_seconds=0.3, data_wait_ratio=0.8))
    assert "80 % of the time" in found(waiting)["starved_job"].explanation
    stalled = replace(healthy, timing=Timing(step_seconds=0.1, longest_step_seconds=90, data_wait_ratio=0.1))
    assert "took 90 seconds" in found(stalled)["starved_job"].explanation
    for timing in (
        Timing(),
        Timing(step_seconds=30, longest_step_seconds=90, data_wait_ratio=0.2),
        Timing(step_seconds=0.001, longest_step_seconds=2, data_wait_ratio=0.4),
    ):
        assert "starved_job" not in found(replace(healthy, timing=timing))


def test_shuffled_and_constant_losses_seldom_raise_an_alarm() -> None:
    generator, alarms = np.random.default_rng(5), 0
    for seed in range(60):
        level = generator.uniform(0.1, 0.6) * PRIOR_LOSS
        spread = generator.uniform(0.01, 0.6)
        loss = level * generator.gamma(1 / spread**2, spread**2, size=800)
        told = found(run(loss, evaluations=flat_evaluations(level, 0.2)))
        alarms += bool(set(told) - {"plateau"})
        assert set(found(run(np.full(800, level), evaluations=flat_evaluations(level, 0.2)))) <= {
            "plateau"
        }, seed
    assert alarms <= 2


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-6, 1e6), st.sampled_from(["flat", "swinging", "falling", "alternating"]))
def test_the_unit_of_the_loss_does_not_matter(scale: float, shape: str) -> None:
    loss = {
        "flat": noisy(PRIOR_LOSS),
        "swinging": noisy(1.0, 600, 0.02) + 0.4 * np.sin(2 * np.pi * np.arange(600) / 60),
        "falling": falling_loss(600),
        "alternating": noisy(1.0, 600, 0.02) + 0.4 * (-1.0) ** np.arange(600),
    }[shape]
    scaled = run(scale * loss, facts(total_steps=1200, prior_loss=scale * PRIOR_LOSS))
    assert set(found(scaled)) == set(found(run(loss)))
