"""Which training rows stand out, and when a category is called suspect."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gradsight_insight.categories import Categories
from gradsight_insight.suspects import SUSPECT_LABELS, crowded_categories, most_suspect_first

THRESHOLDS = {name: threshold.default for name, threshold in SUSPECT_LABELS.thresholds.items()}
DICE = np.random.default_rng(3)


NOBODY = np.zeros(2000, dtype=np.bool_)


def four_categories(rows: int) -> Categories:
    return Categories(names=("a", "b", "c", "d"), codes=np.arange(rows) % 4)


def test_the_highest_loss_comes_first_and_what_says_nothing_last() -> None:
    losses = np.array([0.1, np.nan, np.inf, 2.0], dtype=np.float32)
    assert most_suspect_first(losses).tolist() == [2, 3, 0, 1]


def test_a_category_with_a_tenth_of_its_labels_wrong_is_named_with_its_numbers() -> None:
    categories = four_categories(2000)
    losses = DICE.exponential(0.1, size=2000)
    wrong = DICE.choice(np.flatnonzero(categories.codes == 2), 50, replace=False)
    losses[wrong] += 3.0
    order = most_suspect_first(losses)
    (found,) = crowded_categories(order, categories, losses >= 3.0, 300, THRESHOLDS)
    assert (found.kind, found.subject_kind, found.subject) == ("suspect_labels", "category", "c")
    numbers = {number.name: number.observed for number in found.evidence}
    assert numbers["suspect_rows"] >= 50
    assert numbers["category_rows"] == 500
    assert "500 rows" in found.explanation
    # The same losses of a model that gets every row right after all, or of one that gets most wrong.
    assert not crowded_categories(order, categories, NOBODY, 300, THRESHOLDS)
    assert not crowded_categories(order, categories, ~NOBODY, 300, THRESHOLDS)


def test_the_hardest_category_is_worth_knowing_and_damage_is_a_warning() -> None:
    categories = four_categories(2000)
    mine = np.flatnonzero(categories.codes == 2)
    losses = DICE.exponential(0.1, size=2000)
    losses[mine[:80]] += 3.0
    order = most_suspect_first(losses)

    def severity(contradicted: int, elsewhere: int) -> str | None:
        wrong = NOBODY.copy()
        wrong[mine[:contradicted]] = True
        wrong[np.flatnonzero(categories.codes != 2)[:elsewhere]] = True
        (seen,) = crowded_categories(order, categories, wrong, 300, THRESHOLDS)
        return seen.severity

    assert severity(40, 0) == "warning"
    assert severity(30, 0) == "info", "6 % of its rows: the hard ones"
    assert severity(40, 70) == "info", "a model that errs elsewhere too has no firm say"


def test_chance_names_no_category() -> None:
    called = 0
    for _ in range(300):
        losses = DICE.exponential(size=1000)
        order = most_suspect_first(losses)
        wrong = losses > np.quantile(losses, 0.9)
        called += bool(crowded_categories(order, four_categories(1000), wrong, 1, THRESHOLDS))
    assert called == 0


def test_a_single_category_crowds_nothing() -> None:
    categories = Categories(names=("all",), codes=np.zeros(500, dtype=np.int64))
    assert not crowded_categories(np.arange(500), categories, np.arange(500) < 20, 1, THRESHOLDS)


@settings(max_examples=50, deadline=None)
@given(
    losses=arrays.arrays(np.float32, st.integers(0, 60), elements=st.floats(width=32)),
    share=st.floats(0.001, 0.5),
)
def test_any_losses_are_ranked_and_nothing_is_raised(losses: np.ndarray, share: float) -> None:
    order = most_suspect_first(losses)
    assert sorted(order.tolist()) == list(range(len(losses)))
    wrong = np.isnan(losses)
    crowded_categories(order, four_categories(len(losses)), wrong, 1, {**THRESHOLDS, "share": share})
