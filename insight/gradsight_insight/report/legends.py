"""What the marks of each picture mean, and how to read it."""

from typing import NamedTuple

import numpy as np

from gradsight_insight.report.data import ReportData
from gradsight_insight.report.words import EFFICACIES


class Legend(NamedTuple):
    """A mark and its meaning."""

    shape: str
    """`line`, `dot`, `ring`, `diamond`, `band` or `box`."""
    shade: str
    text: str


GLOSSARY = {
    "learning_curves": (
        "loss is how far the answers are from the targets; lower is better. Held-out rows are not trained "
        "on: when their curve rises while the training curve falls, the model learns by heart. The pale "
        "band is the range of single steps. Numbers are findings, letters are repairs, each at its first "
        "step."
    ),
    "gradient_flow": (
        "each row is a layer, each column a moment; brighter means a stronger gradient per weight (root "
        "mean square, logarithmic). Rows of similar brightness are healthy. The first rows dark while the "
        "last are bright: the signal vanishes on its way. Brightness that grows towards the first rows: it "
        "explodes."
    ),
    "update_ratios": (
        "a step usually changes weights by about a thousandth of their size (dashed line), up to a "
        "hundredth in short runs. Far to the left a layer hardly learns, far to the right it is thrown "
        "about. Thin bars cover nine tenths of the measured steps, thick bars half of them."
    ),
    "gain_ratio": (
        "1 means that the loss fell exactly as the gradient promised, which only tiny steps achieve; "
        "about a half means steps as long as they should be; near 0, steps that jump across the "
        "valley; below 0, steps after which the loss was higher. Each reading covers the newest 8 to "
        "20 measured steps. It speaks for the batches alone; the judgement of a window also asks "
        "whether held-out rows got better."
    ),
    "before_and_after": (
        "dots are shares of wrong answers, bars where the true share lies with 95 % certainty. Bars may "
        "overlap although the change is beyond chance: both models answered the same rows, so only those "
        "count on which they differ."
    ),
    "by_category": (
        "dots are shares of wrong answers, bars where the true share lies with 95 % certainty. Long bars "
        "mean few rows. The line marks all rows together."
    ),
}
"""How to read each picture, by its name."""


def legends(data: ReportData) -> dict[str, list[Legend]]:
    """The marks that each picture holds, by its name."""
    curves = []
    if len(data.train_loss):
        curves.append(Legend("line", "train", "training rows"))
    if len(data.validation_loss):
        curves.append(Legend("line", "held-out", "held-out rows (validation)"))
    if data.kept:
        curves.append(Legend("diamond", "held-out", "weights that were kept"))
    if data.nonfinite_steps:
        curves.append(Legend("box", "critical", "step that was not finite"))
    seen = {window.verdict for window in data.efficacies}
    judged = [
        Legend("box", judgement.tone, f"{judgement.title}: {judgement.meaning}")
        for name, judgement in EFFICACIES.items()
        if name in seen
    ]
    return {
        "learning_curves": curves,
        "gradient_flow": _cells(data),
        "update_ratios": [
            Legend("ring", "train", "median of the first third of the run"),
            Legend("dot", "train", "median of the last third"),
            Legend("band", "good", "a tenth to ten times of the usual thousandth"),
        ],
        "gain_ratio": judged,
        "before_and_after": [Legend("ring", "old", "old model"), Legend("dot", "train", "new model")],
        "by_category": [],
    }


def _cells(data: ReportData) -> list[Legend]:
    rms = data.probes.gradient_rms
    found = [Legend("box", "critical", "not finite")] if not np.all(np.isfinite(rms)) else []
    return found + ([Legend("box", "old", "exactly zero")] if np.any(rms == 0) else [])
