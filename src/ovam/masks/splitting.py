"""Cut a connected piece where it has a neck, for things of one word that touch."""

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy import ndimage

from ovam.masks.regions import pieces

NECK = 0.6
"""A piece is cut where it is narrower than this share of the parts on both sides."""

_LEAST_RADIUS = 2.0  # pixels; thinner parts are only the roughness of an outline
_STEPS = ndimage.generate_binary_structure(2, 1), np.ones((3, 3), dtype=bool)
_LEVELS = 64  # number of depths that are tried; more take longer and find no other necks


def split_at_necks(piece: Bool[np.ndarray, "height width"]) -> Integer[np.ndarray, "height width"]:
    """Cut one connected piece at its necks, and give each pixel to the nearest part.

    The radius of a part is that of the largest circle inside. Two parts are cut if the widest circle that passes from
    one to the other has at most `NECK` times the radius of the smaller part, and both radii are 2 pixels or more.

    Args:
        piece: The pixels of one connected piece.

    Returns:
        0 outside, then 1, 2, ... for the parts; 1 alone if the piece has no neck.
    """
    depth = ndimage.distance_transform_edt(np.pad(piece, 1))[1:-1, 1:-1]  # beyond the image is outside
    cores = _cores(depth, 0.0)
    if len(cores) == 1:
        return piece.astype(np.int32)
    parts = np.zeros(piece.shape, dtype=np.int32)
    for number, core in enumerate(cores, start=1):
        parts[core] = number
    _grow(parts, piece)
    return parts


def _grow(parts: Integer[np.ndarray, "height width"], piece: Bool[np.ndarray, "height width"]) -> None:
    """Grow all parts at one pace until the piece is full, in turn over 4 and 8 neighbours."""
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
    """Return the core of each part; parts separate when the outline shrinks. One core if there is no neck."""
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
