"""Masks as COCO's annotations write them: run lengths down the columns, plain or packed, and polygons."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ovam.errors import AnnotationError

_MOST_PIXELS = 2**28


def rle_mask(rle: Mapping[str, Any], what: str) -> np.ndarray:
    """Decode run lengths.

    Args:
        rle: `size` (height, width), and `counts`: a list, or the packed text of `pycocotools`. Runs of 0 and 1 take
            turns, 0 first, down one column after the other.
        what: Names the mask in errors.

    Returns:
        Booleans (height, width).

    Raises:
        AnnotationError: these are no run lengths, or they do not fill the size.
    """
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        runs = unpacked(counts) if isinstance(counts, str | bytes) else [int(run) for run in counts]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise AnnotationError(
            f"{what} is no RLE ({type(error).__name__}: {error}): expected {{'size': [height, width], 'counts': ...}}"
        ) from error
    if min(height, width) < 1 or height * width > _MOST_PIXELS or sum(runs) != height * width or min(runs) < 0:
        raise AnnotationError(
            f"{what} is an RLE of {height} x {width} whose runs add up to {sum(runs)}: expected {height * width}"
        )
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return values.reshape(width, height).T


def unpacked(counts: str | bytes) -> list[int]:
    """Runs of the packed form: five bits a letter, lowest first; from the fourth run on less the one before last.

    Raises:
        ValueError: a letter that can't be there, or an end within a number.
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
    """Pixels whose centre lies inside one of the polygons.

    Args:
        polygons: Each `[x1, y1, x2, y2, ...]` in pixels from the upper left corner.
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
    except (TypeError, ValueError) as error:
        raise AnnotationError(f"a polygon is no list of numbers ({error}): expected [x1, y1, x2, y2, ...]") from error
    if flat.ndim != 1 or flat.size < 6 or flat.size % 2 or not np.isfinite(flat).all():
        raise AnnotationError(
            f"a polygon has {flat.size} numbers: expected [x1, y1, x2, y2, ...] of three points or more, all finite"
        )
    return flat.reshape(-1, 2)


def _inside(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Even-odd rule: a centre is inside where an odd number of edges crosses its row to the left of it."""
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
