"""Training rows that the finished model contradicts: which to look at first, and whether they crowd in one category.

A network learns what many rows agree on before it learns single exceptions. The weights that validation chose have
seen a wrong label as often as any other and still find it unlikely: its loss stands out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gradsight_insight.categories import Categories
from gradsight_insight.kinds import FindingKind, Number, Observation, Threshold

_SURE_Z = 8.0
"""Standard deviations above chance from which it is a warning: some category is always the hardest."""
_SURE_CONTRADICTED = 0.07
"""Share of the category's rows that the model answers otherwise, likewise: fewer are its hard rows."""
_SURE_ELSEWHERE = 0.04
"""Share of all other rows, at most: a model that does not know the others either has no firm say here."""

SUSPECT_LABELS = FindingKind(
    code="FM-28",
    name="suspect_labels",
    title="Suspect labels in one category",
    severity="warning",
    you_see=(
        "Training went well on the whole, yet one category stays behind, and the training rows that the model finds "
        "hardest to believe come from that category far more often than its size would make likely."
    ),
    mechanism=(
        "A wrong label pulls the weights towards an answer that the row's content does not support. Rows with right "
        "labels pull together and rows with wrong ones against them, so the network first learns what most rows "
        "agree on; the exceptions keep a high loss until there is nothing else left to reduce. Held-out rows of that "
        "category are then answered less well: part of what was learnt there is wrong."
    ),
    rule=(
        "At the end of the run the kept weights answer the training rows once. Of the `share` with the highest loss, "
        "a category has at least `lift` times as many rows as its size gives it, so many that chance would bring "
        "them with a probability below that of a normal deviate of `z`; and at least `contradicted` of its rows are "
        "answered otherwise than they are labelled. A model that gets more than `train_error` of the rows wrong has "
        "not learnt enough to contradict anybody. Some category is always the hardest: it is a warning from a "
        "deviate of 8 on, with 7 % of the category's rows contradicted and at most 4 % of all others, and information "
        "else."
    ),
    look_alikes=(
        "A rare category: its rows are hard because there are few of them. The finding says how many there are; more "
        "rows of the same sort make its loss fall, corrected labels do not.",
        "A category whose classes overlap (two names for one thing): the suspect rows then sit in the same two "
        "classes, in both directions.",
        "Rows that are right and unusual: read the list before changing anything.",
    ),
    actions=(
        "Read the listed rows, worst first, and correct or remove those with wrong labels.",
        "If the labels are right, collect more rows of this category that look like the listed ones.",
        "If two classes are confused in both directions, merge them or write down what tells them apart.",
        "Compare the new job with this one (`evaluation.baseline`) on the same test rows.",
    ),
    gradsight_does=(
        "Lists the rows with this finding and, up to 10,000 of them, in `suspects.parquet`. It changes no label under "
        "any policy: only people know which answer is right."
    ),
    sources=(
        "Arpit et al., A Closer Look at Memorization in Deep Networks, arXiv 1706.05394",
        "Pleiss et al., Identifying Mislabeled Data using the Area Under the Margin Ranking, arXiv 2001.10528",
        "Northcutt et al., Confident Learning, arXiv 1911.00068",
    ),
    thresholds={
        "share": Threshold(
            default=0.05, low=0.001, high=0.5, meaning="Share of the training rows that is looked at."
        ),
        "lift": Threshold(
            default=2.2, low=1.0, high=100.0, meaning="Times as many rows as the category's size gives it."
        ),
        "z": Threshold(default=5.0, low=1.0, high=100.0, meaning="Standard deviations above chance."),
        "contradicted": Threshold(
            default=5,
            low=1,
            high=1e6,
            meaning="Fewest rows of the category that the model answers otherwise.",
        ),
        "train_error": Threshold(
            default=0.1, low=0.0, high=1.0, meaning="Share of wrong answers above which the model has no say."
        ),
    },
)


def most_suspect_first(losses: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Places of the rows by falling loss; not-a-number says nothing of a row and comes last."""
    return np.argsort(-np.nan_to_num(losses.astype(np.float64), nan=-math.inf), kind="stable")


def crowded_categories(
    order: npt.NDArray[np.int64],
    categories: Categories,
    contradicted: npt.NDArray[np.bool_],
    step: int,
    thresholds: Mapping[str, float],
) -> Sequence[Observation]:
    """Categories that have more of the most suspect rows than their size explains, the most crowded first.

    Args:
        order: Places of the rows, most suspect first, shape (rows,).
        categories: Category of each row.
        contradicted: Whether the model answers each row otherwise than it is labelled, shape (rows,).
        step: Optimizer steps behind the weights that answered.
        thresholds: Those of SUSPECT_LABELS, complete.
    """
    if not len(order) or contradicted.mean() > thresholds["train_error"]:
        return ()
    looked_at = math.ceil(thresholds["share"] * len(order))
    sizes = categories.counts()
    found = np.bincount(categories.codes[order[:looked_at]], minlength=len(sizes))
    against = np.bincount(categories.codes[contradicted], minlength=len(sizes))
    expected = sizes * (looked_at / len(order))
    deviation = np.sqrt(expected * (1.0 - sizes / len(order)))
    with np.errstate(divide="ignore", invalid="ignore"):
        lift, z = found / expected, (found - expected) / deviation
    crowded = (lift >= thresholds["lift"]) & (z >= thresholds["z"]) & (against >= thresholds["contradicted"])
    elsewhere = (against.sum() - against) / np.maximum(len(order) - sizes, 1)
    sure = (z >= _SURE_Z) & (against >= _SURE_CONTRADICTED * sizes) & (elsewhere <= _SURE_ELSEWHERE)
    codes = sorted(np.flatnonzero(crowded), key=lambda code: -lift[code])
    return [
        Observation(
            kind=SUSPECT_LABELS.name,
            subject_kind="category",
            subject=categories.names[code],
            first_step=step,
            last_step=step,
            evidence=(
                Number(name="lift", observed=lift[code], threshold=thresholds["lift"], last_step=step),
                Number(name="z", observed=z[code], threshold=thresholds["z"], last_step=step),
                Number(name="suspect_rows", observed=found[code], unit="rows", last_step=step),
                Number(
                    name="contradicted_rows",
                    observed=against[code],
                    threshold=thresholds["contradicted"],
                    unit="rows",
                    last_step=step,
                ),
                Number(name="category_rows", observed=sizes[code], unit="rows", last_step=step),
            ),
            severity="warning" if sure[code] else "info",
            confidence=float(min(0.99, 1.0 - math.exp(-z[code] / 4.0))),
            explanation=(
                f"Of the {looked_at} training rows that the kept model finds hardest to believe, {found[code]} are "
                f"of category {categories.names[code]}, {lift[code]:.1f} times as many as its {sizes[code]} rows "
                f"would make likely; {against[code]} of the category it answers otherwise than they are labelled. "
                f"Either labels there are wrong, or there are too few rows like them; both make held-out errors of "
                f"this category more frequent."
            ),
        )
        for code in codes
    ]
