"""Read pictures of masks: with soft edges, compression, transparency, a palette, colours or 16 bits."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Shaped
from PIL import Image, ImageColor

from ovam.checks import number
from ovam.errors import AnnotationError, OptionError

log = logging.getLogger("ovam")
Colour = str | Sequence[int]
"""A colour as '#ff0000' or 'red', or as three numbers from 0 to 255."""

_HALF = 0.5  # in masks with grey levels, pixels above this part of the white value are the object
_ALIKE = 16  # after lossy compression, red, green and blue of a grey pixel may differ by this much
_NEAR = 48  # compression and soft edges may change a colour by this much
_DARK, _WHITE = 32, 224  # in a compressed mask, levels below _DARK are black; _WHITE and above are white
_APART = 64  # minimum distance between the two greys of a palette
_LEVELS = 6
"""Minimum number of different levels between black and white in a mask with soft edges or compression. A trimap
(0, 128, 255) has only one such level."""


@dataclass(frozen=True)
class Reading:
    """How to read the mask of one object.

    Attributes:
        threshold: A number in [0, 1): pixels whose value, divided by the value of white, is above this number belong to
            the object. If it is None, pixels with the number 1, 255 or 65535 are the object
            (`ovam.masks.mask_like.binary_of`).
        colour: Colour of the object, red, green and blue; None means white.
        image: File name of the image; in a file with many images, only the objects of this image are read.
    """

    threshold: float | None = None
    colour: tuple[int, int, int] | None = None
    image: str | None = None


def reading_of(threshold: float | None, colour: Colour | None, image: str | None) -> Reading:
    """Check the options and return them as a `Reading`.

    Raises:
        OptionError: an option has a value that is not allowed, or threshold and colour are both given.
    """
    if threshold is not None and colour is not None:
        raise OptionError(
            f"mask_threshold={threshold!r} with mask_colour={colour!r}: expected one of the two; a colour needs "
            "no threshold"
        )
    cut = None if threshold is None else number("mask_threshold", threshold, least=0.0, below=1.0)
    return Reading(cut, None if colour is None else _colour(colour), image)


def _colour(colour: Colour) -> tuple[int, int, int]:
    try:
        found = ImageColor.getrgb(colour)[:3] if isinstance(colour, str) else tuple(map(int, colour))
        if len(found) != 3 or not all(0 <= part <= 255 for part in found):
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise OptionError(
            f"mask_colour={colour!r}: expected a colour as '#ff0000' or 'red', or three numbers from 0 to 255"
        ) from error
    return (found[0], found[1], found[2])


def of_colour(picture: Image.Image, colour: tuple[int, int, int], what: str) -> Bool[np.ndarray, "height width"]:
    """Return the pixels that have about this colour and are at least half opaque.

    Raises:
        AnnotationError: there is no such pixel.
    """
    channels = _rgba(picture, what)
    found = (np.abs(channels[..., :3] - colour).max(-1) <= _NEAR) & (channels[..., 3] >= 128)
    if not found.any():
        raise AnnotationError(
            f"{what} has no pixel of mask_colour={_hex(colour)}: expected a colour of the picture; its most frequent "
            f"ones are {_frequent(channels[..., :3])}"
        )
    return found


def levels_of(
    picture: Image.Image, what: str, *, palette_as_numbers: bool = True
) -> Shaped[np.ndarray, "height width"]:
    """Return the grey levels of a mask's picture.

    With `palette_as_numbers`, an opaque picture whose palette has colours is a label map: return the palette index of
    each pixel in place of its grey level. If the palette has exactly two greys, return which pixels have the lighter
    grey: they are the object. If all visible pixels have one colour and the rest is transparent, the mask is the
    visible part.

    Raises:
        AnnotationError: the picture has colours.
    """
    if picture.mode in ("1", "L", "I", "F") or picture.mode.startswith("I;"):
        return np.asarray(picture)
    channels = _rgba(picture, what)
    colours, alpha = channels[..., :3], channels[..., 3]
    if picture.mode == "P" and palette_as_numbers and (alpha == 255).all() and _spread(colours) > _ALIKE:
        return np.asarray(picture)  # the palette of a label map, such as Pascal VOC's
    if (alpha < 255).any():
        visible = colours[alpha >= 128]
        if not len(visible) or np.ptp(visible, axis=0).max() <= _ALIKE:
            log.info("%s is drawn on a transparent background: the painted part is the object", what)
            return alpha.astype(np.uint8)
        colours = np.rint(colours * (alpha / 255)[..., None]).astype(int)  # on a black background
    if _spread(colours) > _ALIKE:
        raise AnnotationError(
            f"{what} has colours (most of its pixels have {_frequent(colours)}): expected black and white; name the "
            "object's colour with mask_colour, on the command line --mask-colour, or fill the object with white and "
            "all else with black"
        )
    levels = np.rint(colours.mean(-1)).astype(np.uint8)
    greys = np.unique(levels).tolist()
    if picture.mode == "P" and palette_as_numbers and len(greys) == 2 and greys[1] - greys[0] >= _APART:
        return levels == greys[1]  # a palette may name any two greys; the lighter one is the object
    return levels


def _rgba(picture: Image.Image, what: str) -> np.ndarray:
    """Return red, green, blue and opacity (height, width, 4) of any kind of picture."""
    if picture.mode in ("LAB", "HSV"):  # Pillow converts them to black
        raise AnnotationError(
            f"{what} is a picture of mode {picture.mode}: expected greys, a palette or RGB; save it as PNG"
        )
    return np.asarray(picture.convert("RGBA")).astype(int)


def _spread(colours: np.ndarray) -> int:
    """Return the largest difference between the channels of a pixel: 0 for greys."""
    return int(np.ptp(colours, axis=-1).max(initial=0))


def _frequent(colours: np.ndarray) -> str:
    """Return the three most frequent colours as text."""
    packed = colours.reshape(-1, 3) @ np.array([65536, 256, 1])
    values, counts = np.unique(packed, return_counts=True)
    return ", ".join(f"#{value:06x}" for value in values[np.argsort(-counts)[:3]])


def _hex(colour: Sequence[int]) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)


def cut(values: Shaped[np.ndarray, "height width"], threshold: float, what: str) -> Bool[np.ndarray, "height width"]:
    """Return the pixels whose value, divided by the value of white, is above a threshold.

    White is 1, 255 or 65535: the smallest of these that no pixel exceeds.

    Raises:
        AnnotationError: a number is above 65535 or below 0.
    """
    if values.dtype == bool:
        return values
    low, high = (float(bound) for bound in (values.min(initial=0), values.max(initial=0)))
    white = next((white for white in (1.0, 255.0, 65535.0) if high <= white), None)
    if white is None or not low >= 0:
        raise AnnotationError(
            f"{what} holds numbers from {low:g} to {high:g}: mask_threshold is a part of the white value, so "
            "expected levels from 0 to 1, 255 or 65535"
        )
    return values > threshold * white


def softened(values: Shaped[np.ndarray, "height width"], what: str) -> Bool[np.ndarray, "height width"] | None:
    """Return the object of a black and white mask with grey levels: the pixels above half of the white value.

    Such levels come from soft edges or lossy compression. A warning is logged.

    If the numbers look like a label map instead, return None.
    """
    most = values.max(initial=0)
    if values.dtype.kind not in "iu" or values.min(initial=0) < 0 or most > 65535:
        return None
    levels = values if most <= 255 else values // 257  # 16 bits become 8
    between = levels[(levels >= _DARK) & (levels < 255)]
    extremes = levels.min(initial=255) < _DARK and levels.max(initial=0) >= _WHITE
    if not extremes or len(np.unique(between)) < _LEVELS or 2 * (between < _WHITE).sum() > levels.size:
        return None
    log.warning(
        "%s has levels between black and white in %d pixels, from soft edges or compression: it is cut at %.1f; "
        "to cut at another level, give mask_threshold (--mask-threshold on the command line)",
        what,
        int(((levels > 0) & (levels < 255)).sum()),
        _HALF,
    )
    return levels > _HALF * 255
