"""Vary a picture together with its mask: one window for both, colours and blur for the picture alone."""

import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from ovam.train.classes import IGNORE
from ovam.train.options import AugmentOptions

Picture = UInt8[np.ndarray, "height width 3"]
Mask = UInt8[np.ndarray, "height width"]
Square = tuple[UInt8[np.ndarray, "size size 3"], UInt8[np.ndarray, "size size"]]
"""A picture and its labels, brought to the training size."""

_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_OUTSIDE = (124, 116, 104)  # the mean colour of photographs, which becomes about 0 for the model
_WIDEST_BLUR = 1 / 256  # of the side: two pixels of 512


def augmented(picture: Picture, mask: Mask, size: int, rng: np.random.Generator, options: AugmentOptions) -> Square:
    """Return a square of a picture and of its mask, changed at random.

    Args:
        picture: RGB.
        mask: Labels, of the picture's height and width.
        size: Side of the square in pixels.
        rng: Random generator; equal generators give equal squares.
        options: How much is changed.
    """
    square, labels = _window(picture, mask, size, rng, options.scale)
    if rng.random() < options.flip:
        square, labels = square[:, ::-1], labels[:, ::-1]
    square = _coloured(square, rng, options)
    if rng.random() < options.blur:
        radius = rng.uniform(0.2, 1) * size * _WIDEST_BLUR
        square = np.asarray(Image.fromarray(np.ascontiguousarray(square)).filter(ImageFilter.GaussianBlur(radius)))
    return np.ascontiguousarray(square), np.ascontiguousarray(labels)


def _window(
    picture: Picture, mask: Mask, size: int, rng: np.random.Generator, scale: tuple[float | int, float | int]
) -> Square:
    """Cut a square window out of the picture, which may reach beyond it, and bring it to the size."""
    height, width = mask.shape
    enlarged = math.exp(rng.uniform(math.log(scale[0]), math.log(scale[1])))
    side = min(height, width) / enlarged
    top, left = (rng.uniform(min(0, length - side), max(0, length - side)) for length in (height, width))
    rows, columns = _part(top, side, height, size), _part(left, side, width, size)
    box = (columns[0], rows[0], columns[1], rows[1])
    place = np.s_[rows[2] : rows[3], columns[2] : columns[3]]
    shape = (columns[3] - columns[2], rows[3] - rows[2])
    square = np.empty((size, size, 3), np.uint8)
    square[:] = _OUTSIDE
    labels = np.full((size, size), IGNORE, np.uint8)
    square[place] = np.asarray(Image.fromarray(picture).resize(shape, Image.Resampling.BILINEAR, box=box))
    labels[place] = np.asarray(Image.fromarray(mask).resize(shape, Image.Resampling.NEAREST, box=box))
    return square, labels


def _part(start: float, side: float, length: int, size: int) -> tuple[float, float, int, int]:
    """Where a window meets the picture along one axis: from and to in the picture, first and last in the square."""
    begin, end = max(0.0, start), min(float(length), start + side)
    first = min(size - 1, round((begin - start) / side * size))
    return begin, end, first, max(first + 1, round((end - start) / side * size))


def _coloured(square: Picture, rng: np.random.Generator, options: AugmentOptions) -> Picture:
    """Change brightness, contrast and saturation, each by its own factor."""
    changes = (options.brightness, options.contrast, options.saturation)
    brightness, contrast, saturation = (1 + rng.uniform(-change, change) for change in changes)
    if not any(changes):
        return square
    values = square.astype(np.float32) * brightness
    mean = float((values @ _GREY).mean())
    values = (values - mean) * contrast + mean
    grey = (values @ _GREY)[..., None]
    return ((values - grey) * saturation + grey).round().clip(0, 255).astype(np.uint8)
