"""Generalization, memorization, leakage, categories and collapse: found in the fault, silent on what looks like it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.synthetic_signals import PRIOR_LOSS, facts, signals

from gradsight_insight.catalogue import complete_thresholds
from gradsight_insight.detectors.categories import CATEGORIES, exact_excess_p_value
from gradsight_insight.detectors.collapse import COLLAPSE
from gradsight_insight.detectors.generalization import GENERALIZATION
from gradsight_insight.detectors.leakage import LEAKS
from gradsight_insight.detectors.memorization import MEMORIZED
from gradsight_insight.kinds import Observation
from gradsight_insight.signals import CategorySignals, EvaluationSignals, HeldOutRows, RunFacts, Signals

FAMILIES = (GENERALIZATION, MEMORIZED, LEAKS, CATEGORIES, COLLAPSE)
ROWS = 1000
Curve = Sequence[float] | npt.NDArray[np.float64]


def found(seen: Signals, **thresholds: dict[str, float]) -> dict[str, Observation]:
    """What the families of this file find, by kind and subject."""
    complete = complete_thresholds(thresholds)
    answers = [answer for family in FAMILIES for answer in family(seen, complete)]
    return {f"{answer.kind}/{answer.subject}".rstrip("/"): answer for answer in answers}


def wrong_rows(ratio: float, flips: int = 0, seed: int = 0) -> npt.NDArray[np.bool_]:
    """A share of wrong rows, always the same ones first; `flips` rows are answered differently by chance."""
    wrong = np.arange(ROWS) < round(ratio * ROWS)
    for row in np.random.default_rng(seed).choice(ROWS, size=flips, replace=False):
        wrong[row] = ~wrong[row]
    return wrong


def run(
    errors: Curve,
    losses: Curve,
    train: Curve,
    *,
    every: int = 100,
    changes: Sequence[dict[str, Any]] = (),
    run_facts: RunFacts | None = None,
    flips: int = 0,
) -> Signals:
    """A run with these evaluations; the first lowest error is the best one."""
    best, evaluations = np.inf, []
    for place, (error, loss, train_loss) in enumerate(zip(errors, losses, train, strict=True)):
        wrong = wrong_rows(error, flips, seed=place)
        spread = np.random.default_rng(place).gamma(0.5, 2.0, size=ROWS)
        evaluations.append(
            EvaluationSignals(
                step=every * (place + 1),
                loss=loss,
                error_ratio=float(wrong.mean()),
                figure=float(wrong.mean()),
                kept=bool(wrong.mean() < best),
                examples=ROWS,
                train_loss=train_loss,
                rows=HeldOutRows(losses=(loss * spread).astype(np.float32), wrong=wrong),
                **(changes[place] if changes else {}),
            )
        )
        best = min(best, float(wrong.mean()))
    count = every * len(evaluations)
    return signals(
        count,
        run_facts or facts(total_steps=count),
        block_loss=np.repeat(np.asarray(train, np.float64), every // 10),
        evaluations=tuple(evaluations),
    )


FALLING = np.linspace(1.5, 0.1, 10)


def test_overfitting_is_held_out_error_that_rises_while_training_loss_falls() -> None:
    seen = found(run([0.4, 0.3, 0.2, 0.22, 0.25, 0.28, 0.3, 0.32, 0.34, 0.36], 1.5 - FALLING / 2, FALLING))
    told = seen["overfitting/validation"]
    assert told.first_step == 300
    assert "from 20 % to 36 %" in told.explanation
    assert "step 300" in told.explanation
    assert "overconfidence/validation" not in seen


def test_overfitting_needs_three_evaluations_in_a_row() -> None:
    rising = run([0.4, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.28, 0.28], FALLING, FALLING)
    assert found(rising) == {}
    assert "overfitting/validation" in found(rising, overfitting={"confirmations": 2})


def test_risen_error_with_risen_training_loss_is_no_overfitting() -> None:
    worse = run([0.4, 0.3, 0.2, 0.22, 0.25, 0.28, 0.3, 0.32, 0.34, 0.36], FALLING, FALLING[::-1])
    assert "overfitting/validation" not in found(worse)


def test_numbers_overfit_by_loss() -> None:
    losses = np.array([1.0, 0.8, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3])
    seen = run([0.5] * 10, losses, FALLING, run_facts=facts(answers="numbers", prior_error_ratio=None))
    evaluations = tuple(
        replace(
            evaluation, error_ratio=None, figure=evaluation.loss, kept=place <= 2,
            rows=HeldOutRows(losses=evaluation.rows.losses, wrong=None) if evaluation.rows else None,
        )
        for place, evaluation in enumerate(seen.evaluations)
    )  # fmt: skip
    told = found(replace(seen, evaluations=evaluations))["overfitting/validation"]
    assert "loss on validation rose from 0.6 to 1.3" in told.explanation


def test_forty_rows_learnt_by_heart_are_overfitting() -> None:
    few = facts(train_rows=40, class_counts=np.full(10, 4), total_steps=500)
    seen = run([0.25] * 5, [0.9] * 5, [0.5, 0.1, 0.01, 0.01, 0.01], run_facts=few)
    assert "4 per class" in found(seen)["overfitting/validation"].explanation
    many = facts(train_rows=4000, class_counts=np.full(10, 400), total_steps=500)
    assert found(run([0.25] * 5, [0.9] * 5, [0.5, 0.1, 0.01, 0.01, 0.01], run_facts=many)) == {}


def test_the_published_overconfidence_of_mnist_1d_is_no_overfitting() -> None:
    errors = np.linspace(0.42, 0.35, 10)
    losses = np.linspace(1.05, 3.15, 10)
    seen = found(run(errors.tolist(), losses.tolist(), np.geomspace(1.2, 0.001, 10).tolist(), flips=20))
    assert set(seen) == {"overconfidence/validation"}
    assert seen["overconfidence/validation"].evidence[0].observed > 10


def test_a_flat_held_out_loss_is_no_overconfidence() -> None:
    assert found(run([0.3] * 10, [1.0] * 10, FALLING)) == {}


def test_memorization_names_the_data() -> None:
    seen = found(run([0.9] * 10, np.linspace(2.3, 6.0, 10), np.linspace(2.3, 0.2, 10)))
    assert set(seen) == {"memorization"}
    assert "Look at the data first" in seen["memorization"].explanation
    assert seen["memorization"].severity in (None, "critical")


def test_held_out_rows_of_another_mix_are_held_against_their_own_prior() -> None:
    """Two frequent classes in train, all alike on validation: answering with train's frequencies costs 3.7 there."""
    mixed = facts(prior_loss=0.9, held_out_prior_loss=3.7, prior_error_ratio=0.9, total_steps=1000)
    seen = run([0.7] * 10, np.linspace(1.0, 3.0, 10), np.linspace(0.8, 0.1, 10), run_facts=mixed)
    assert "memorization" not in found(seen)
    assert "memorization" in found(replace(seen, facts=replace(mixed, held_out_prior_loss=0.9)))


def test_high_held_out_loss_far_from_chance_is_no_memorization() -> None:
    assert "memorization" not in found(run([0.3] * 10, np.linspace(1.0, 6.0, 10), FALLING))


def test_leakage_by_rows_and_by_figures() -> None:
    leaky = facts(validation_rows=500, test_rows=500, leaked_rows=20)
    assert "20 of the 1000 held-out rows (2 %)" in found(signals(100, leaky))["leakage"].explanation
    assert "leakage" not in found(signals(100, facts(validation_rows=500, test_rows=500, leaked_rows=5)))
    better = [{"train_error_ratio": 0.2}] * 4
    assert "leakage" in found(run([0.1] * 4, [0.5] * 4, [0.6] * 4, changes=better))
    alike = [{"train_error_ratio": 0.11}] * 4
    assert "leakage" not in found(run([0.1] * 4, [0.5] * 4, [0.6] * 4, changes=alike))


def by_category(**errors: tuple[int, int]) -> dict[str, Any]:
    return {
        "categories": tuple(
            CategorySignals(category=name, examples=rows, errors=wrong)
            for name, (wrong, rows) in errors.items()
        )
    }


def test_a_weak_category_is_named_with_its_rows() -> None:
    table = by_category(stock=(40, 500), payment=(35, 440), returns=(23, 60))
    seen = found(run([0.098] * 10, [0.4] * 10, [0.3] * 10, changes=[table] * 10))
    told = seen["weak_category/returns"]
    assert told.severity == "warning"
    assert "gets 23 of 60 'returns' rows wrong" in told.explanation
    assert set(seen) == {"weak_category/returns"}


def test_what_stands_out_in_few_rows_is_information() -> None:
    table = by_category(stock=(20, 500), payment=(20, 490), sizing=(6, 10))
    told = found(run([0.046] * 10, [0.4] * 10, [0.3] * 10, changes=[table] * 10))["weak_category/sizing"]
    assert told.severity == "info"


def test_a_starved_category_is_named() -> None:
    starved = facts(category_counts={"stock": 400, "payment": 420, "returns": 20}, total_steps=1000)
    table = by_category(stock=(40, 500), payment=(40, 494), returns=(2, 6))
    told = found(run([0.08] * 10, [0.4] * 10, [0.3] * 10, changes=[table] * 10, run_facts=starved))
    assert (
        "has 20 training rows where the usual category has 400" in told["weak_category/returns"].explanation
    )


def test_a_category_that_got_worse_while_the_whole_got_better_is_named() -> None:
    before = by_category(stock=(150, 800), returns=(10, 200))
    after = by_category(stock=(60, 800), returns=(40, 200))
    told = found(run([0.16] * 5 + [0.1] * 6, [0.4] * 11, [0.3] * 11, changes=[before] * 5 + [after] * 6))
    assert "got worse while the whole got no worse" in told["weak_category/returns"].explanation
    assert "weak_category/stock" not in told


def test_the_untrained_model_that_gives_one_answer_is_no_reference() -> None:
    """At first all rows are answered `returns`: no error there, and 84 % overall."""
    first = by_category(stock=(795, 800), returns=(5, 200))
    later = by_category(stock=(112, 800), returns=(28, 200))
    assert found(run([0.8] * 3 + [0.14] * 8, [0.4] * 11, [0.3] * 11, changes=[first] * 3 + [later] * 8)) == {}


def test_a_bad_mean_hides_nothing() -> None:
    table = by_category(stock=(350, 800), returns=(162, 200))
    told = found(run([0.512] * 10, [1.4] * 10, [1.3] * 10, changes=[table] * 10))["weak_category/returns"]
    assert told.severity == "info"


def test_few_wrong_rows_prove_nothing() -> None:
    table = by_category(stock=(40, 500), payment=(40, 488), returns=(3, 12))
    assert found(run([0.083] * 10, [0.4] * 10, [0.3] * 10, changes=[table] * 10)) == {}


def test_no_category_is_weak_where_nothing_is_learnt() -> None:
    table = by_category(stock=(400, 500), returns=(500, 500))
    assert "weak_category/returns" not in found(run([0.9] * 10, [2.3] * 10, [2.3] * 10, changes=[table] * 10))


def test_classes_stand_in_for_categories_and_only_rare_ones_are_warned_of() -> None:
    classes = {"classes": by_category(a=(40, 500), b=(40, 420), c=(60, 80))["categories"]}
    seen = run([0.14] * 10, [0.4] * 10, [0.3] * 10, changes=[classes] * 10)
    assert found(seen)["weak_category/c"].severity == "info"
    rare = facts(class_counts=np.array([900, 900, 20]), class_names=("a", "b", "c"), total_steps=1000)
    told = found(replace(seen, facts=rare))
    assert told["weak_category/c"].severity == "warning"
    assert "of the rare ones ('c') 60 are" in told["prediction_collapse"].explanation


def test_one_answer_for_all_is_a_collapse_unless_the_loss_still_falls() -> None:
    same = [{"answer_entropy_ratio": 0.1, "confusions": (("a", "b", 300), ("c", "b", 200))}] * 10
    flat = run([0.5] * 10, [1.5] * 10, [1.5] * 10, changes=same)
    told = found(flat)["prediction_collapse"]
    assert "500 are 'b'" in told.explanation
    assert "prediction_collapse" in found(replace(flat, facts=facts(total_steps=3000)))
    falling = replace(flat, facts=facts(total_steps=3000), block_loss=np.linspace(2.0, 1.5, 100))
    assert "prediction_collapse" not in found(falling)
    varied = [{"answer_entropy_ratio": 0.9}] * 10
    assert found(run([0.5] * 10, [1.5] * 10, [1.5] * 10, changes=varied)) == {}


@given(st.integers(0, 30), st.integers(1, 30), st.integers(0, 60), st.integers(1, 60))
def test_the_exact_test_counts_tables(errors: int, examples: int, other_errors: int, others: int) -> None:
    errors, other_errors = min(errors, examples), min(other_errors, others)
    p_value = exact_excess_p_value(errors, examples, errors + other_errors, examples + others)
    assert 0 <= p_value <= 1
    if errors:
        less = exact_excess_p_value(errors - 1, examples, errors + other_errors, examples + others)
        assert less >= p_value - 1e-9


def test_the_exact_test_is_the_hypergeometric_one() -> None:
    assert exact_excess_p_value(3, 5, 10, 100) == pytest.approx(0.006637913, rel=1e-6)


def test_chance_alone_seldom_raises_an_alarm() -> None:
    """Evaluations of models that are equally good: independent answers, and answers that stay mostly the same."""
    generator, alarms = np.random.default_rng(3), 0
    for _ in range(60):
        quality = generator.uniform(0.02, 0.4)
        base = generator.random(ROWS) < quality
        evaluations, best = [], np.inf
        share = generator.choice([0.05, 0.3, 1.0])
        for place in range(40):
            fresh = generator.random(ROWS) < quality
            wrong = np.where(generator.random(ROWS) < share, fresh, base)
            losses = generator.gamma(0.5, 2.0, size=ROWS) * np.where(wrong, 2.0, 0.2)
            names = np.arange(ROWS) % 8
            evaluations.append(
                EvaluationSignals(
                    step=50 * (place + 1), loss=float(losses.mean()), error_ratio=float(wrong.mean()),
                    figure=float(wrong.mean()), kept=bool(wrong.mean() < best), examples=ROWS,
                    train_loss=1.0 / (place + 1), train_error_ratio=max(0.0, quality - 0.02),
                    categories=tuple(
                        CategorySignals(category=str(name), examples=ROWS // 8, errors=int(wrong[names == name].sum()))
                        for name in range(8)
                    ),
                    rows=HeldOutRows(losses=losses.astype(np.float32), wrong=wrong),
                )
            )  # fmt: skip
            best = min(best, float(wrong.mean()))
        looks = [
            found(signals(500, facts(), evaluations=tuple(evaluations[: place + 1])))
            for place in range(9, 40, 5)
        ]
        told = {name for look in looks for name, answer in look.items() if answer.severity != "info"}
        alarms += bool(told - {"overconfidence/validation"})
    assert alarms <= 3


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-6, 1e6), st.integers(0, 5))
def test_the_unit_of_the_loss_does_not_matter(scale: float, seed: int) -> None:
    errors = np.random.default_rng(seed).choice([0.2, 0.3, 0.9]) + np.array([0, -0.01, -0.02, *[0.1] * 7])
    losses, train = np.linspace(1.0, 4.0, 10), np.linspace(1.5, 0.1, 10)
    plain = run(errors.clip(0, 1).tolist(), losses.tolist(), train.tolist())
    scaled = run(
        errors.clip(0, 1).tolist(),
        (scale * losses).tolist(),
        (scale * train).tolist(),
        run_facts=facts(total_steps=1000, prior_loss=scale * PRIOR_LOSS),
    )
    assert set(found(plain)) == set(found(scaled))


wild = st.floats(width=64, allow_nan=True, allow_infinity=True)
ratios = st.none() | st.floats(0, 1)


@st.composite
def any_evaluation(draw: st.DrawFn, step: int) -> EvaluationSignals:
    tables = [
        tuple(
            CategorySignals(category=name, examples=examples, errors=draw(st.integers(0, examples)))
            for name in draw(st.lists(st.sampled_from("abc"), unique=True))
            if (examples := draw(st.integers(0, 50))) >= 0
        )
        for _ in range(2)
    ]
    count = draw(st.integers(0, 4))
    wrong = draw(st.none() | st.just(np.ones(count, bool)))
    rows = HeldOutRows(losses=np.full(count, draw(wild), np.float32), wrong=wrong)
    return EvaluationSignals(
        step=step, loss=draw(wild), error_ratio=draw(ratios), figure=draw(wild), kept=draw(st.booleans()),
        examples=draw(st.integers(0, 50)), train_loss=draw(wild), train_error_ratio=draw(ratios),
        mean_confidence=draw(ratios), calibration_error=draw(ratios), answer_entropy_ratio=draw(ratios),
        categories=tables[0], classes=tables[1], confusions=draw(st.just(()) | st.just((("a", "b", 3),))),
        rows=draw(st.none() | st.just(rows)),
    )  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(0, 8))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_whatever_was_evaluated_there_is_an_answer(data: st.DataObject, count: int) -> None:
    told = tuple(data.draw(any_evaluation(100 * (place + 1))) for place in range(count))
    run_facts = facts(
        total_steps=data.draw(st.integers(0, 1000)),
        answers=data.draw(st.sampled_from(["classes", "labels", "numbers", "tokens"])),
        prior_loss=data.draw(wild),
        held_out_prior_loss=data.draw(wild),
        prior_error_ratio=data.draw(ratios),
        class_counts=data.draw(st.none() | st.just(np.array([100, 3, 0]))),
        class_names=data.draw(st.just(()) | st.just(("a", "b", "c"))),
        category_counts=data.draw(st.dictionaries(st.sampled_from("abc"), st.integers(0, 100))),
        train_rows=data.draw(st.integers(0, 100)),
    )
    for answer in found(signals(900, run_facts, evaluations=told)).values():
        assert answer.explanation
        assert answer.evidence
        assert 0 <= answer.first_step <= answer.last_step
