"""Read the pictures and masks of a data set."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ovam.errors import DatasetError, ImageInputError
from ovam.input_file import regular
from ovam.picture_formats import FORMATS
from ovam.tracing.encode import read_image

_MODES = ("P", "L", "1", "I", "I;16")


def read_picture(path: Path) -> Image.Image:
    """Return a picture as RGB and upright.

    Raises:
        DatasetError: it can't be read.
    """
    try:
        return read_image(path)
    except ImageInputError as error:
        raise DatasetError(str(error)) from error


def read_mask(path: Path) -> UInt8[np.ndarray, "height width"]:
    """Return the ids of a mask, (height, width) uint8.

    Raises:
        DatasetError: it can't be read, has colours instead of a palette, or numbers above 255.
    """
    try:
        with Image.open(regular(path), formats=FORMATS) as opened:
            mode, values = opened.mode, np.asarray(opened)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"mask {path} can't be read ({error}): expected a PNG of class ids") from error
    if mode not in _MODES:
        raise DatasetError(
            f"mask {path} has several channels (mode {mode}): expected one id for each pixel, as a palette or greys"
        )
    if values.size and int(values.max()) > 255:
        raise DatasetError(f"mask {path} holds {int(values.max())}: expected ids up to 255; export it with 8 bits")
    return values.astype(np.uint8)


def size_of(path: Path) -> tuple[int, int]:
    """Return the size (height, width) of an upright picture; only its header is read.

    Raises:
        DatasetError: it can't be read.
    """
    try:
        with Image.open(regular(path), formats=FORMATS) as opened:
            width, height = opened.size
            turned = opened.getexif().get(0x0112, 1) >= 5  # the camera was held sideways
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"picture {path} can't be read ({error}): expected a PNG, JPEG or WebP file") from error
    return (width, height) if turned else (height, width)
