"""Measures of reliability: are probabilities right, and are there fewer errors if doubtful pixels stay undecided?"""

import numpy as np

from ovam.errors import GroundTruthError
from ovam.evaluate.overlap import check_masks, check_sizes


def calibration_error(
    probability: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None, *, bins: int = 15
) -> float:
    """Return the expected calibration error, in [0, 1]: mean distance of probability and frequency over equal bins.

    As in Guo et al., ICML 2017, for a binary question. NaN if everything is ignored.

    Args:
        probability: In [0, 1], any shape.
        truth: Bool, same shape.
        ignore: Bool, same shape; pixels that count for nothing.
        bins: Number of bins, all of the same width.

    Raises:
        GroundTruthError: the sizes differ, a mask is not of booleans, or a probability lies outside of [0, 1].
    """
    check_sizes(probability, truth, ignore)
    check_masks(truth, ignore)
    counted = np.ones(truth.shape, dtype=bool) if ignore is None else ~ignore
    probability, truth = probability[counted].astype(float), truth[counted]
    if not counted.any():
        return float("nan")
    if not (probability.min() >= 0 and probability.max() <= 1):
        raise GroundTruthError(
            f"probabilities reach from {probability.min():g} to {probability.max():g}: expected [0, 1]; give what a "
            "sigmoid or softmax makes of scores"
        )
    which = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = np.bincount(which, probability, bins) - np.bincount(which, truth.astype(float), bins)
    return float(np.abs(gaps).sum() / len(which))


def risk_coverage(
    confidence: np.ndarray, correct: np.ndarray, coverages: np.ndarray, ignore: np.ndarray | None = None
) -> np.ndarray:
    """Return the share of wrong pixels among the most confident: (coverage,), in [0, 1]; NaN if everything is ignored.

    If only some of several equally confident pixels are decided, each of them counts with the share of wrong pixels
    among all of them. So their order in the picture changes nothing.

    Args:
        confidence: Any shape; higher is surer.
        correct: Bool, same shape.
        coverages: Shares of pixels to decide, in (0, 1].
        ignore: Bool, same shape; pixels that count for nothing.

    Raises:
        GroundTruthError: the sizes differ, a mask is not of booleans, or a share lies outside of (0, 1].
    """
    check_sizes(confidence, correct, ignore)
    check_masks(correct, ignore)
    shares = np.asarray(coverages, dtype=float)
    if not ((shares > 0) & (shares <= 1)).all():
        raise GroundTruthError(f"coverages {shares.tolist()}: expected shares of the pixels, above 0 and at most 1")
    counted = np.ones(correct.shape, dtype=bool) if ignore is None else ~ignore
    if not counted.any():
        return np.full(shares.shape, np.nan)
    sure = confidence[counted].astype(np.float64)  # unsigned numbers have no negative ones
    values, group = np.unique(-sure, return_inverse=True)  # the surest first
    sizes = np.bincount(group, minlength=len(values))
    wrong = np.bincount(group, ~correct[counted], len(values)) / sizes
    decided = np.maximum(1, np.ceil(shares * counted.sum()))
    ends = np.cumsum(sizes)
    of_group = np.clip(decided[:, None] - (ends - sizes), 0, sizes)  # pixels of each group that are decided
    return (of_group * wrong).sum(1) / decided
