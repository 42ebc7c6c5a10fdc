"""The training rows are learnt by heart and say nothing about any others (FM-17)."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

from gradsight_insight.held_out import held_out_prior, newest
from gradsight_insight.kinds import Family, FindingKind, Number, Observation, Threshold
from gradsight_insight.signals import EvaluationSignals, RunFacts, Signals
from gradsight_insight.statistics import mean
from gradsight_insight.wording import figure, listed, percent

CHANCE_SHARE = 0.6
"""Share of the prior's error from which held-out error counts as near chance, where nothing else is said."""

MEMORIZATION = FindingKind(
    code="FM-17",
    name="memorization",
    title="Memorization",
    severity="critical",
    you_see=(
        "The training loss falls, perhaps to zero, and held-out rows cost more than if the model had ignored the "
        "inputs. Held-out error stays near that of always giving the commonest answer."
    ),
    mechanism=(
        "A network with enough weights can learn any table by heart, also one whose targets were dealt at random: it "
        "finds in each row something that tells it apart from all others and ties the target to that. If inputs and "
        "targets belong together, there is something shared to be learnt first, and held-out rows profit from it. If "
        "they do not (labels shuffled, joined to the wrong rows, features in an order that changes from row to row), "
        "there is only the table. On new rows the model is then sure of answers that are right no more often than by "
        "chance, and being sure and wrong costs more than not knowing."
    ),
    rule=(
        "At `confirmations` evaluations in a row: held-out loss above `held_out_share` × what answering with "
        "train's frequencies (or mean) would cost there, and held-out error above `chance_share` × the error "
        "of always giving the commonest answer; and the training loss of the newest blocks is below "
        "`training_share` × the loss of no model. For numbers the two losses decide alone."
    ),
    look_alikes=(
        "Over-confidence (FM-16): held-out loss is high, too, but held-out error is far below chance.",
        "Overfitting (FM-15): held-out error first falls, then rises; here it never gets far from chance.",
        "A validation set from another source, or with labels of its own order: evaluate on rows taken from train "
        "instead. If they are answered well, it is the validation set.",
        "Very few training rows: with 40 rows almost every task looks like this.",
    ),
    actions=(
        "Look at twenty training rows, inputs beside targets: does a person see why?",
        "Check how targets came to their rows: joins, sort orders, files read in another order, a shuffled column.",
        "Check that each input column means the same in every row, and in the same order.",
        "Look at the suspect rows, those of highest loss: labels that are plainly wrong show there first.",
        "If only part of the labels is wrong, clean that part; a smaller model or stronger weight decay learns less "
        "of it.",
    ),
    gradsight_does=(
        "Under ADVISE and REPAIR it reports the finding; no repair of the updates helps against data that do not "
        "belong together. Under STOP the run ends."
    ),
    sources=(
        "Zhang et al., Understanding deep learning requires rethinking generalization, arXiv 1611.03530",
        "TheDeepChecker, arXiv 2204.00694 (corrupted-label probe)",
    ),
    thresholds={
        "held_out_share": Threshold(
            default=1.1,
            low=0.5,
            high=10.0,
            meaning="Held-out loss as a share of the loss of no model, at least.",
        ),
        "training_share": Threshold(
            default=0.9,
            low=0.1,
            high=1.0,
            meaning="Training loss as a share of the loss of no model, at most.",
        ),
        "chance_share": Threshold(
            default=CHANCE_SHARE,
            low=0.1,
            high=1.0,
            meaning="Held-out error as a share of the error of the commonest answer, at least.",
        ),
        "confirmations": Threshold(
            default=3, low=1, high=50, meaning="Evaluations in a row at which it must hold before it is said."
        ),
    },
)


def _find(signals: Signals, thresholds: Mapping[str, Mapping[str, float]]) -> Sequence[Observation]:
    """At most one, of the run."""
    facts, limits = signals.facts, thresholds[MEMORIZATION.name]
    evaluations = newest(signals, int(limits["confirmations"]))
    share = _training_share(signals)
    costly = all(_costly(facts, evaluation, limits) for evaluation in evaluations)
    if not evaluations or not costly or not share < limits["training_share"]:
        return ()
    now = evaluations[-1]
    number = partial(Number, first_step=evaluations[0].step, last_step=now.step)
    evidence = [
        number(
            name="held_out_loss_over_prior",
            observed=now.loss / held_out_prior(facts),
            threshold=limits["held_out_share"],
        ),
        number(name="training_loss_over_prior", observed=share, threshold=limits["training_share"]),
    ]
    if now.error_ratio is not None and facts.prior_error_ratio:
        chance = now.error_ratio / facts.prior_error_ratio
        evidence.append(
            number(name="held_out_error_over_prior", observed=chance, threshold=limits["chance_share"])
        )
    return (
        Observation(
            kind=MEMORIZATION.name,
            first_step=evaluations[0].step,
            last_step=now.step,
            evidence=tuple(evidence),
            confidence=0.9,
            explanation=_said(facts, now),
        ),
    )


MEMORIZED = Family(kinds=(MEMORIZATION,), find=_find, at_evaluations=True)


def near_chance(facts: RunFacts, evaluation: EvaluationSignals, share: float = CHANCE_SHARE) -> bool:
    """Whether held-out error is not far from that of always giving the commonest answer; False without errors."""
    if evaluation.error_ratio is None or facts.prior_error_ratio is None:
        return False
    return evaluation.error_ratio > share * facts.prior_error_ratio


def _costly(facts: RunFacts, evaluation: EvaluationSignals, limits: Mapping[str, float]) -> bool:
    """Whether held-out rows cost more than without a model, and are answered hardly better."""
    prior = held_out_prior(facts)
    if not (math.isfinite(prior) and prior > 0 and evaluation.loss > limits["held_out_share"] * prior):
        return False
    return evaluation.error_ratio is None or near_chance(facts, evaluation, limits["chance_share"])


def _training_share(signals: Signals) -> float:
    """Training loss of the newest blocks over that of no model, both in the training loss's unit; NaN: not known."""
    prior = signals.facts.prior_loss
    return mean(signals.block_loss[-5:]) / prior if math.isfinite(prior) and prior > 0 else math.nan


def _said(facts: RunFacts, now: EvaluationSignals) -> str:
    names = listed([entry.name for entry in facts.inputs])
    inputs = f"the inputs ({names})" if names else "the inputs"
    error = (
        f" Held-out error is {percent(now.error_ratio)}; always giving the commonest answer would err in "
        f"{percent(facts.prior_error_ratio)}."
        if now.error_ratio is not None and facts.prior_error_ratio is not None
        else ""
    )
    return (
        f"The training loss fell to {figure(now.train_loss)}, but held-out rows cost {figure(now.loss)}, more than "
        f"the {figure(held_out_prior(facts))} of ignoring {inputs} altogether.{error} What the model learns of the "
        "training rows does not carry over to others: it learns them by heart. Look at the data first: targets "
        f"joined to the wrong rows, labels dealt out anew, or {inputs} in an order that changes from row to row."
    )
