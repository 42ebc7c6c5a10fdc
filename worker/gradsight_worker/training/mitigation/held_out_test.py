"""Is the run better off than before? The same validation rows, answered by the weights before and the weights now."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradsight_insight.categories import Categories
from gradsight_insight.mcnemar import exact_p_value
from gradsight_insight.statistics import SIGNIFICANT, mcnemar_z, paired_z

_LEVEL = 0.01
"""The same as a probability, for all categories together."""
_FEWEST_ROWS = 30
"""Of a category that may speak."""
_LEARNT = 0.8
"""Share of what no model costs, below which something has been learnt."""
_LARGEST_LOSS = 1e6
"""What a loss that is not finite counts as: it is worse than any other, and still a number."""


@dataclass(frozen=True, kw_only=True)
class HeldOutAnswers:
    """What some weights made of the validation rows, always in the same order."""

    losses: npt.NDArray[np.float32]
    wrong: npt.NDArray[np.bool_] | None
    """Whether any answer of a row is wrong; None where answers are not right or wrong."""


@dataclass(frozen=True, kw_only=True)
class HeldOutTest:
    """The weights now against those before; below 0 is better."""

    loss_z: float
    """Mean difference of the losses in standard errors."""
    error_z: float
    """Errors likewise (McNemar); the loss's where answers are not right or wrong."""
    worse_categories: tuple[str, ...]
    """Categories of at least 30 rows that got significantly worse, all tests together at 1 % (Holm). None where the
    weights before had learnt nothing: answering everything alike is right for one category, and no merit."""
    had_learnt: bool
    """Whether the weights before were better than no model by a fifth."""

    @property
    def not_worse(self) -> bool:
        """Whether errors rose significantly nowhere; the loss has a test of its own."""
        return self.error_z <= SIGNIFICANT and not self.worse_categories

    @property
    def better(self) -> bool:
        """Whether the loss fell significantly, or errors did and it did not rise: a few wild rows can hide its fall."""
        return self.loss_z <= -SIGNIFICANT or (self.error_z <= -SIGNIFICANT and self.loss_z < SIGNIFICANT)


def held_out_test(
    before: HeldOutAnswers, now: HeldOutAnswers, categories: Categories | None, *, prior_loss: float
) -> HeldOutTest:
    """Compare the answers of two sets of weights to the same rows; `prior_loss` is what no model costs on them."""
    old, new = (
        np.nan_to_num(answers.losses.astype(np.float64), nan=_LARGEST_LOSS, posinf=_LARGEST_LOSS)
        for answers in (before, now)
    )
    loss_z = paired_z(old, new)
    had_learnt = bool(old.mean() < _LEARNT * prior_loss)
    error_z = loss_z
    worse: tuple[str, ...] = ()
    if before.wrong is not None and now.wrong is not None:
        error_z = mcnemar_z(before.wrong, now.wrong)
        worse = _worse_categories(before.wrong, now.wrong, categories if had_learnt else None)
    return HeldOutTest(
        loss_z=loss_z,
        error_z=error_z,
        worse_categories=worse,
        had_learnt=had_learnt,
    )


def _worse_categories(
    before: npt.NDArray[np.bool_], now: npt.NDArray[np.bool_], categories: Categories | None
) -> tuple[str, ...]:
    if categories is None:
        return ()
    p_values: list[tuple[float, str]] = []
    folded = categories.folded()
    for code, name in enumerate(folded.names):
        rows = folded.codes == code
        newly_wrong = int((now[rows] & ~before[rows]).sum())
        newly_right = int((before[rows] & ~now[rows]).sum())
        if rows.sum() >= _FEWEST_ROWS:
            p_value = exact_p_value(newly_right, newly_wrong) if newly_wrong > newly_right else 1.0
            p_values.append((p_value, name))
    worse: list[str] = []
    # Holm: the smallest is held against the level over all tests, the next over one fewer, and so on.
    for place, (p_value, name) in enumerate(sorted(p_values)):
        if p_value > _LEVEL / (len(p_values) - place):
            break
        worse.append(name)
    return tuple(worse)
