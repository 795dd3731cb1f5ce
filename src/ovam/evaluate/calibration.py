"""Whether a probability means what it says, and what leaving doubtful pixels open buys."""

import numpy as np


def calibration_error(probability: np.ndarray, truth: np.ndarray, *, bins: int = 15) -> float:
    """Expected calibration error, in [0, 1]: mean distance of probability and frequency over equally wide bins.

    Guo et al., ICML 2017, for a binary question.

    Args:
        probability: In [0, 1], any shape.
        truth: Bool, same shape.
        bins: Number of bins.
    """
    probability, truth = probability.ravel().astype(float), truth.ravel()
    which = np.minimum((probability * bins).astype(int), bins - 1)
    counts = np.bincount(which, minlength=bins)
    gaps = np.bincount(which, probability, bins) - np.bincount(which, truth.astype(float), bins)
    return float(np.abs(gaps).sum() / counts.sum())


def risk_coverage(confidence: np.ndarray, correct: np.ndarray, coverages: np.ndarray) -> np.ndarray:
    """Share of wrong pixels among the most confident ones: (coverage,), in [0, 1].

    Args:
        confidence: Any shape; higher is surer.
        correct: Bool, same shape.
        coverages: Shares of pixels to decide, in (0, 1].
    """
    order = np.argsort(-confidence.ravel(), kind="stable")
    wrong = np.cumsum(~correct.ravel()[order])
    counts = np.maximum(1, np.ceil(np.asarray(coverages) * len(order))).astype(int)
    return wrong[counts - 1] / counts
