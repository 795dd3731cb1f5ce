"""Intersection over union of masks, pooled over images and image by image."""

from collections.abc import Iterable

import numpy as np

from ovam.errors import GroundTruthError

Mask = np.ndarray


def check_sizes(predicted: Mask, truth: Mask, ignore: Mask | None = None) -> None:
    """Raise GroundTruthError if two maps that belong together differ in size."""
    for name, other in (("the ground truth", truth), ("the ignore mask", ignore)):
        if other is not None and other.shape != predicted.shape:
            raise GroundTruthError(
                f"{name} is of shape {other.shape}, the prediction of {predicted.shape}: "
                "expected equal (height, width); resize the prediction, never the truth"
            )


def check_masks(*masks: Mask | None) -> None:
    """Raise GroundTruthError if masks that belong together differ in size, or are not boolean.

    Masks of numbers are refused because `&` and `~` work on their bits: `~` of 1 is 254, which still counts as true.
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
    """Return the intersection over union of two masks, in [0, 1]; NaN if both are empty.

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
    """Return the IoU of all images' pixels together, in [0, 1], as the OVAM paper's notebooks do; NaN if all are empty.

    Args:
        pairs: Prediction and truth of each image, bool, (height, width).
    """
    counts = np.array([_counts(predicted, truth, None) for predicted, truth in pairs]).reshape(-1, 2).sum(0)
    return float(counts[0] / counts[1]) if counts[1] else float("nan")


def mean_per_image_iou(masks: Iterable[tuple[Mask, Mask] | tuple[Mask, Mask, Mask]]) -> float:
    """Return the mean of the IoU of each image, in [0, 1]; images in which both masks are empty are left out.

    Args:
        masks: Prediction and truth of each image, bool, (height, width), and pixels to ignore where there are some.
    """
    values = np.array([binary_iou(*each) for each in masks])
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def through_grid(truth: Mask, grid: tuple[int, int]) -> np.ndarray:
    """Return the exact mask as a map of this grid shows it: averaged to the grid's cells, enlarged bilinearly.

    The size need not be a multiple of the grid: a pixel on the border of two cells counts for each cell with the part
    of the pixel that lies in it.

    Args:
        truth: Bool, (height, width).
        grid: Height and width of the grid, from 1 to the picture's.

    Returns:
        Values in [0, 1], (height, width), float64.

    Raises:
        GroundTruthError: the grid has no cell, or more cells than the picture has pixels.
    """
    (height, width), (rows, columns) = truth.shape, grid
    if not (1 <= rows <= height and 1 <= columns <= width):
        raise GroundTruthError(
            f"grid {rows}x{columns} for a mask of {height}x{width}: expected at least one cell, and no more cells than "
            "pixels"
        )
    cells = _averaging(height, rows) @ truth @ _averaging(width, columns).T
    return _enlarging(height, rows) @ cells @ _enlarging(width, columns).T


def grid_reference(truth: Mask, grid: tuple[int, int]) -> Mask:
    """Return `through_grid` cut at 0.5: the best mask that a map of this grid could give.

    Methods that read the picture's pixels can do better.

    Args:
        truth: As in `through_grid`.
        grid: As in `through_grid`.

    Raises:
        GroundTruthError: as in `through_grid`.
    """
    found: Mask = through_grid(truth, grid) >= 0.5 - 1e-9  # sums of shares miss a half by some 1e-16
    return found


def _averaging(pixels: int, cells: int) -> np.ndarray:
    """Share of each pixel in the mean of each cell, (cell, pixel)."""
    edges = np.arange(cells + 1) * (pixels / cells)
    starts = np.arange(pixels)
    overlap = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return overlap.clip(0) * (cells / pixels)


def _enlarging(pixels: int, cells: int) -> np.ndarray:
    """Weight of each cell at each pixel's centre, bilinear, (pixel, cell)."""
    places = (np.arange(pixels) + 0.5) * (cells / pixels) - 0.5
    return np.stack([np.interp(places, np.arange(cells), one) for one in np.eye(cells)], axis=1)
