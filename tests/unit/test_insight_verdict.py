"""The verdict on a run and on its updates: each verdict in its case, and never an exception."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tests.unit.synthetic_signals import PRIOR_LOSS, facts, falling_loss, probes, signals, steps

from gradsight_insight.efficacy import EfficacyVerdict, judge_updates, judge_window
from gradsight_insight.findings import Finding
from gradsight_insight.kinds import Severity
from gradsight_insight.rings import no_probes
from gradsight_insight.signals import EvaluationSignals, HeldOutRows, RunFacts, Signals
from gradsight_insight.verdict import LearningRateDrop, RunVerdict, Verdict, VerdictJudge, judge_run

ROWS = 1000
Floats = npt.NDArray[np.float64]


def finding(kind: str, severity: Severity = "warning", subject: str = "", **changes: Any) -> Finding:
    """An open finding."""
    told = Finding(
        finding_id=f"{kind}-1", kind=kind, severity=severity, subject_kind="run", subject=subject, first_step=1,
        last_step=2, evidence=(), confidence=1.0, explanation=f"It is {kind}.", actions=(), open=True,
        cause_finding_id="", page_url="",
    )  # fmt: skip
    return replace(told, **changes)


def evaluations(
    errors: Floats, losses: Floats, train: Floats, every: int = 100
) -> tuple[EvaluationSignals, ...]:
    """Evaluations of 1,000 rows; those answered wrong are always the same ones first."""
    best, answered = np.inf, []
    spread = np.random.default_rng(0).gamma(2.0, 0.5, size=ROWS)
    for place, (error, loss, train_loss) in enumerate(zip(errors, losses, train, strict=True)):
        wrong = np.arange(ROWS) < round(error * ROWS)
        jitter = 1 + 0.2 * np.random.default_rng(place).normal(size=ROWS)
        answered.append(
            EvaluationSignals(
                step=every * (place + 1), loss=float(loss), error_ratio=float(wrong.mean()),
                figure=float(wrong.mean()), kept=bool(wrong.mean() < best), examples=ROWS, train_loss=float(train_loss),
                rows=HeldOutRows(losses=(loss * spread * jitter).astype(np.float32), wrong=wrong),
            )
        )  # fmt: skip
        best = min(best, float(wrong.mean()))
    return tuple(answered)


def run(loss: Floats, held_out: tuple[EvaluationSignals, ...], run_facts: RunFacts | None = None) -> Signals:
    count = len(loss)
    return signals(
        count,
        run_facts or facts(total_steps=count),
        steps=steps(loss[-1024:], first=max(1, count - 1023)),
        block_step=10 * np.arange(1, count // 10 + 1),
        block_loss=loss.reshape(-1, 10).mean(axis=1),
        probes=probes(loss[9::10][-64:]),
        evaluations=held_out,
    )


def noisy(level: float, count: int) -> Floats:
    return np.asarray(level * (1 + 0.05 * np.random.default_rng(0).normal(size=count)))


def at_rest(level: float = 0.3, error: float = 0.2, total_steps: int = 3000) -> Signals:
    """3,000 steps, flat since the 500th; the best evaluation is an early one."""
    loss = np.concatenate([falling_loss(500), noisy(level * PRIOR_LOSS, 2500)])
    errors = np.concatenate([[0.6, 0.4, error + 0.05, error], np.full(26, error)])
    held_out = evaluations(errors, np.full(30, 0.7), np.full(30, level * PRIOR_LOSS))
    return run(loss, held_out, facts(total_steps=total_steps))


def test_figures_that_cannot_be_trusted_are_unsound_whatever_else() -> None:
    for kind in ("loss_contract", "step_protocol", "leakage"):
        judged = judge_run(at_rest(), [finding(kind), finding("divergence")], finished=True)
        assert judged.verdict is Verdict.UNSOUND
        assert not judged.kept_checkpoint_usable
        assert f"It is {kind}." in judged.reasons
    assert judge_run(at_rest(), [finding("leakage", "info")]).verdict is not Verdict.UNSOUND
    assert judge_run(at_rest(), [finding("input_contract")]).verdict is not Verdict.UNSOUND
    assert judge_run(at_rest(), [finding("input_contract", "critical")]).verdict is Verdict.UNSOUND
    assert judge_run(at_rest(), [finding("leakage", open=False)]).verdict is not Verdict.UNSOUND


def test_a_loss_that_runs_away_has_diverged_and_earlier_weights_stay_usable() -> None:
    loss = np.concatenate([falling_loss(1000), np.linspace(0.5, 9.0, 1000)])
    held_out = evaluations(
        np.concatenate([np.linspace(0.6, 0.2, 10), np.linspace(0.3, 0.9, 10)]),
        np.concatenate([np.linspace(2.0, 0.6, 10), np.linspace(1.0, 9.0, 10)]),
        np.concatenate([np.linspace(2.0, 0.5, 10), np.linspace(1.0, 8.0, 10)]),
    )
    judged = judge_run(run(loss, held_out), [])
    assert judged.verdict is Verdict.DIVERGED
    assert judged.kept_checkpoint_usable
    assert judge_run(at_rest(), [finding("divergence")]).verdict is Verdict.DIVERGED
    assert judge_run(at_rest(), [finding("nonfinite_values", "critical")]).verdict is Verdict.DIVERGED
    assert judge_run(at_rest(), [finding("nonfinite_values")]).verdict is not Verdict.DIVERGED


def test_what_does_not_fit_the_training_rows_is_underfit() -> None:
    stuck = run(noisy(PRIOR_LOSS, 2000), evaluations(np.full(20, 0.9), np.full(20, 2.3), np.full(20, 2.3)))
    judged = judge_run(stuck, [finding("vanishing_gradient")], finished=True)
    assert judged.verdict is Verdict.UNDERFIT
    assert not judged.kept_checkpoint_usable
    assert "Vanishing gradient: It is vanishing_gradient." in judged.reasons
    early = replace(stuck, facts=facts(total_steps=20_000))
    assert judge_run(early, []).verdict is not Verdict.UNDERFIT
    assert judge_run(early, [finding("not_learning", "critical")]).verdict is Verdict.UNDERFIT


def test_a_linear_model_on_mnist_1d_is_underfit_although_it_beats_chance() -> None:
    loss = np.concatenate([np.linspace(2.3, 1.62, 500), noisy(1.62, 2500)])
    held_out = evaluations(np.full(30, 0.68), np.full(30, 1.67), np.full(30, 1.62))
    judged = judge_run(run(loss, held_out), [], finished=True)
    assert judged.verdict is Verdict.UNDERFIT
    assert judged.confirmed
    assert judged.kept_checkpoint_usable


def test_overfitting_and_memorization_are_overfit() -> None:
    assert judge_run(at_rest(), [finding("overfitting")]).verdict is Verdict.OVERFIT
    judged = judge_run(at_rest(), [finding("memorization"), finding("overfitting")])
    assert judged.reasons[0] == "It is memorization."
    assert not judged.kept_checkpoint_usable


def test_held_out_rows_that_still_get_better() -> None:
    held_out = evaluations(np.linspace(0.8, 0.3, 20), np.linspace(2.2, 0.9, 20), np.linspace(2.2, 0.8, 20))
    judged = judge_run(run(falling_loss(2000), held_out), [])
    assert judged.verdict is Verdict.STILL_IMPROVING
    assert "got better beyond chance" in judged.reasons[0]


def test_a_best_evaluation_late_in_the_run_is_still_improving_only_when_it_matters() -> None:
    losses, train = np.full(20, 0.7), np.full(20, 0.5)
    errors = np.concatenate([np.linspace(0.5, 0.3, 8), np.full(10, 0.29), [0.25, 0.26]])
    loss = np.concatenate([falling_loss(500), noisy(0.2 * PRIOR_LOSS, 1500)])
    assert judge_run(run(loss, evaluations(errors, losses, train)), []).verdict is Verdict.STILL_IMPROVING
    errors = np.where(errors < 0.28, 0.288, errors)
    judged = judge_run(run(loss, evaluations(errors, losses, train)), [], finished=True)
    assert judged.verdict is not Verdict.STILL_IMPROVING


def drop(loss_z: float, error_z: float | None = 0.0) -> LearningRateDrop:
    return LearningRateDrop(step=3000, steps=200, factor=0.1, loss_z=loss_z, error_z=error_z)


def test_only_a_lower_learning_rate_tells_a_plateau_from_the_end() -> None:
    untried = judge_run(at_rest(), [], finished=True)
    assert untried.verdict is Verdict.PLATEAUED
    assert "not tried" in untried.reasons[0]
    helped = judge_run(at_rest(), [], finished=True, learning_rate_drop=drop(-5.0))
    assert helped.verdict is Verdict.PLATEAUED
    in_vain = judge_run(at_rest(), [], finished=True, learning_rate_drop=drop(-1.0))
    assert in_vain.verdict is Verdict.CONVERGED
    assert in_vain.kept_checkpoint_usable
    assert "learning_rate_drop_z" in {number.name for number in in_vain.evidence}


def test_a_decayed_schedule_and_fitted_rows_need_no_trial() -> None:
    decayed = replace(at_rest(), facts=facts(total_steps=3000, highest_learning_rate=1.0))
    assert judge_run(decayed, [], finished=True).verdict is Verdict.CONVERGED
    assert judge_run(at_rest(level=0.01), [], finished=True).verdict is Verdict.CONVERGED


def test_a_drop_that_costs_errors_is_no_improvement() -> None:
    assert not drop(-5.0, 4.0).improved
    assert drop(-5.0, None).improved
    assert drop(0.0, -3.0).improved


def test_a_weak_category_or_an_open_alarm_keeps_a_run_from_having_converged() -> None:
    tried = drop(-1.0)
    weak = judge_run(at_rest(), [finding("weak_category", subject="returns")], learning_rate_drop=tried)
    assert weak.verdict is Verdict.UNDECIDED
    assert "The model is weak in 'returns'." in weak.reasons
    alarmed = judge_run(at_rest(), [finding("dead_units")], learning_rate_drop=tried)
    assert alarmed.verdict is Verdict.UNDECIDED
    sure = judge_run(at_rest(), [finding("overconfidence", "info")], learning_rate_drop=tried)
    assert sure.verdict is Verdict.CONVERGED
    assert "over-confidence" in sure.reasons[-1]


def test_a_model_no_better_than_none_has_not_converged() -> None:
    chance = evaluations(np.full(30, 0.9), np.full(30, 2.4), np.full(30, 0.7))
    judged = judge_run(
        replace(at_rest(), evaluations=chance), [], finished=True, learning_rate_drop=drop(0.0)
    )
    assert judged.verdict is not Verdict.CONVERGED
    assert not judged.kept_checkpoint_usable


def test_what_cannot_be_decided_says_so() -> None:
    judged = judge_run(signals(0), [])
    assert judged.verdict is Verdict.UNDECIDED
    assert judged.reasons == ("There is no evaluation on validation yet.",)
    assert not judged.kept_checkpoint_usable


def test_a_verdict_is_confirmed_by_three_evaluations_in_a_row_or_the_end() -> None:
    judge, seen = VerdictJudge(), at_rest()
    answers: list[RunVerdict] = []
    for count in (25, 26, 27):
        so_far = replace(seen, evaluations=seen.evaluations[:count])
        answers.append(judge.judge(so_far, []))
        answers.append(judge.judge(so_far, []))  # A look without a new evaluation counts for nothing.
        judge = VerdictJudge(judge.state())
    assert {answer.verdict for answer in answers} == {Verdict.PLATEAUED}
    assert [answer.confirmed for answer in answers] == [False] * 4 + [True] * 2
    assert judge.judge(seen, [], finished=True, learning_rate_drop=drop(0.0)).confirmed


# Efficacy.


def window(ratio: float, **changes: Any) -> EfficacyVerdict:
    """The verdict on 20 probes with this gain ratio, on a flat training loss."""
    loss = np.full(20, 1.0)
    promise = np.full(20, 0.01)
    seen = probes(loss, predicted_decrease=promise, actual_decrease=ratio * promise)
    return judge_window(seen, **{"training_loss": noisy(1.0, 200), "held_out_z": None, **changes}).verdict


@pytest.mark.parametrize(
    ("ratio", "changes", "verdict"),
    [
        (0.6, {"held_out_z": -5.0}, EfficacyVerdict.EFFECTIVE),
        (0.6, {"held_out_z": 4.0, "error_z": -3.0}, EfficacyVerdict.EFFECTIVE),
        (0.1, {"held_out_z": -5.0}, EfficacyVerdict.OVERSHOOT),
        (-2.0, {}, EfficacyVerdict.OVERSHOOT),
        (0.98, {"held_out_z": -5.0}, EfficacyVerdict.CAUTIOUS),
        (0.98, {"held_out_z": 0.0, "training_loss": falling_loss(200)}, EfficacyVerdict.CAUTIOUS),
        (0.6, {"held_out_z": 0.5}, EfficacyVerdict.INERT),
        (0.6, {"held_out_z": 5.0}, EfficacyVerdict.MISDIRECTED),
        (0.6, {"held_out_z": 5.0, "error_z": 3.0}, EfficacyVerdict.MISDIRECTED),
        (0.6, {"held_out_z": 5.0, "error_z": 0.0}, EfficacyVerdict.INERT),
        (0.6, {"held_out_z": 0.5, "training_loss": falling_loss(200)}, EfficacyVerdict.UNRESOLVED),
        (0.6, {}, EfficacyVerdict.UNRESOLVED),
    ],
)
def test_updates_are_judged_by_their_promise_and_by_rows_that_took_no_part(
    ratio: float, changes: dict[str, Any], verdict: EfficacyVerdict
) -> None:
    assert window(ratio, **changes) is verdict


def test_updates_against_the_gradient_are_ascent_and_tiny_promises_are_unresolved() -> None:
    loss = np.full(20, 1.0)
    for promise, verdict in ((-0.01, EfficacyVerdict.ASCENT), (1e-9, EfficacyVerdict.UNRESOLVED)):
        seen = probes(loss, predicted_decrease=np.full(20, promise), actual_decrease=np.zeros(20))
        judged = judge_window(seen, training_loss=loss, held_out_z=-5.0)
        assert judged.verdict is verdict
        assert judged.gain_ratio is None
    few = judge_window(probes(loss[:7]), training_loss=loss, held_out_z=-5.0)
    assert few.verdict is EfficacyVerdict.UNRESOLVED


def test_layers_share_the_promise() -> None:
    judged = judge_updates(signals(400))
    assert sum(judged.layer_credit) == pytest.approx(1.0)
    assert judged.first_step < judged.last_step <= 400
    assert judge_updates(signals(0)).layer_credit == ()
    assert judge_window(no_probes(3), training_loss=np.zeros(0), held_out_z=None).probes == 0


def test_updates_are_judged_since_the_evaluation_before() -> None:
    held_out = evaluations(np.linspace(0.8, 0.3, 20), np.linspace(2.2, 0.9, 20), np.linspace(2.2, 0.8, 20))
    judged = judge_updates(run(falling_loss(2000), held_out))
    assert judged.verdict is EfficacyVerdict.EFFECTIVE
    assert judged.held_out_z is not None
    assert judged.held_out_z < -2.58
    assert judged.probes == 20


# Whatever is measured.

wild = st.floats(width=64, allow_nan=True, allow_infinity=True)


@st.composite
def anything(draw: st.DrawFn) -> Signals:
    count = draw(st.integers(0, 60))
    column = arrays.arrays(np.float64, count, elements=wild)
    matrix = arrays.arrays(np.float64, (count, 3), elements=wild)
    number = 10 * np.arange(1, count + 1)
    seen = probes(
        draw(column),
        predicted_decrease=draw(column),
        actual_decrease=draw(column),
        layer_predicted_decrease=draw(matrix),
    )
    held_out = []
    for place in range(draw(st.integers(0, 6))):
        error = draw(st.none() | st.floats(0, 1))
        rows = draw(st.integers(0, 5))
        held_out.append(
            EvaluationSignals(
                step=100 * (place + 1), loss=draw(wild), error_ratio=error, figure=draw(wild),
                kept=draw(st.booleans()), examples=rows, train_loss=draw(wild),
                rows=draw(
                    st.none()
                    | st.just(HeldOutRows(losses=np.full(rows, draw(wild), np.float32), wrong=np.zeros(rows, bool)))
                ),
            )
        )  # fmt: skip
    run_facts = facts(prior_loss=draw(wild), prior_error_ratio=draw(st.none() | st.floats(0, 1)))
    return signals(
        10 * count,
        run_facts,
        block_step=number,
        block_loss=draw(column),
        probes=seen,
        evaluations=tuple(held_out),
    )


@settings(max_examples=80, deadline=None)
@given(anything(), st.booleans(), st.lists(st.sampled_from(["overfitting", "memorization", "weak_category"])))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_whatever_is_measured_there_is_a_verdict(seen: Signals, finished: bool, kinds: list[str]) -> None:
    judged = judge_run(seen, [finding(kind) for kind in kinds], finished=finished)
    assert judged.reasons
    assert not any(np.isnan(number.observed) for number in judged.evidence)
    updates = judge_updates(seen)
    assert updates.verdict in EfficacyVerdict
    assert not updates.layer_credit or sum(updates.layer_credit) == pytest.approx(1.0, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-6, 1e6))
def test_the_unit_of_the_loss_does_not_change_the_verdict(scale: float) -> None:
    loss = np.concatenate([falling_loss(500), noisy(0.3 * PRIOR_LOSS, 2500)])
    held_out = evaluations(np.full(30, 0.3), np.full(30, 0.7), np.full(30, 0.6))
    scaled = evaluations(np.full(30, 0.3), scale * np.full(30, 0.7), scale * np.full(30, 0.6))
    plain = judge_run(run(loss, held_out), [])
    other = judge_run(run(scale * loss, scaled, facts(total_steps=3000, prior_loss=scale * PRIOR_LOSS)), [])
    assert plain.verdict is other.verdict
