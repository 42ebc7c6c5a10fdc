"""What a verdict on a run looks at, each figure computed once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from gradsight_insight.findings import Finding
from gradsight_insight.held_out import against_best, prior_z
from gradsight_insight.kinds import Number
from gradsight_insight.signals import EvaluationSignals, Floats, Signals
from gradsight_insight.statistics import SIGNIFICANT, finite, mann_kendall_z, mean, theil_sen_slope

_WINDOW = 20
"""Blocks of the training loss."""


@dataclass(frozen=True, kw_only=True)
class LearningRateDrop:
    """What one window at a lower learning rate did to held-out rows, tried on the side and taken back."""

    step: int
    """Optimizer steps done when it was tried."""
    steps: int
    """Steps of the trial."""
    factor: float
    """Of the learning rate, below 1."""
    loss_z: float
    """Held-out loss after less before, paired, in standard errors; below 0 is better."""
    error_z: float | None = None
    """Held-out errors likewise (McNemar); None where answers are not right or wrong."""

    @property
    def improved(self) -> bool:
        """Whether held-out rows got better beyond chance: their errors, or their loss at no cost in errors."""
        if self.error_z is not None and self.error_z <= -SIGNIFICANT:
            return True
        return self.loss_z <= -SIGNIFICANT and (self.error_z is None or self.error_z < SIGNIFICANT)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What the rules look at, each figure computed once."""

    signals: Signals
    open: tuple[Finding, ...]
    finished: bool
    drop: LearningRateDrop | None
    blocks: Floats
    """Training loss of the last two windows."""
    train_share: float
    """Training loss of the newest blocks over the loss of no model; NaN when unknown."""
    trend_z: float
    slope_share: float
    """Change of the training loss over a window, as a share of the loss of no model."""
    newest: EvaluationSignals | None
    best: EvaluationSignals | None
    prior_z: float | None
    """Of the kept evaluation against no model; below 0 is better."""
    error_z: float | None
    """Of the newest evaluation against the kept one, by what the objective is about; None when they are the same."""

    @classmethod
    def of(
        cls, signals: Signals, findings: Sequence[Finding], *, finished: bool, drop: LearningRateDrop | None
    ) -> "Case":
        """The case as it stands."""
        blocks = finite(signals.block_loss[-2 * _WINDOW :])
        prior = signals.facts.prior_loss if signals.facts.prior_loss > 0 else math.nan
        newest, best = (signals.evaluations[-1] if signals.evaluations else None), signals.kept
        pairs = against_best(signals, 1)
        return cls(
            signals=signals,
            open=tuple(finding for finding in findings if finding.open),
            finished=finished,
            drop=drop,
            blocks=blocks,
            train_share=mean(blocks[-5:]) / prior,
            trend_z=mann_kendall_z(blocks),
            slope_share=_WINDOW * theil_sen_slope(blocks) / prior,
            newest=newest,
            best=best,
            prior_z=None if best is None else prior_z(signals.facts, best),
            error_z=pairs[0].worth if pairs else None,
        )

    @property
    def budget_used(self) -> float:
        """Share of the budget, 0 to 1."""
        return self.signals.step / max(1, self.signals.facts.total_steps)

    @property
    def late(self) -> bool:
        """Whether enough was tried to say that it does not work."""
        return self.finished or self.budget_used >= 0.5

    @property
    def beats_no_model(self) -> bool:
        """Whether the kept evaluation is better than no model.

        It is the best of many, so it must be so much better that luck in choosing does not explain it.
        """
        needed = math.sqrt(SIGNIFICANT**2 + 2 * math.log(max(1, len(self.signals.evaluations))))
        return self.prior_z is not None and self.prior_z <= -needed

    @property
    def fitted(self) -> bool:
        """Whether hardly anything is left to learn from the training rows."""
        return self.train_share < 0.05

    @property
    def flat(self) -> bool:
        """Whether the training loss has come to rest: no trend, one of less than half a per cent, or nothing left."""
        if len(self.blocks) < 10:
            return False
        return abs(self.trend_z) < 1.64 or abs(self.slope_share) < 0.005 or self.fitted

    def found(self, *kinds: str) -> list[Finding]:
        """Open findings of these kinds."""
        return [finding for finding in self.open if finding.kind in kinds]

    def evidence(self) -> tuple[Number, ...]:
        """The figures that every verdict stands on, as far as they are known."""
        step = self.signals.step
        first = int(self.signals.block_step[-len(self.blocks)]) if len(self.blocks) else 0
        window = partial(Number, first_step=first, last_step=step)
        numbers = [
            window(name="training_loss_over_prior", observed=self.train_share, threshold=0.8),
            window(name="training_trend_z", observed=self.trend_z, threshold=-1.64, unit="z"),
            Number(name="budget_used", observed=self.budget_used, threshold=0.5, last_step=step),
        ]
        if self.best is not None and self.newest is not None:
            held_out = partial(Number, first_step=self.best.step, last_step=self.newest.step)
            numbers.append(held_out(name="best_step", observed=float(self.best.step), unit="steps"))
            figure_name = "held_out_loss" if self.newest.error_ratio is None else "held_out_error"
            numbers.append(
                held_out(name=figure_name, observed=judged(self.newest), threshold=judged(self.best))
            )
            if self.error_z is not None:
                numbers.append(
                    held_out(name="held_out_z", observed=self.error_z, threshold=SIGNIFICANT, unit="z")
                )
        if self.prior_z is not None:
            numbers.append(
                Number(
                    name="prior_z", observed=self.prior_z, threshold=-SIGNIFICANT, unit="z", last_step=step
                )
            )
        if self.drop is not None:
            numbers.append(
                Number(
                    name="learning_rate_drop_z",
                    observed=self.drop.loss_z,
                    threshold=-SIGNIFICANT,
                    unit="z",
                    first_step=self.drop.step,
                    last_step=self.drop.step,
                )
            )
        return tuple(number for number in numbers if not math.isnan(number.observed))


def decayed(signals: Signals) -> bool:
    """Whether the schedule has come down to a tenth of its largest learning rate by itself."""
    rates = finite(signals.steps.learning_rate)
    highest = max(signals.facts.highest_learning_rate, float(np.max(rates, initial=0.0)))
    return len(rates) > 0 and bool(rates[-1] <= 0.1 * highest)


def judged(evaluation: EvaluationSignals) -> float:
    """What the evaluation is about: its error ratio, else its loss."""
    return evaluation.loss if evaluation.error_ratio is None else evaluation.error_ratio
