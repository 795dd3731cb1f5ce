"""Connected pieces of masks and label maps: find them, remove small ones, fill holes.

The functions here use only label numbers, not words.
"""

import numpy as np
import torch
from jaxtyping import Bool, Integer, Shaped
from scipy import ndimage
from torch import Tensor

from ovam.checks import whole

Box = tuple[int, int, int, int]
"""x, y, width and height in whole pixels, as in COCO: the upper left pixel of the image is (0, 0, 1, 1)."""

BOOLEAN = Bool[np.ndarray, "height width"]
NUMBERED = Integer[np.ndarray, "height width"]

_WITH_DIAGONALS = np.ones((3, 3), dtype=bool)
_CROSS = ndimage.generate_binary_structure(2, 1)


def pieces(mask: BOOLEAN) -> tuple[NUMBERED, int]:
    """Number the connected pieces of a mask; pixels that touch at a corner are connected.

    Returns:
        The numbers of the pixels, 0 outside and 1, 2, ... in the order of the first rows of the pieces; and how many
        pieces there are.
    """
    numbers, count = ndimage.label(mask, structure=_WITH_DIAGONALS)
    return numbers, int(count)


def box_of(mask: BOOLEAN) -> Box | None:
    """Return the smallest box around the pixels of a mask, or None if the mask is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1


def cleaned(
    labels: Shaped[Tensor, "height width"], *, min_area: int = 0, max_hole: int = 0
) -> Shaped[Tensor, "height width"]:
    """Return a label map, or a mask, without small pieces and small holes.

    First, each connected piece of a label that has fewer pixels than `min_area` becomes background. Pixels that touch
    only at a corner are connected here. Then holes are filled: a connected piece of background of at most `max_hole`
    pixels gets a label if all pixels around it have this label, and if it does not touch the image's edge. Here pixels
    that touch only at a corner are not connected. So a pixel changes from one label to another only if it was in a
    small piece that was removed, and then in a hole that was filled.

    Args:
        labels: Whole numbers, 0 for background; or booleans.
        min_area: The smallest piece that stays, in pixels.
        max_hole: The largest hole that is filled, in pixels.

    Returns:
        The same type and device as `labels`.

    Raises:
        OptionError: `min_area` or `max_hole` is not a whole number of at least 0.
    """
    min_area, max_hole = whole("min_area", min_area, least=0), whole("max_hole", max_hole, least=0)
    found = labels.cpu().numpy().astype(np.int64)  # a copy
    if min_area > 1:
        _remove_specks(found, min_area)
    if max_hole:
        _fill_holes(found, max_hole)
    return torch.from_numpy(found).to(labels)


def _remove_specks(labels: NUMBERED, min_area: int) -> None:
    for label in np.unique(labels[labels > 0]):
        numbers, _ = pieces(labels == label)
        small = np.bincount(numbers.ravel()) < min_area
        small[0] = False
        labels[small[numbers]] = 0


def _fill_holes(labels: NUMBERED, max_hole: int) -> None:
    numbers, count = ndimage.label(labels == 0, structure=_CROSS)
    if not count:
        return
    holes = np.bincount(numbers.ravel(), minlength=count + 1) <= max_hole
    edges = np.concatenate([numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]])
    holes[np.append(edges, 0)] = False
    most = ndimage.maximum_filter(labels, footprint=_CROSS)
    least = ndimage.minimum_filter(np.where(labels == 0, labels.max() + 1, labels), footprint=_CROSS)
    every = np.arange(count + 1)
    highest, lowest = ndimage.maximum(most, numbers, every), ndimage.minimum(least, numbers, every)
    holes &= highest == lowest
    inside = holes[numbers]
    labels[inside] = highest[numbers[inside]]
