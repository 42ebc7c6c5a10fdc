"""McNemar's exact test: were two models equally good, given the rows that only one of them got wrong?

Rows that both got right, or both wrong, say nothing about which is better. Of the others, each would be as likely the
one model's mistake as the other's: a fair coin, so the p value is the binomial's and needs no large numbers.
"""

import math
from collections.abc import Sequence

import numpy as np

_FLIPS = 20_000


def exact_p_value(only_baseline_wrong: int, only_new_wrong: int) -> float:
    """Two-sided exact McNemar test: the chance of a split of the differing rows at least this uneven.

    Raises:
        ValueError: A count is below 0.
    """
    if only_baseline_wrong < 0 or only_new_wrong < 0:
        raise ValueError(f"got counts {only_baseline_wrong} and {only_new_wrong}, allowed: at least 0")
    fewer, differing = min(only_baseline_wrong, only_new_wrong), only_baseline_wrong + only_new_wrong
    if 2 * fewer == differing:
        return 1.0
    term = math.exp(
        math.lgamma(differing + 1)
        - math.lgamma(fewer + 1)
        - math.lgamma(differing - fewer + 1)
        - differing * math.log(2)
    )
    tail = term
    # From the largest term down; the rest is lost in rounding after some √differing terms.
    for successes in range(fewer, 0, -1):
        term *= successes / (differing - successes + 1)
        tail += term
        if term <= tail * 1e-17:
            break
    return min(1.0, 2 * tail)


def weighted_p_value(
    only_baseline_wrong: Sequence[int], only_new_wrong: Sequence[int], weights: Sequence[float]
) -> float:
    """The same where a mistake counts differently by group: two-sided, over the weighted sum of differing rows.

    With one weight it is exact. With several the fair coins are tossed 20,000 times, always the same tosses, so that
    the same rows give the same answer; the p value counts the observed split as one of them and is never too small.

    Args:
        only_baseline_wrong: By group, rows that only the old model got wrong.
        only_new_wrong: By group, rows that only the new model got wrong.
        weights: By group, what a row counts, at least 0; groups that count nothing are left out.
    """
    groups: dict[float, tuple[int, int]] = {}
    for old, new, weight in zip(only_baseline_wrong, only_new_wrong, weights, strict=True):
        if weight > 0 and old + new > 0:
            olds, news = groups.get(weight, (0, 0))
            groups[weight] = (olds + old, news + new)
    if len(groups) <= 1:
        return exact_p_value(*groups[max(groups)]) if groups else 1.0
    generator = np.random.default_rng(0)
    observed, sums = 0.0, np.zeros(_FLIPS)
    for weight, (old, new) in groups.items():
        observed += weight * (new - old)
        sums += weight * (2 * generator.binomial(old + new, 0.5, size=_FLIPS) - (old + new))
    # Sums that are equal up to rounding count as equal.
    as_uneven = np.abs(sums) >= abs(observed) * (1 - 1e-12)
    return float((1 + as_uneven.sum()) / (1 + _FLIPS))


def smallest_detectable_fall(
    examples: int, baseline_errors: int, only_baseline_wrong: int, level: float
) -> float | None:
    """The smallest significant fall of the share of right answers on these rows.

    Args:
        examples: Rows, at least 1.
        baseline_errors: Rows that the old model got wrong; the others can become wrong.
        only_baseline_wrong: Rows that became right; a fall has to outweigh them.
        level: What the p value must not exceed.

    Returns:
        The fall, above 0 to 1; None when not even all right answers becoming wrong would be significant.
    """
    low, high = only_baseline_wrong + 1, examples - baseline_errors
    if high < low or exact_p_value(only_baseline_wrong, high) > level:
        return None
    while low < high:
        middle = (low + high) // 2
        if exact_p_value(only_baseline_wrong, middle) <= level:
            high = middle
        else:
            low = middle + 1
    return (low - only_baseline_wrong) / examples


def shared_level(differing: Sequence[int], level: float) -> float:
    """The level for each of several tests, so that all together call a change by chance at most at `level`.

    Tarone's correction: a group whose models differ on `n` rows can reach no p value below 2^(1-n), so a group that
    differs on few rows cannot be called at all and need not be paid for. The level is divided only by the number of
    groups that could be called at the divided level. With 30 categories of which 4 differ on enough rows it is
    divided by 4 and not by 30. Holm's step-down divides by 30 at first and would have to be combined with this to gain
    anything; it was left out because with it the level of one category depends on the results of the others, and
    then there is no one answer to "which fall would have been noticed here".

    Tarone (1990), Biometrics 46, 515–522, doi 10.2307/2531456.

    Args:
        differing: By group, rows that only one of the models got wrong.
        level: For all groups together, between 0 and 1.
    """
    smallest = [exact_p_value(0, count) for count in differing]
    tests = 1
    while sum(p_value <= level / tests for p_value in smallest) > tests:
        tests += 1
    return level / tests
