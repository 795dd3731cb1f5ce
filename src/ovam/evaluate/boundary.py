"""Measures of outlines, and of the pixels away from them."""

import numpy as np
from scipy.ndimage import binary_dilation, binary_erosion, distance_transform_edt

from ovam.evaluate.overlap import check_masks


def boundary_band(labels: np.ndarray, width: int) -> np.ndarray:
    """Return the pixels at most `width` from another label: bool, (height, width).

    The IoU without these pixels is the boundary-excluded IoU.

    Args:
        labels: Label map or mask, (height, width).
        width: In pixels, along rows and columns.
    """
    edges = np.zeros(labels.shape, dtype=bool)
    for axis in (0, 1):
        differs = np.diff(labels.astype(np.int64), axis=axis) != 0
        ahead, behind = [(0, 0), (0, 0)], [(0, 0), (0, 0)]
        ahead[axis], behind[axis] = (0, 1), (1, 0)
        edges |= np.pad(differs, ahead) | np.pad(differs, behind)
    return binary_dilation(edges, iterations=width - 1) if width > 1 else edges


def boundary_f(
    predicted: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None, *, tolerance: float = 2.0
) -> float:
    """Return the F measure of outlines, in [0, 1], as in Csurka et al., BMVC 2013; NaN if there is no outline.

    Args:
        predicted: Bool, (height, width).
        truth: Bool, (height, width).
        ignore: Bool, (height, width); these pixels are taken out of both masks, so that both masks end at them. In
            Pascal VOC such pixels surround every object. The picture's own frame is not an outline either.
        tolerance: In pixels; a pixel of an outline is right if the other outline is at most this far away.

    Raises:
        GroundTruthError: the sizes differ, or a mask is not of booleans.
    """
    check_masks(predicted, truth, ignore)
    masks = [mask if ignore is None else mask & ~ignore for mask in (predicted, truth)]
    outlines = [mask & ~binary_erosion(mask, border_value=1) for mask in masks]
    if not outlines[0].any() or not outlines[1].any():
        return 0.0 if outlines[0].any() or outlines[1].any() else float("nan")
    distances = [distance_transform_edt(~outline) for outline in outlines]
    precision, recall = (float((distances[1 - i][outlines[i]] <= tolerance).mean()) for i in (0, 1))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
