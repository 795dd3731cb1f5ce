"""Separate things of one word that touch: cut a connected piece at its narrow places, its necks."""

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy import ndimage

from ovam.masks.regions import pieces

NECK = 0.6
"""A narrow place is a neck if no circle whose radius is above this share of the smaller part's radius can pass through
it; `split_at_necks` says what the radius of a part is."""

_LEAST_RADIUS = 2.0  # pixels; a part with a smaller radius does not count, because it comes from an uneven outline
_STEPS = ndimage.generate_binary_structure(2, 1), np.ones((3, 3), dtype=bool)
_LEVELS = 64  # number of distances from the outline that are tried; more take longer and find no other necks


def split_at_necks(piece: Bool[np.ndarray, "height width"]) -> Integer[np.ndarray, "height width"]:
    """Cut one connected piece at its necks, and give each pixel to the nearest part.

    The radius of a part is the radius of the largest circle inside the part. Two parts are separated if both radii are
    at least 2 pixels, and if no circle whose radius is above `NECK` times the smaller radius can pass from one part to
    the other.

    Args:
        piece: The pixels of one connected piece.

    Returns:
        0 outside, then 1, 2, ... for the parts; 1 alone if the piece has no neck.
    """
    depth = ndimage.distance_transform_edt(np.pad(piece, 1))[1:-1, 1:-1]  # pixels beyond the image count as outside
    cores = _cores(depth, 0.0)
    if len(cores) == 1:
        return piece.astype(np.int32)
    parts = np.zeros(piece.shape, dtype=np.int32)
    for number, core in enumerate(cores, start=1):
        parts[core] = number
    _grow(parts, piece)
    return parts


def _grow(parts: Integer[np.ndarray, "height width"], piece: Bool[np.ndarray, "height width"]) -> None:
    """Grow all parts at the same speed until they fill the piece, over 4 and over 8 neighbours in turn."""
    while True:
        free, grown = piece & (parts == 0), False
        for footprint in _STEPS:
            neighbours = ndimage.maximum_filter(parts, footprint=footprint)
            new = free & (parts == 0) & (neighbours > 0)
            parts[new] = neighbours[new]
            grown |= bool(new.any())
        if not grown:
            return


def _cores(depth: Float[np.ndarray, "height width"], above: float) -> list[Bool[np.ndarray, "height width"]]:
    """Return the core of each part of a piece, from the distance of each pixel to the outline (`depth`).

    Pixels near the outline are removed, more and more, until the piece separates into parts. The removal starts with
    the pixels whose depth is at most `above`. The pixels of a part that remain are its core.

    If there is no neck, there is one core.
    """
    levels = np.linspace(0, depth.max(), _LEVELS, endpoint=False)
    for level in levels[levels >= above]:
        numbers, count = pieces(depth > level)
        if count < 2:
            continue
        deepest = np.asarray(ndimage.maximum(depth, numbers, np.arange(1, count + 1)))
        parts = np.flatnonzero((deepest >= level / NECK) & (deepest >= _LEAST_RADIUS)) + 1
        if len(parts) > 1:
            return [core for part in parts for core in _cores(np.where(numbers == part, depth, 0.0), level)]
    return [depth > above]
