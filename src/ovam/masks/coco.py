"""Decode the masks of COCO's annotations: run lengths along the columns (plain or packed), and polygons."""

import logging
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from ovam.errors import AnnotationError

_FARTHEST = 1e7
"""Maximum magnitude of a corner's coordinates, in pixels."""
log = logging.getLogger("ovam")


def segmentation_mask(found: Mapping[str, Any] | Sequence[Any], size: tuple[int, int], what: str) -> np.ndarray:
    """Return the pixels of one object's `segmentation`: run lengths, or polygons.

    Args:
        found: The `segmentation` as COCO writes it.
        size: (height, width) of the image.
        what: Name of the mask in error messages.

    Returns:
        Booleans (height, width).

    Raises:
        AnnotationError: `found` is neither run lengths nor polygons, or it has another size than the image.
    """
    return rle_mask(found, size, what) if isinstance(found, Mapping) else polygon_mask(_usable(found, what), size)


def is_polygons(found: object) -> bool:
    """Return whether this looks like polygons: a list of lists of even length. The polygons may still be unusable."""
    return (
        isinstance(found, list) and bool(found) and all(isinstance(p, list | tuple) and len(p) % 2 == 0 for p in found)
    )


def _usable(polygons: Sequence[Any], what: str) -> list[Any]:
    """Return the polygons of three points or more; some annotation programs also write shorter ones."""
    if not is_polygons(polygons):
        raise AnnotationError(f"{what} has an unknown segmentation: expected run lengths, or a list of polygons")
    usable = [polygon for polygon in polygons if len(polygon) >= 6]
    if not usable:
        raise AnnotationError(
            f"{what} has {len(polygons)} polygons of fewer than three points, which hold no pixel: expected at least "
            "one polygon with three points or more, as [x1, y1, x2, y2, x3, y3]"
        )
    if len(usable) < len(polygons):
        log.warning(
            "%s has %d polygons of fewer than three points, which hold no pixel: they are left out",
            what,
            len(polygons) - len(usable),
        )
    return usable


def rle_mask(rle: Mapping[str, Any], image: tuple[int, int], what: str) -> np.ndarray:
    """Decode run lengths.

    Args:
        rle: `size` (height, width), and `counts`: a list, or the packed text of `pycocotools`. Runs of 0 and runs of 1
            alternate, and the first run is of 0. They go down the first column, then down the next, and so on.
        image: (height, width) of the image, which `size` must equal.
        what: Name of the mask in error messages.

    Returns:
        Booleans (height, width).

    Raises:
        AnnotationError: `rle` is not run lengths, has another size than the image, or its runs do not add up to the
            number of pixels.
    """
    try:
        height, width = (_whole(side) for side in rle["size"])
        counts = rle["counts"]
        runs = unpacked(counts) if isinstance(counts, str | bytes) else [_whole(run) for run in counts]
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise AnnotationError(
            f"{what} is no RLE ({type(error).__name__}: {error}): expected {{'size': [height, width], 'counts': ...}}"
        ) from error
    if (height, width) != tuple(image):
        raise AnnotationError(
            f"{what} is {height} x {width}, but the image is {image[0]} x {image[1]} (height x width): expected the "
            "same size; annotate the image at its own size"
        )
    if sum(runs) != height * width or min(runs, default=0) < 0:
        raise AnnotationError(
            f"{what} is an RLE of {height} x {width} whose runs add up to {sum(runs)}: expected {height * width}"
        )
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return values.reshape(width, height).T


def _whole(value: Any) -> int:
    found = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    if not found.is_integer():
        raise ValueError(f"{str(value)[:40]} is no whole number")
    return int(found)


def unpacked(counts: str | bytes) -> list[int]:
    """Return the runs of the packed form, which has five bits per letter, the lowest bits first.

    The text has the first three runs as they are. In place of every later run it has the difference between this run
    and the run two places before.

    Raises:
        ValueError: a letter is not allowed, or the text ends within a number.
    """
    letters = counts.encode("ascii") if isinstance(counts, str) else counts
    runs, number, shift = list[int](), 0, 0
    for letter in letters:
        bits = letter - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"letter {chr(letter)!r}")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # more letters follow
            continue
        if bits & 16:  # the highest bit of the last letter is the sign
            number -= 1 << shift
        runs.append(number + runs[-2] if len(runs) > 2 else number)
        number, shift = 0, 0
    if shift:
        raise ValueError("the text ends within a number")
    return runs


def polygon_mask(polygons: Sequence[Sequence[float | int]], size: tuple[int, int]) -> np.ndarray:
    """Return the pixels whose centre lies inside one of the polygons.

    Args:
        polygons: Each polygon is `[x1, y1, x2, y2, ...]`, in pixels from the upper left corner of the image.
        size: (height, width) of the image.

    Returns:
        Booleans (height, width).
    """
    mask = np.zeros(size, dtype=bool)
    for polygon in polygons:
        mask |= _inside(_points(polygon), size)
    return mask


def _points(polygon: Sequence[float | int]) -> np.ndarray:
    try:
        flat = np.asarray(polygon, dtype=float)
    except (TypeError, ValueError, OverflowError) as error:
        raise AnnotationError(f"a polygon is no list of numbers ({error}): expected [x1, y1, x2, y2, ...]") from error
    if flat.ndim != 1 or flat.size < 6 or flat.size % 2 or not (np.abs(flat) <= _FARTHEST).all():
        raise AnnotationError(
            f"a polygon has {flat.size} numbers: expected [x1, y1, x2, y2, ...] of three points or more, all finite "
            "and about as large as the image"
        )
    return flat.reshape(-1, 2)


def _inside(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the pixels inside a polygon, by the even-odd rule.

    On the horizontal line through the centre of a pixel, count the edges that cross this line left of the centre. If
    their number is odd, the pixel is inside.
    """
    height, width = size
    centres = np.arange(width) + 0.5
    crossings = np.zeros((height, width), dtype=bool)
    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
        rows = np.arange(height) + 0.5
        crossed = np.flatnonzero((rows >= min(y1, y2)) & (rows < max(y1, y2)))
        if len(crossed):
            x = x1 + (rows[crossed] - y1) * (x2 - x1) / (y2 - y1)
            crossings[crossed] ^= centres[None] > x[:, None]
    return crossings
