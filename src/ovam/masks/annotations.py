"""Make an annotation, which labels every pixel of one image, from one mask per class or from a label map."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor

from ovam.errors import AnnotationError
from ovam.masks.mask_like import IGNORE as IGNORE
from ovam.masks.mask_like import MaskLike as MaskLike
from ovam.masks.mask_like import binary_of, label_numbers, mask_numbers, some_of
from ovam.masks.pictures import Colour, reading_of
from ovam.trace.trace import Trace


@dataclass(frozen=True, eq=False)
class Annotation:
    """The labels of all pixels of one image.

    Attributes:
        labels: 0 is background, 1 is the first class, 2 the second, and so on; 255 marks ignored pixels.
        classes: The annotated classes; a class may have no pixels.
    """

    labels: Integer[np.ndarray, "height width"] = field(repr=False)
    classes: tuple[str, ...]

    def digest(self, trace: Trace) -> str:
        """Return the SHA-256 of the image and its labels."""
        found = hashlib.sha256(trace.image_png or b"")
        found.update(json.dumps([self.classes, self.labels.shape]).encode())
        found.update(np.ascontiguousarray(self.labels, dtype=np.int64).tobytes())
        return found.hexdigest()


def annotation_of(
    masks: Mapping[str, MaskLike] | Annotation,
    size: tuple[int, int],
    *,
    ignore: int = IGNORE,
    mask_threshold: float | None = None,
    mask_colour: Colour | None = None,
    image: str | None = None,
) -> Annotation:
    """Return one annotation made of masks, one mask per class.

    A mask has booleans, or 0 and one other number for the object: 1, 255 or 65535. Pixels with the number `ignore` are
    ignored, unless this number stands for the object. So with the default 255: in a mask of 0 and 255, 255 is the
    object; in a mask of 0, 1 and 255, 1 is the object and 255 marks ignored pixels. Boolean masks have no ignored
    pixels. If a black and white mask has grey levels, from soft edges or lossy compression, pixels above half of the
    white value are the object, and a warning is logged.

    Args:
        masks: Masks by class name; or an annotation, which is checked and returned.
        size: (height, width) of the image.
        ignore: The pixel value that marks ignored pixels. (The option `ignore` of `segment` is something else: it is
            half the width of a range of scores.)
        mask_threshold: A number in [0, 1): pixels whose value, divided by the value of white, is above this number
            belong to the object, and no pixel is ignored. By default there is no such threshold: the numbers in the
            mask say which pixels are the object, as explained above.
        mask_colour: Colour of the object in pictures with several colours, as '#ff0000', 'red' or (255, 0, 0).
        image: File name of the image. It is needed if a mask is given as a COCO file with annotations of many images.

    Raises:
        AnnotationError: there is no class; a mask can't be read; a mask has another shape than the image, or
            contains a number that is not allowed; a mask is empty or full; or two masks overlap.
        OptionError: an option has a value that is not allowed.
    """
    reading = reading_of(mask_threshold, mask_colour, image)
    if isinstance(masks, Annotation):
        _check_labels(masks, size)
        return masks
    if not isinstance(masks, Mapping) or not masks:
        given = "empty" if isinstance(masks, Mapping) else f"a {type(masks).__name__}"
        raise AnnotationError(f"annotation is {given}: expected a mask for each class, as in {{'cat': mask}}")
    classes = tuple(_names(masks))
    labels = np.zeros(size, dtype=np.uint8)
    for number, (name, mask) in enumerate(zip(classes, masks.values(), strict=True), start=1):
        values = binary_of(mask_numbers(mask, name, size, reading), ignore, reading, f"mask of {name!r}")
        _check_size(values, size, f"mask of {name!r}")
        _check_share(values, f"mask of {name!r}")
        clash = (values == 1) & (labels > 0) & (labels != IGNORE)
        if clash.any():
            other = classes[int(labels[clash][0]) - 1]
            raise AnnotationError(
                f"masks of {name!r} and {other!r} overlap in {int(clash.sum())} pixels: expected one class per "
                f"pixel; give each pixel to one class, or mark it with the ignored number {ignore}"
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
    """Return an annotation made of a label map, such as Pascal VOC's PNG with a palette.

    Args:
        labels: A file name, a PIL image, an array or a tensor with one number per pixel; 0 is background.
        names: Classes by number, as {8: "cat"}.
        size: (height, width) of the image.
        ignore: The pixel value that marks ignored pixels.
        others: Whether the label map may hold other numbers; their pixels become background.

    Raises:
        AnnotationError: see `annotation_of`; or a class has the number 0 (background) or `ignore`.
    """
    values = label_numbers(labels)
    _check_size(values, size, "label map")
    if values.dtype.kind == "f" and not np.array_equal(values, np.floor(values)):  # also true for NaN
        raise AnnotationError(
            "label map holds numbers that are not whole: expected in each pixel the number of its class"
        )
    for number in names:
        if number in (0, ignore):
            use = "the background" if number == 0 else "ignored pixels"
            raise AnnotationError(
                f"class {names[number]!r} has the number {number}, which means {use}: expected another number; if "
                f"the label map uses {ignore} for a class, give another value for `ignore`"
            )
    values = values.astype(np.int64)
    unknown = [int(v) for v in np.unique(values) if v not in (0, ignore, *names)]
    if unknown and not others:
        raise AnnotationError(
            f"label map holds {some_of(unknown)}: expected 0 for background, {ignore} for ignored pixels, and "
            f"{some_of(list(names))}; name the other numbers too, or change their pixels to an expected number"
        )
    classes = tuple(_names(names.values()))
    numbers = np.zeros(size, dtype=np.uint8)
    for position, number in enumerate(names, start=1):
        numbers[values == number] = position
    numbers[values == ignore] = IGNORE
    _check_share(numbers, "label map")
    return Annotation(numbers, classes)


def _names(masks: Iterable[str]) -> list[str]:
    names = [str(name).strip() for name in masks]
    folded = [name.casefold() for name in names]
    for name in names:
        if not name or name.startswith("<"):
            raise AnnotationError(f"class {name!r} has no valid name: expected a word or phrase, such as 'cat'")
        if folded.count(name.casefold()) > 1:
            raise AnnotationError(
                f"class {name!r} is annotated twice: expected one mask per class; join the masks into one"
            )
    if len(names) >= IGNORE:
        raise AnnotationError(f"annotation has {len(names)} classes: expected at most {IGNORE - 1}")
    return names


def _check_labels(annotation: Annotation, size: tuple[int, int]) -> None:
    """Check an annotation that the user made."""
    _check_size(annotation.labels, size, "label map")
    if annotation.labels.dtype.kind not in "iu":
        raise AnnotationError(f"label map has type {annotation.labels.dtype}: expected whole numbers")
    _names(annotation.classes)
    known = range(len(annotation.classes) + 1)
    unknown = [int(value) for value in np.unique(annotation.labels) if value not in (*known, IGNORE)]
    if unknown:
        raise AnnotationError(
            f"label map holds {some_of(unknown)}: expected 0 for background, 1 to {len(annotation.classes)} for the "
            f"classes {', '.join(annotation.classes)}, and {IGNORE} for ignored pixels"
        )
    _check_share(annotation.labels, "label map")


def _check_size(values: np.ndarray, size: tuple[int, int], what: str) -> None:
    if values.shape != size:
        raise AnnotationError(
            f"{what} is {' x '.join(map(str, values.shape))}, but the image is {size[0]} x {size[1]} (height x width): "
            "expected the same size; annotate the image at its own size"
        )


def _check_share(labels: np.ndarray, what: str) -> None:
    counted = np.unique(labels[labels != IGNORE])
    if len(counted) < 2:
        state = "empty" if not counted.any() else "full"
        raise AnnotationError(
            f"{what} is {state}: expected pixels of a class and other pixels, because a fit learns from the "
            "difference between them"
        )


def target_of(annotation: Annotation, classes: Sequence[str], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the shares of background and classes in every cell of a coarser grid, and the weight of each cell.

    Args:
        annotation: Labels at the image's size; a class that is not in `annotation.classes` has no pixels.
        classes: All classes of the fit, in order.
        size: (height, width) of the grid.

    Returns:
        Shares (1 + class, height, width), which sum to 1 in every cell with a weight above 0; and weights (height,
        width) in [0, 1], the part of each cell that is not ignored.
    """
    labels = torch.from_numpy(annotation.labels.astype(np.int64))
    number = {name: i for i, name in enumerate(annotation.classes, start=1)}
    planes = [labels == 0, *(labels == number.get(name, -1) for name in classes)]
    shares = torch.nn.functional.adaptive_avg_pool2d(torch.stack(planes).float()[None], size)[0]
    weight = shares.sum(0)
    return shares / weight.clamp(min=1e-12), weight
