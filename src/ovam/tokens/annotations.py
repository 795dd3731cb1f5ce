"""Annotations as people have them - PNG, arrays, COCO, label maps - brought to one form: a label for every pixel."""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ovam.errors import AnnotationError
from ovam.input_file import regular
from ovam.picture_formats import FORMATS
from ovam.tokens.coco import polygon_mask, rle_mask
from ovam.trace import Trace

log = logging.getLogger("ovam")
IGNORE = 255
"""The label of pixels that count for nothing, as in Pascal VOC."""

MaskLike = Any
"""A mask: a file name of a PNG or of JSON with COCO's RLE or polygons, a PIL image, an array or tensor of one number
a pixel, COCO's RLE as a dictionary, or COCO's polygons as a list."""


@dataclass(frozen=True, eq=False)
class Annotation:
    """What is where in one image.

    Attributes:
        labels: 0 is background, i + 1 the i-th class, 255 counts for nothing.
        classes: The classes that were looked for; one may be absent.
    """

    labels: Integer[np.ndarray, "height width"] = field(repr=False)
    classes: tuple[str, ...]

    def digest(self, trace: Trace) -> str:
        """SHA-256 of the image and its labels."""
        found = hashlib.sha256(trace.image_png or b"")
        found.update(json.dumps([self.classes, self.labels.shape]).encode())
        found.update(np.ascontiguousarray(self.labels, dtype=np.int64).tobytes())
        return found.hexdigest()


def annotation_of(
    masks: Mapping[str, MaskLike] | Annotation, size: tuple[int, int], *, ignore: int = IGNORE
) -> Annotation:
    """Masks of classes, one each, as one annotation.

    A mask's numbers are 0 and one other, 1 or 255, or they are booleans. Where its object is 1, and for booleans
    never, `ignore` marks pixels that count for nothing.

    Args:
        masks: By class name; or an annotation, which is checked.
        size: (height, width) of the image.
        ignore: The number of pixels that count for nothing.

    Raises:
        AnnotationError: there is no class, a mask can't be read, is of another shape than the image, holds other
            numbers, is empty or full, or two masks overlap.
    """
    if isinstance(masks, Annotation):
        _check_labels(masks, size)
        return masks
    if not isinstance(masks, Mapping) or not masks:
        told = "empty" if isinstance(masks, Mapping) else f"a {type(masks).__name__}"
        raise AnnotationError(f"annotation is {told}: expected a mask for each class, as in {{'cat': mask}}")
    classes = tuple(_names(masks))
    labels = np.zeros(size, dtype=np.uint8)
    for number, (name, mask) in enumerate(zip(classes, masks.values(), strict=True), start=1):
        values = _binary(_pixels(mask, size, f"mask of {name!r}", of_one=True), ignore, name)
        _check_size(values, size, f"mask of {name!r}")
        _check_share(values, f"mask of {name!r}")
        clash = (values == 1) & (labels > 0) & (labels != IGNORE)
        if clash.any():
            other = classes[int(labels[clash][0]) - 1]
            raise AnnotationError(
                f"masks of {name!r} and {other!r} overlap in {int(clash.sum())} pixels: expected one class a "
                f"pixel; give each pixel to one of them, or mark it with the ignored number {ignore}"
            )
        labels[values == IGNORE] = IGNORE
        labels[(values == 1) & (labels != IGNORE)] = number
    return Annotation(labels, classes)


def annotation_from_labels(
    labels: MaskLike,
    names: Mapping[int, str],
    size: tuple[int, int],
    *,
    ignore: int = IGNORE,
    others: bool = False,
) -> Annotation:
    """A label map, such as Pascal VOC's PNG with a palette, as an annotation.

    Args:
        labels: A file name, a PIL image, an array or a tensor of one number a pixel; 0 is background.
        names: Classes by number, as {8: "cat"}.
        size: (height, width) of the image.
        ignore: The number of pixels that count for nothing.
        others: Whether further numbers may occur, and are background.

    Raises:
        AnnotationError: see `annotation_of`; or a class has the ignored number, or that of the background.
    """
    values = _pixels(labels, size, "label map")
    _check_size(values, size, "label map")
    if values.dtype.kind == "f" and not np.array_equal(values, np.floor(values)):  # also where it is not a number
        raise AnnotationError(
            "label map holds numbers that are not whole: expected the number of a class in each pixel"
        )
    for number in names:
        if number in (0, ignore):
            told = "the background's" if number == 0 else "what is ignored"
            raise AnnotationError(
                f"class {names[number]!r} has the number {number}, which is {told}: expected another one for a class; "
                "give `ignore` another number where the label map has a class there"
            )
    values = values.astype(np.int64)
    unknown = [int(v) for v in np.unique(values) if v not in (0, ignore, *names)]
    if unknown and not others:
        raise AnnotationError(
            f"label map holds {_some(unknown)}: expected 0 for background, {ignore} for what is ignored, and "
            f"{_some(list(names))}; name the other numbers as well, or set their pixels to one of these"
        )
    classes = tuple(_names(names.values()))
    found = np.zeros(size, dtype=np.uint8)
    for position, number in enumerate(names, start=1):
        found[values == number] = position
    found[values == ignore] = IGNORE
    _check_share(found, "label map")
    return Annotation(found, classes)


def _names(masks: Iterable[str]) -> list[str]:
    names = [str(name).strip() for name in masks]
    folded = [name.casefold() for name in names]
    for name in names:
        if not name or name.startswith("<"):
            raise AnnotationError(f"class {name!r} can't be named so: expected a word or phrase, such as 'cat'")
        if folded.count(name.casefold()) > 1:
            raise AnnotationError(f"class {name!r} is annotated twice: expected one mask a class; join them into one")
    if len(names) >= IGNORE:
        raise AnnotationError(f"annotation has {len(names)} classes: expected {IGNORE - 1} at most")
    return names


def _check_labels(annotation: Annotation, size: tuple[int, int]) -> None:
    """Whether an annotation that was made by hand is one."""
    _check_size(annotation.labels, size, "label map")
    if annotation.labels.dtype.kind not in "iu":
        raise AnnotationError(f"label map is of {annotation.labels.dtype}: expected whole numbers")
    _names(annotation.classes)
    known = range(len(annotation.classes) + 1)
    unknown = [int(value) for value in np.unique(annotation.labels) if value not in (*known, IGNORE)]
    if unknown:
        raise AnnotationError(
            f"label map holds {_some(unknown)}: expected 0 for background, 1 to {len(annotation.classes)} for the "
            f"classes {', '.join(annotation.classes)}, and {IGNORE} for what is ignored"
        )
    _check_share(annotation.labels, "label map")


def _pixels(mask: MaskLike, size: tuple[int, int], what: str, *, of_one: bool = False) -> np.ndarray:
    """Numbers (height, width) of any kind of mask; `of_one` where it is of one object and not a label map."""
    if isinstance(mask, str | Path):
        mask = _file(Path(mask), what)
    if isinstance(mask, Mapping) and "segmentation" in mask:
        mask = mask["segmentation"]  # an object of COCO's annotations
    if isinstance(mask, Mapping):
        return rle_mask(mask, what)
    if isinstance(mask, Image.Image):
        turned = ImageOps.exif_transpose(mask)  # as photographs are
        mask = _grey(_as_seen(turned) if of_one else turned, what)
    if isinstance(mask, list) and len(mask) == size[0] and all(_is_row(row, size[1]) for row in mask):
        mask = np.asarray(mask)  # no polygon: so many with as many corners each are not met with
    if isinstance(mask, list) and (polygons := _polygons(mask, what)):
        return polygon_mask(polygons, size)
    if isinstance(mask, Tensor):
        mask = mask.detach().cpu()
        mask = (mask.float() if mask.dtype == torch.bfloat16 else mask).numpy()  # numpy has no bfloat16
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype.kind not in "biuf":
        told = f"an array {mask.shape} of {mask.dtype}" if isinstance(mask, np.ndarray) else f"a {type(mask).__name__}"
        raise AnnotationError(
            f"{what} is {told}: expected a file name, a PIL image, an array (height, width) of one number a "
            "pixel, or COCO's RLE or polygons"
        )
    return mask


def _polygons(mask: list[Any], what: str) -> list[Any]:
    """COCO's polygons, without those of one or two points, which annotation tools leave behind; none if it is none."""
    if not all(isinstance(polygon, Sequence) and len(polygon) % 2 == 0 for polygon in mask):
        return []
    usable = [polygon for polygon in mask if len(polygon) >= 6]
    if usable and len(usable) < len(mask):
        log.warning(
            "%s has %d polygons of fewer than three points, which hold no pixel: they are left out",
            what,
            len(mask) - len(usable),
        )
    return usable


def _is_row(row: object, width: int) -> bool:
    return isinstance(row, list) and len(row) == width and all(isinstance(number, int | float) for number in row)


def _file(path: Path, what: str) -> Any:
    try:
        if path.suffix == ".json":
            return json.loads(regular(path).read_text(encoding="utf-8"))
        with Image.open(regular(path), formats=FORMATS) as picture:
            picture.load()
            return picture.copy()
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        RecursionError,
        Image.DecompressionBombError,
    ) as e:
        raise AnnotationError(
            f"{what}, {path}, can't be read ({e}): expected a PNG file, or JSON with COCO's RLE or polygons"
        ) from e


def _as_seen(picture: Image.Image) -> Image.Image:
    """A mask of one object by its colours where they are two, black and white; others as they are.

    In a palette of two colours the number 1 may be either; in 16 bits white is 65535.
    """
    if picture.mode == "P" and picture.getcolors() is not None:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2) or ()}
        return picture.convert("L") if colours == {(0, 0, 0), (255, 255, 255)} else picture
    if picture.mode.startswith("I"):
        values = np.asarray(picture)
        if {int(value) for value in np.unique(values)} == {0, 65535}:
            return Image.fromarray((values > 0).astype(np.uint8) * np.uint8(255))
    return picture


def _grey(picture: Image.Image, what: str) -> np.ndarray:
    """One number a pixel: of a palette the number itself, of a picture in black and white its level."""
    if picture.mode in ("1", "P", "L", "I", "I;16"):
        return np.asarray(picture)
    channels = np.asarray(picture.convert("RGBA"))
    colours, opaque = channels[..., :3], channels[..., 3] == 255
    if not opaque.all() or (colours != colours[..., :1]).any():
        raise AnnotationError(
            f"{what} has colours or transparent pixels (mode {picture.mode}): expected black and white, one "
            "number a pixel; fill the object with white and all else with black, and save it as PNG"
        )
    return colours[..., 0]


def _binary(values: np.ndarray, ignore: int, name: str) -> np.ndarray:
    """0, 1 and IGNORE, from a mask whose object is 1, 255 or True."""
    if values.dtype == bool:
        return values.astype(np.uint8)
    found = {value.item() for value in np.unique(values)}
    object_at = 1 if 1 in found else 255
    unknown = sorted((v for v in found if v not in (0, object_at, ignore)), key=str)
    if unknown:
        raise AnnotationError(
            f"mask of {name!r} holds {_some(unknown)}: expected 0 and one number for the object, 1 or 255, and "
            f"{ignore} at most for what is ignored beside a 1; cut soft edges (mask > 127), and give the names of a "
            "label map's numbers"
        )
    binary = np.zeros(values.shape, dtype=np.uint8)
    if ignore != object_at:
        binary[values == ignore] = IGNORE
    binary[values == object_at] = 1
    return binary


def _check_size(values: np.ndarray, size: tuple[int, int], what: str) -> None:
    if values.shape != size:
        raise AnnotationError(
            f"{what} is {' x '.join(map(str, values.shape))}, the image {size[0]} x {size[1]} (height x width): "
            "expected them alike; annotate the image at its own size"
        )


def _check_share(labels: np.ndarray, what: str) -> None:
    counted = np.unique(labels[labels != IGNORE])
    if len(counted) < 2:
        told = "empty" if not counted.any() else "full"
        raise AnnotationError(
            f"{what} is {told}: expected pixels of a class and pixels of something else, from which the difference is "
            "learned"
        )


def _some(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values[:5])) + (f" and {len(values) - 5} more numbers" if len(values) > 5 else "")


def target_of(annotation: Annotation, classes: Sequence[str], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Shares of background and classes in every cell of a coarser lattice, and how much of each cell counts.

    Args:
        annotation: Labels at the image's size; classes that it does not have are absent from it.
        classes: All classes of the fit, in order.
        size: (height, width) of the lattice.

    Returns:
        Shares (1 + class, height, width), which sum to 1 where anything counts, and weights (height, width) in [0, 1].
    """
    labels = torch.from_numpy(annotation.labels.astype(np.int64))
    number = {name: i for i, name in enumerate(annotation.classes, start=1)}
    planes = [labels == 0, *(labels == number.get(name, -1) for name in classes)]
    shares = torch.nn.functional.adaptive_avg_pool2d(torch.stack(planes).float()[None], size)[0]
    weight = shares.sum(0)
    return shares / weight.clamp(min=1e-12), weight
