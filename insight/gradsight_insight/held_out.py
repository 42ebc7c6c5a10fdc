"""Evaluations on validation side by side: the newest in a row, each paired row by row with the best one.

A figure that is looked at again and again crosses any line once by chance. So a detector asks for the same answer at
several evaluations in a row, and finds them here.
"""

import math
from dataclasses import dataclass

import numpy as np

from gradsight_insight.signals import EvaluationSignals, HeldOutRows, RunFacts, Signals
from gradsight_insight.statistics import mcnemar_z, paired_z


@dataclass(frozen=True)
class Paired:
    """An evaluation against an earlier one on the same rows. Each z is computed when it is asked for."""

    earlier: EvaluationSignals
    evaluation: EvaluationSignals
    _before: HeldOutRows
    _after: HeldOutRows

    @property
    def error_z(self) -> float | None:
        """Errors, McNemar; below 0 is better. None where answers are not right or wrong."""
        old, new = self._before.wrong, self._after.wrong
        return None if old is None or new is None or len(old) != len(new) else mcnemar_z(old, new)

    @property
    def loss_z(self) -> float:
        """Losses, paired; below 0 is better."""
        return paired_z(self._before.losses, self._after.losses)

    @property
    def worth(self) -> float:
        """What the objective is about: z of the errors where there are any, else of the losses."""
        error_z = self.error_z
        return self.loss_z if error_z is None else error_z


def newest(signals: Signals, count: int) -> tuple[EvaluationSignals, ...]:
    """The newest evaluations, oldest first; empty when there are not as many."""
    return signals.evaluations[-count:] if 0 < count <= len(signals.evaluations) else ()


def paired(old: EvaluationSignals, new: EvaluationSignals) -> Paired | None:
    """New against old; None when either is without its rows, or the rows are not the same."""
    before, after = old.rows, new.rows
    if before is None or after is None or len(before.losses) != len(after.losses) or not len(before.losses):
        return None
    return Paired(old, new, before, after)


def against_best(signals: Signals, count: int) -> tuple[Paired, ...]:
    """The newest evaluations, each against the best one; empty unless all of them came after it and have rows."""
    best, evaluations = signals.kept, newest(signals, count)
    if best is None or not evaluations or evaluations[0].step <= best.step:
        return ()
    pairs = [pair for evaluation in evaluations if (pair := paired(best, evaluation)) is not None]
    return tuple(pairs) if len(pairs) == count else ()


def held_out_prior(facts: RunFacts) -> float:
    """Loss of no model on validation, in the objective's unit; that on train where nothing else is known."""
    return facts.held_out_prior_loss if math.isfinite(facts.held_out_prior_loss) else facts.prior_loss


def prior_z(facts: RunFacts, evaluation: EvaluationSignals) -> float | None:
    """How much better than no model: error, else loss, less that of the prior, in standard errors; below 0 is better.

    None when there is nothing to compare with.
    """
    error, prior_error = evaluation.error_ratio, facts.prior_error_ratio
    if facts.judged_by_error and error is not None and prior_error is not None and evaluation.examples > 0:
        # The wider of both, and never 0, so that no errors in few rows are no proof.
        spread = max(error * (1 - error), prior_error * (1 - prior_error), 1 / evaluation.examples)
        return (error - prior_error) / math.sqrt(spread / evaluation.examples)
    rows = evaluation.rows
    prior = held_out_prior(facts)
    if rows is None or not math.isfinite(prior):
        return None
    return paired_z(np.full(len(rows.losses), prior), rows.losses)
