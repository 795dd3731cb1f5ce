"""Intersection over union of masks, pooled over images and image by image."""

from collections.abc import Iterable

import numpy as np
from scipy.ndimage import zoom

from ovam.errors import GroundTruthError

Mask = np.ndarray


def check_sizes(predicted: Mask, truth: Mask, ignore: Mask | None = None) -> None:
    """Raises GroundTruthError where two maps that belong together differ in size."""
    for name, other in (("the ground truth", truth), ("the ignore mask", ignore)):
        if other is not None and other.shape != predicted.shape:
            raise GroundTruthError(
                f"{name} is of shape {other.shape}, the prediction of {predicted.shape}: "
                "expected equal (height, width); resize the prediction, never the truth"
            )


def check_masks(*masks: Mask | None) -> None:
    """Raises GroundTruthError where masks that belong together differ in size or hold other than booleans.

    Numbers are refused, since 255 is true and its negation, 0 of eight bits, is not.
    """
    given = [mask for mask in masks if mask is not None]
    if len(given) > 1:
        check_sizes(*given)
    for mask in given:
        if mask.dtype != bool:
            raise GroundTruthError(f"a mask is of {mask.dtype}: expected bool; give mask > 0, or labels == number")


def _counts(predicted: Mask, truth: Mask, ignore: Mask | None) -> tuple[int, int]:
    check_masks(predicted, truth, ignore)
    kept = True if ignore is None else ~ignore
    return int((predicted & truth & kept).sum()), int(((predicted | truth) & kept).sum())


def binary_iou(predicted: Mask, truth: Mask, ignore: Mask | None = None) -> float:
    """Intersection over union of two masks, in [0, 1]; NaN where both are empty.

    Args:
        predicted: Bool, (height, width).
        truth: Bool, (height, width).
        ignore: Bool, (height, width); pixels that count for nothing.

    Raises:
        GroundTruthError: the sizes differ, or a mask is not of booleans.
    """
    both, either = _counts(predicted, truth, ignore)
    return both / either if either else float("nan")


def pooled_iou(pairs: Iterable[tuple[Mask, Mask]]) -> float:
    """IoU of all images' pixels together, in [0, 1], as the paper's notebooks compute it; NaN where all are empty.

    Args:
        pairs: Prediction and truth of each image, bool, (height, width).
    """
    counts = np.array([_counts(predicted, truth, None) for predicted, truth in pairs]).reshape(-1, 2).sum(0)
    return float(counts[0] / counts[1]) if counts[1] else float("nan")


def mean_per_image_iou(masks: Iterable[tuple[Mask, Mask] | tuple[Mask, Mask, Mask]]) -> float:
    """Mean of the images' own IoU, in [0, 1]; images where both masks are empty are left out.

    Args:
        masks: Prediction and truth of each image, bool, (height, width), and pixels to ignore where there are some.
    """
    values = np.array([binary_iou(*each) for each in masks])
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def grid_reference(truth: Mask, grid: tuple[int, int]) -> Mask:
    """The exact mask as a map of this grid could show it at best: averaged to it, enlarged bilinearly, cut at 0.5.

    Not a ceiling of methods that read the image's pixels.

    Args:
        truth: Bool, (height, width), a multiple of the grid.
        grid: Height and width of the grid.

    Raises:
        GroundTruthError: the size is no multiple of the grid.
    """
    (height, width), (rows, columns) = truth.shape, grid
    if height % rows or width % columns:
        raise GroundTruthError(f"a mask of {height}x{width} is no multiple of the grid {rows}x{columns}")
    cells = truth.reshape(rows, height // rows, columns, width // columns).mean((1, 3))
    enlarged = zoom(cells, (height // rows, width // columns), order=1, mode="nearest", grid_mode=True)
    return enlarged >= 0.5
