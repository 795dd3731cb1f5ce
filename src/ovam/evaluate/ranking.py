"""Measures that need no threshold."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from ovam.errors import GroundTruthError, NotFiniteError
from ovam.evaluate.overlap import check_masks


def average_precision(truth: np.ndarray, score: np.ndarray) -> float:
    """Return the area under the precision-recall curve, in [0, 1]: each precision is weighted by the recall it adds.

    Pixels with equal scores are counted at the same threshold, so their order changes nothing. If all scores are equal,
    the result is the share of True in the truth.

    Args:
        truth: Bool, any shape, at least one True.
        score: Same shape; higher means more likely True.

    Raises:
        GroundTruthError: nothing is True, the truth is not of booleans, or the shapes differ.
        NotFiniteError: a score is NaN.
    """
    check_masks(truth)
    if np.isnan(score).any():
        raise NotFiniteError("scores contain NaN: expected numbers, of which a higher one means more likely True")
    if truth.shape != score.shape or not truth.any():
        raise GroundTruthError(
            f"average precision of a truth of shape {truth.shape} with {int(truth.sum())} pixels, "
            f"scores of {score.shape}: expected equal shapes and at least one pixel that is True"
        )
    score = score if score.dtype.kind == "f" else score.astype(np.float64)  # unsigned numbers have no negative ones
    order = np.argsort(-score.ravel(), kind="stable")
    ordered = score.ravel()[order]
    last_of_ties = np.append(ordered[1:] != ordered[:-1], True)
    hits = np.cumsum(truth.ravel()[order])[last_of_ties]
    precision = hits / (np.flatnonzero(last_of_ties) + 1)
    return float((np.diff(hits, prepend=0) * precision).sum() / hits[-1])


def presence_auroc(present: Sequence[float] | np.ndarray, absent: Sequence[float] | np.ndarray) -> float:
    """Return the chance that a present word scores above an absent one, in [0, 1]; ties count half. Guessing gives 0.5.

    Args:
        present: Presence scores of words that are in their image.
        absent: Presence scores of words that are not.

    Raises:
        GroundTruthError: one of them is empty.
    """
    if not len(present) or not len(absent):
        raise GroundTruthError(f"{len(present)} present and {len(absent)} absent scores: expected at least one of each")
    ranks = rankdata(np.concatenate([present, absent]))[: len(present)]
    above = ranks.sum() - len(present) * (len(present) + 1) / 2
    return float(above / (len(present) * len(absent)))
