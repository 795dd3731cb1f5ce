"""Votes of several masks of one picture: pixels on which they differ are undecided."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from ovam.masks.mask_like import IGNORE

Labels = UInt8[np.ndarray, "height width"]


def agreed(masks: Sequence[Labels]) -> Labels:
    """Return the labels on which all masks agree; 255 elsewhere.

    Args:
        masks: Labels of the same picture; 255 in one of them is 255 in the result.
    """
    first, *others = masks
    same = np.all([other == first for other in others], axis=0) if others else np.ones_like(first, dtype=bool)
    return np.where(same, first, np.uint8(IGNORE))


def vote_shares(masks: Sequence[Labels], ids: Mapping[str, int]) -> dict[str, float]:
    """Return for each class the pixels that it has in all masks, as a share of those that it has in any; 0 if in none.

    Args:
        masks: Labels of the same picture.
        ids: Number of each class.
    """
    found = dict[str, float]()
    for name, number in ids.items():
        own = np.stack([mask == number for mask in masks])
        union = int(own.any(axis=0).sum())
        found[name] = int(own.all(axis=0).sum()) / union if union else 0.0
    return found
