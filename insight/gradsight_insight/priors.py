"""What answering without a model would cost."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Prior(NamedTuple):
    """What answering without a model would cost on held-out rows: what a model has to beat."""

    error_ratio: float | None
    """Of always giving the commonest answer of train, 0 to 1; None where answers are not right or wrong."""
    loss: float
    """Of always giving the best constant answer, in the objective's unit; finite."""


def class_prior(train_counts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> Prior:
    """The prior of classes, or of tokens: from train's frequencies alone, loss in nats.

    A class that train lacks counts as half a row of it, so that the loss stays finite; without such a class the
    frequencies are exact. Of equally frequent classes the first is answered.

    Args:
        train_counts: Train rows of each class, at least one row in all.
        counts: Held-out rows of each class, at least one row in all.

    Raises:
        ValueError: No rows, or vectors of different lengths.
    """
    if len(train_counts) != len(counts) or not train_counts.sum() > 0 or not counts.sum() > 0:
        raise ValueError(
            f"prior: got {train_counts.sum()} train rows in {len(train_counts)} classes and {counts.sum()} held-out "
            f"rows in {len(counts)}; allowed: at least 1 row each, the same classes"
        )
    weights = np.maximum(train_counts, 0.5)
    return Prior(
        error_ratio=float(1 - counts[train_counts.argmax()] / counts.sum()),
        loss=float(-np.log(weights / weights.sum()) @ counts / counts.sum()),
    )
