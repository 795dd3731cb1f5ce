"""Read the numbers of a mask or label map of any kind: file, picture, array, tensor, or COCO's RLE and polygons.

Two functions read a mask, one after the other. The number 255 has another meaning after the second function:

1. `mask_numbers` returns the numbers of the mask as they are; for a picture, `levels_of` in `ovam.masks.pictures`
   returns its grey levels or palette indices. There 255 may still stand for white, for the object, or for ignored
   pixels.
2. `binary_of` decides what 255 stands for. Its result is 0 for background, 1 for the object, and 255 (`IGNORE`) for
   ignored pixels only. If the mask has soft edges, `binary_of` calls `softened`: pixels above half of the white value
   become the object.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ovam.colours import IGNORE as IGNORE
from ovam.errors import AnnotationError
from ovam.input_file import regular
from ovam.json_text import read_json
from ovam.masks.coco import is_polygons, segmentation_mask
from ovam.masks.pictures import Reading, cut, levels_of, of_colour, softened
from ovam.masks.whole_files import is_whole_file, object_mask
from ovam.picture_formats import FORMATS

MaskLike = Any
"""A mask. It is one of these: the file name of a picture or of JSON; a PIL image; an array or tensor with one number
per pixel; COCO's RLE (a dictionary) or polygons (a list); a whole file of COCO or labelme, in which the class name
selects the objects."""


def mask_numbers(mask: MaskLike, name: str, size: tuple[int, int], reading: Reading) -> np.ndarray:
    """Return the numbers (height, width) of a mask of one object; the mask may be any kind of `MaskLike`."""
    what = f"mask of {name!r}"
    if isinstance(mask, str | Path):
        mask = _file(Path(mask), what)
    if is_whole_file(mask):
        return object_mask(mask, name, reading.image, size, what)
    if isinstance(mask, Mapping) and "segmentation" in mask:
        mask = mask["segmentation"]  # one entry of COCO's annotations
    rows = isinstance(mask, list) and len(mask) == size[0] and all(_is_row(row, size[1]) for row in mask)
    if rows:
        mask = np.asarray(mask)  # a mask, not polygons: it has as many rows and columns as the image
    if isinstance(mask, Mapping) or is_polygons(mask):
        return segmentation_mask(mask, size, what)
    if not isinstance(mask, Image.Image):
        return _numbers(mask, what)
    picture = ImageOps.exif_transpose(mask)  # turned as EXIF says
    if reading.colour is not None:
        return of_colour(picture, reading.colour, what)
    return levels_of(picture, what, palette_as_numbers=reading.threshold is None)


def label_numbers(labels: MaskLike) -> np.ndarray:
    """Return the numbers (height, width) of a label map of any kind; a picture with a palette gives its indices."""
    what = "label map"
    if isinstance(labels, str | Path):
        labels = _file(Path(labels), what)
    if isinstance(labels, Image.Image):
        picture = ImageOps.exif_transpose(labels)
        if picture.mode == "P":
            return np.asarray(picture)
        if picture.has_transparency_data:
            raise AnnotationError(f"{what} has transparent pixels: expected one number per pixel; save it opaque")
        return levels_of(picture, what)
    return _numbers(labels, what)


def binary_of(values: np.ndarray, ignore: int, reading: Reading, what: str) -> np.ndarray:
    """Return 0 for background, 1 for the object and `IGNORE` for ignored pixels.

    In `values` the object is 1, 255, 65535 or True; or `values` are grey levels.
    """
    if values.dtype == bool:
        return values.astype(np.uint8)
    if reading.threshold is not None:
        if ignore != IGNORE:
            raise AnnotationError(f"{what} has both mask_threshold and ignore={ignore}: expected only one of them")
        return cut(values, reading.threshold, what).astype(np.uint8)
    distinct = {value.item() for value in np.unique(values)}
    object_at = next((at for at in (1, 65535) if at in distinct), 255)
    unknown = sorted((v for v in distinct if v not in (0, object_at, ignore)), key=str)
    if unknown and ignore == IGNORE and (soft := softened(values, what)) is not None:
        return soft.astype(np.uint8)
    if unknown:
        raise AnnotationError(
            f"{what} holds {some_of(unknown)}: expected 0, one number for the object (1, 255 or 65535), and perhaps "
            f"{ignore} for ignored pixels; for grey levels use mask_threshold=0.5 (--mask-threshold 0.5 on the command "
            "line); for a label map, name the class of each number"
        )
    binary = np.zeros(values.shape, dtype=np.uint8)
    if ignore != object_at:
        binary[values == ignore] = IGNORE
    binary[values == object_at] = 1
    return binary


def _numbers(mask: MaskLike, what: str) -> np.ndarray:
    """Return the numbers (height, width) of a mask or label map in one channel."""
    if isinstance(mask, Tensor):
        mask = mask.detach().cpu()
        # numpy has no bfloat16 and no eight-bit floats
        mask = (mask.float() if mask.is_floating_point() and mask.dtype != torch.float64 else mask).numpy()
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype.kind not in "biuf":
        given = f"an array {mask.shape} of {mask.dtype}" if isinstance(mask, np.ndarray) else f"a {type(mask).__name__}"
        raise AnnotationError(
            f"{what} is {given}: expected a file name, a PIL image, an array (height, width) with one number per "
            "pixel, or the RLE or polygons of one COCO object"
        )
    return mask


def _is_row(row: object, width: int) -> bool:
    return isinstance(row, list) and len(row) == width and all(isinstance(number, int | float) for number in row)


def _file(path: Path, what: str) -> Any:
    try:
        if path.suffix == ".json":
            return read_json(regular(path))
        with Image.open(regular(path), formats=FORMATS) as picture:
            picture.load()
            return picture.copy()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise AnnotationError(
            f"{what}, {path}, can't be read ({error}): expected a picture such as PNG, or JSON of COCO or labelme"
        ) from error


def some_of(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values[:5])) + (f" and {len(values) - 5} more numbers" if len(values) > 5 else "")
