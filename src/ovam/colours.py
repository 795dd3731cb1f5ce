"""Colours of words and of label maps: one table for pictures, legends and files with a palette."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

Colour = tuple[int, int, int]
"""Red, green and blue, each from 0 to 255."""

IGNORE = 255
"""Label of undecided or ignored pixels, as in Pascal VOC."""

UNDECIDED: Colour = (224, 224, 192)
"""Colour of these pixels: Pascal VOC's."""

_BRIGHT = ("4e9bff", "ff8c1a", "2fbf71", "f2495c", "b877d9", "ffd02f", "19c6cf", "ff7eb6", "9c6b3f", "a3d93b")


def colours_of(codes: Sequence[str]) -> Float[np.ndarray, "colour 3"]:
    """Return colours written as six hexadecimal digits, in [0, 255]."""
    return np.array([list(bytes.fromhex(code)) for code in codes], dtype=np.float32)


def voc_palette() -> UInt8[np.ndarray, "256 3"]:
    """Pascal VOC's colour map, (256, 3) uint8: a label's bits in turn set the high bits of red, green and blue."""
    labels = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= ((labels >> (3 * bit + channel)) & 1).astype(np.uint8) << (7 - bit)
    return palette


def word_palette() -> UInt8[np.ndarray, "256 3"]:
    """Return the colours of a segmentation's labels: black for background, ten bright ones, then Pascal VOC's."""
    palette = voc_palette()
    palette[1 : len(_BRIGHT) + 1] = colours_of(_BRIGHT)
    return palette


def label_colours(words: int) -> list[Colour]:
    """Return the colour of the background, then one for each word; from the 256th word on, colours come again."""
    red, green, blue = word_palette().T.tolist()
    places = [0, *(i % 255 + 1 for i in range(words))]
    return [(red[i], green[i], blue[i]) for i in places]
