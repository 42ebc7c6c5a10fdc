"""What a model's probabilities are worth: confidence against correctness, and how varied its answers are."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 15
"""As Guo et al., On calibration of modern neural networks, arXiv 1706.04599."""


def calibration_error(
    confidence: npt.NDArray[Any], right: npt.NDArray[np.bool_], *, bins: int = BINS
) -> float:
    """Expected calibration error, 0 to 1: the gap between confidence and accuracy, averaged over bins of confidence.

    Args:
        confidence: Probability that the model gave its answer, shape (rows,), 0 to 1; rows with NaN are left out.
        right: Whether the answer was right, shape (rows,).
        bins: Of equal width.

    Raises:
        ValueError: Vectors of different lengths.
    """
    if len(confidence) != len(right):
        raise ValueError(
            f"calibration: got {len(confidence)} confidences and {len(right)} answers; allowed: as many"
        )
    known = ~np.isnan(confidence)
    confidence, right = confidence[known].astype(np.float64), right[known]
    if not len(confidence):
        return math.nan
    # A confidence on an edge belongs to the bin below it, as in the paper.
    places = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(places, weights=confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def entropy_ratio(answers: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> float | None:
    """Entropy of the answers' frequencies over that of the targets', at least 0; None where all targets are alike.

    Args:
        answers: Class of each row that the model gives, at least 0.
        targets: Class that is right, likewise.
    """
    expected = _entropy(np.bincount(targets))
    return float(_entropy(np.bincount(answers)) / expected) if expected > 0 else None


def _entropy(counts: npt.NDArray[np.int64]) -> float:
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(-np.log(shares) @ shares)
