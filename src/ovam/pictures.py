"""Pictures for people: a map laid over its image, all words side by side, coloured labels with a legend.

Everything here takes an image and numbers and returns a new `PIL.Image`; matplotlib is not needed. On one machine,
equal input gives equal bytes; letters beyond English are drawn in the machine's own fonts. Small images are enlarged by
a whole factor.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ovam.colours import IGNORE, UNDECIDED, colours_of, label_colours, voc_palette
from ovam.errors import NotFiniteError, OptionError
from ovam.page import grid, with_legend

if TYPE_CHECKING:
    from ovam.maps.result import AttentionMaps
    from ovam.masks.result import Segmentation

SHORT_SIDE = 256
"""Least length in pixels of the shorter side of an enlarged picture."""

_LONG_SIDE = 512  # a contact sheet's tiles are made no longer than this, unless the image is a strip
_ROUNDING = 1e-5  # as in ovam.maps.calibration: a smaller share is float32 rounding, which would be drawn as a pattern
_MAGMA = ("000004", "1d1147", "51127c", "832681", "b73779", "e75263", "fc8961", "fec488", "fcfdbf")
_LEFT, _RIGHT = np.s_[:, :-1], np.s_[:, 1:]
_ABOVE, _BELOW = np.s_[:-1], np.s_[1:]
_NEIGHBOURS = ((_LEFT, _RIGHT), (_RIGHT, _LEFT), (_ABOVE, _BELOW), (_BELOW, _ABOVE))


def drawable(word_map: Any) -> np.ndarray:
    """Stretch a map to [0, 1] by its own least and greatest value; a constant map becomes 0.

    Args:
        word_map: (height, width), a tensor or an array of finite numbers.

    Raises:
        OptionError: it has another number of axes.
        NotFiniteError: it holds NaN or infinity.
    """
    values = np.asarray(word_map, dtype=np.float32)
    if values.ndim != 2 or 0 in values.shape:
        raise OptionError(
            f"map has the shape {values.shape}: expected (height, width), the map of one word; "
            "take maps[word], and one entry of the axes that were kept apart"
        )
    if not np.isfinite(values).all():
        raise NotFiniteError("map holds NaN or infinity: expected finite numbers; it can't be drawn as it is")
    low, high = float(values.min()), float(values.max())
    spread = high - low
    return (values - low) / spread if spread > _ROUNDING * max(abs(low), abs(high)) else np.zeros_like(values)


def colourised(values: np.ndarray) -> np.ndarray:
    """Turn numbers in [0, 1] into perceptually even colours, black over red to pale yellow: (..., 3), in [0, 255]."""
    anchors = colours_of(_MAGMA)
    at = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(values, at, anchors[:, channel]) for channel in range(3)], axis=-1)


def overlay(image: Image.Image, word_map: Any, *, opacity: float = 0.7, short_side: int = SHORT_SIDE) -> Image.Image:
    """Draw a word's map in colours over its image, bright where the word gets most attention.

    The map is stretched to its own range, so you can't compare the levels of two words by their pictures.

    Args:
        image: The picture, RGB.
        word_map: (height, width) at any size, finite.
        opacity: Share of the colours in the blend, in [0, 1].
        short_side: An image whose shorter side is below this many pixels is enlarged by a whole factor.

    Raises:
        OptionError: the map has other axes, or the opacity lies outside [0, 1].
        NotFiniteError: the map holds NaN or infinity.
    """
    if not 0 <= opacity <= 1:
        raise OptionError(f"opacity={opacity}: expected a number from 0, the image alone, to 1, the map alone")
    values = drawable(word_map)
    large = _enlarged(image.convert("RGB"), short_side, Image.Resampling.BICUBIC)
    smooth = np.asarray(Image.fromarray(values).resize(large.size, Image.Resampling.BICUBIC)).clip(0, 1)
    # half the picture's own colour is taken out, so that the map's colours can be told from it
    picture = (_pixels(large) + _pixels(large.convert("L").convert("RGB"))) / 2
    return _image((1 - opacity) * picture + opacity * colourised(smooth))


def contact_sheet(
    image: Image.Image,
    maps: "AttentionMaps | Mapping[str, Any]",
    *,
    caption: str = "image",
    columns: int | None = None,
) -> Image.Image:
    """Draw the image and one overlay for each word, with the word and the range of its values below it.

    Args:
        image: The picture, RGB.
        maps: `AttentionMaps` without kept axes, or (height, width) maps by word.
        caption: What stands below the image, such as its prompt.
        columns: Pictures in a row. By default up to five pictures are in one row; if there are more, a row has three to
            five of them, the number that leaves the fewest gaps.

    Raises:
        OptionError: a map has other axes, there is no map, or `columns` is below 1.
        NotFiniteError: a map holds NaN or infinity.
    """
    named = _named(maps)
    count = len(named) + 1
    if not named or (columns is not None and columns < 1):
        raise OptionError(f"{len(named)} maps in {columns} columns: expected at least one map, and one column")
    if columns is None:
        columns = count if count <= 5 else min((5, 4, 3), key=lambda number: -count % number)
    picture = framed(image.convert("RGB"))
    tiles = [(caption, "", picture)]
    for word, word_map in named:
        values = np.asarray(word_map, dtype=np.float32)
        tile = overlay(picture, values, short_side=1)
        tiles.append((word, f"{values.min():#.2g} to {values.max():#.2g}", tile))
    return grid(tiles, min(columns, count))


def label_map_picture(
    image: Image.Image,
    segmentation: "Segmentation",
    *,
    opacity: float = 0.55,
    short_side: int = SHORT_SIDE,
    legend: bool = True,
) -> Image.Image:
    """Draw the label map over the image: each word's region in its colour and outlined, the background dark and grey.

    The picture's own colours are taken out, so that a region has the hue of the legend's colour; outlines have that
    colour itself.

    Args:
        image: The picture, RGB, of the label map's size.
        segmentation: Labels (height, width): 0 for background, 1 for the first word, 2 for the second, and 255 for
            undecided pixels, which are pale.
        opacity: Share of the colours in the blend, in [0, 1].
        short_side: An image whose shorter side is below this many pixels is enlarged by a whole factor.
        legend: Whether the words stand below, with the shares of the image that are labelled so.

    Raises:
        OptionError: image and label map differ in size, or the opacity lies outside [0, 1].
    """
    if not 0 <= opacity <= 1:
        raise OptionError(f"opacity={opacity}: expected a number from 0, the image alone, to 1, the labels alone")
    labels = np.asarray(segmentation.labels)
    if labels.shape != (image.height, image.width):
        raise OptionError(
            f"image is {image.height} x {image.width} pixels, the label map {' x '.join(map(str, labels.shape))}: "
            "expected the same height and width; pass the image that was segmented"
        )
    large = _enlarged(image.convert("RGB"), short_side, Image.Resampling.BICUBIC)
    factor = large.width // image.width
    spread = labels.repeat(factor, axis=0).repeat(factor, axis=1)
    named = [*zip(("background", *segmentation.words), label_colours(len(segmentation.words)), strict=True)]
    numbers = list(range(len(named)))
    if len(named) <= IGNORE and (labels == IGNORE).any():  # with more words it is the number of one of them
        named.append(("undecided", UNDECIDED))
        numbers.append(IGNORE)
    palette = np.zeros((max(numbers) + 1, 3), dtype=np.float32)
    palette[numbers] = [colour for _, colour in named]
    grey = _pixels(large.convert("L").convert("RGB"))
    tinted = (1 - opacity) * (64 + 0.75 * grey) + opacity * palette[spread]  # lighter, so that orange is not brown
    shown = np.where((spread > 0)[..., None], tinted, 0.7 * grey)
    outlines = _outlines(spread, max(2, min(spread.shape) // SHORT_SIDE))
    shown[outlines] = palette[spread][outlines]
    if not legend:
        return _image(shown)
    texts = [f"{name} {(labels == number).mean():.0%}" for (name, _), number in zip(named, numbers, strict=True)]
    return with_legend(_image(shown), [(text, colour) for text, (_, colour) in zip(texts, named, strict=True)])


def mask_picture(mask: Any) -> Image.Image:
    """Return a binary mask as a picture of its own size, mode L: white (255) inside, black (0) outside.

    Args:
        mask: (height, width), bool.

    Raises:
        OptionError: it has other axes or is not binary.
    """
    values = np.asarray(mask)
    if values.ndim != 2 or values.dtype != np.bool_:
        raise OptionError(f"mask is {values.dtype} of shape {values.shape}: expected bool of (height, width)")
    return Image.fromarray(values.astype(np.uint8) * 255)


def palette_png(labels: Any, palette: np.ndarray | None = None) -> Image.Image:
    """Return a label map as a picture of its own size, mode P: a pixel's value is its label.

    Args:
        labels: (height, width), integers from 0 to 255.
        palette: Colours by label, (256, 3) uint8; by default Pascal VOC's colour map.

    Raises:
        OptionError: other axes, or values that one byte can't hold.
    """
    values = np.asarray(labels)
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.integer):
        raise OptionError(f"labels are {values.dtype} of shape {values.shape}: expected integers of (height, width)")
    if values.size and not 0 <= values.min() <= values.max() <= 255:
        raise OptionError(
            f"labels run from {values.min()} to {values.max()}: expected 0 to 255, which is what a palette holds"
        )
    picture = Image.fromarray(values.astype(np.uint8))
    picture.putpalette((voc_palette() if palette is None else palette).tobytes())
    return picture


def _named(maps: "AttentionMaps | Mapping[str, Any]") -> list[tuple[str, Any]]:
    """By position, since a prompt may hold a word twice."""
    if isinstance(maps, Mapping):
        return list(maps.items())
    return [(word, maps[i]) for i, word in enumerate(maps.words)]


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float32)


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def _enlarged(image: Image.Image, short_side: int, resampling: Image.Resampling) -> Image.Image:
    """Enlarged by a whole factor, at most to four times the short side asked for along the longer one."""
    most = max(1, 4 * short_side // max(image.size))
    factor = min(most, max(1, math.ceil(short_side / min(image.size))))
    return image if factor == 1 else image.resize((image.width * factor, image.height * factor), resampling)


def framed(image: Image.Image) -> Image.Image:
    """Resize a picture so that several fit side by side: small ones are enlarged, large ones made smaller."""
    large = _enlarged(image, SHORT_SIDE, Image.Resampling.BICUBIC)
    factor = min(1.0, max(_LONG_SIDE / max(large.size), SHORT_SIDE / min(large.size)))
    size = (round(large.width * factor), round(large.height * factor))
    return large if factor == 1 else large.resize(size, Image.Resampling.LANCZOS)


def _outlines(labels: np.ndarray, width: int) -> np.ndarray:
    """Pixels of a word that are fewer than `width` steps away from another label; the picture's edge is none."""
    inside = labels > 0
    apart = np.zeros(labels.shape, dtype=bool)
    for _ in range(width):
        grown = apart.copy()
        for here, there in _NEIGHBOURS:
            grown[here] |= (labels[here] != labels[there]) | apart[there]
        apart = grown & inside
    return apart
