"""Is the run any good? One verdict, from the top down: the first that holds, with what it stands on.

The order is that of doubt. If the figures cannot be trusted nothing else may be said; if the loss ran away it does not
matter whether it overfits; and only when nothing stands against it has a run converged. What cannot be decided is said
to be undecided.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gradsight_insight.findings import Finding
from gradsight_insight.kinds import Number
from gradsight_insight.signals import Signals, State
from gradsight_insight.verdict_case import Case, LearningRateDrop
from gradsight_insight.verdict_rules import RULES, Verdict, usable

__all__ = ["CONFIRMATIONS", "LearningRateDrop", "RunVerdict", "Verdict", "VerdictJudge", "judge_run"]

CONFIRMATIONS = 3
"""Evaluations in a row at which a verdict must hold to be confirmed."""


@dataclass(frozen=True, kw_only=True)
class RunVerdict:
    """Judgement on a run; as `gradsight.v1.RunVerdict`."""

    verdict: Verdict
    confirmed: bool
    """True: it held at three evaluations in a row, or the run is over and it holds."""
    evidence: tuple[Number, ...]
    reasons: tuple[str, ...]
    """One sentence each, most important first."""
    kept_checkpoint_usable: bool
    """True: the kept weights are worth using, whatever became of the run after them."""
    step: int


def judge_run(
    signals: Signals,
    findings: Sequence[Finding],
    *,
    finished: bool = False,
    learning_rate_drop: LearningRateDrop | None = None,
    history: Sequence[Verdict] = (),
) -> RunVerdict:
    """The verdict now.

    Args:
        signals: What was measured.
        findings: All of the run, closed ones included.
        finished: Whether training is over.
        learning_rate_drop: What a lower learning rate brought; None: not tried.
        history: Verdicts at the evaluations before, oldest first, for `confirmed`.
    """
    case = Case.of(signals, findings, finished=finished, drop=learning_rate_drop)
    verdict, reasons = next(
        (verdict, reasons) for verdict, rule in RULES if (reasons := rule(case)) is not None
    )
    recent = tuple(history)[-(CONFIRMATIONS - 1) :]
    held = len(recent) == CONFIRMATIONS - 1 and all(before is verdict for before in recent)
    return RunVerdict(
        verdict=verdict,
        confirmed=finished or held,
        evidence=case.evidence(),
        reasons=tuple(reasons),
        kept_checkpoint_usable=usable(case, verdict),
        step=signals.step,
    )


class VerdictJudge:
    """Judges a run again and again, and remembers how long the verdict has held. Its state is plain JSON."""

    def __init__(self, state: State | None = None) -> None:
        self._history: list[Verdict] = [Verdict(name) for name in state["history"]] if state else []
        self._judged_evaluation: int = state["judged_evaluation"] if state else -1
        self.latest: RunVerdict | None = None
        """The newest verdict; None before the first, and after the state was restored."""

    def judge(
        self,
        signals: Signals,
        findings: Sequence[Finding],
        *,
        finished: bool = False,
        learning_rate_drop: LearningRateDrop | None = None,
    ) -> RunVerdict:
        """The verdict now. Only looks with a new evaluation count for how long it has held."""
        evaluation = signals.evaluations[-1].step if signals.evaluations else -1
        before = self._history if evaluation > self._judged_evaluation else self._history[:-1]
        judged = judge_run(
            signals, findings, finished=finished, learning_rate_drop=learning_rate_drop, history=before
        )
        if evaluation >= 0:
            self._history = [*before, judged.verdict][-CONFIRMATIONS:]
            self._judged_evaluation = evaluation
        self.latest = judged
        return judged

    def state(self) -> State:
        """What is remembered, as plain JSON values."""
        return {
            "history": [verdict.value for verdict in self._history],
            "judged_evaluation": self._judged_evaluation,
        }
