"""Read masks from annotation files with many images or classes: files of COCO and labelme."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Bool

from ovam.errors import AnnotationError
from ovam.masks.coco import polygon_mask, segmentation_mask


def is_whole_file(content: object) -> bool:
    """Return whether the content is a whole annotation file, not the mask of one object."""
    return isinstance(content, Mapping) and ("annotations" in content or "shapes" in content)


def object_mask(
    content: Mapping[str, Any], category: str, image: str | None, size: tuple[int, int], what: str
) -> Bool[np.ndarray, "height width"]:
    """Return the pixels of all objects of a category in an image.

    Args:
        content: The parsed file.
        category: Name of the category or label; upper and lower case count as the same.
        image: File name of the image; None if the file has only one image.
        size: (height, width) of the image.
        what: Name of the mask in error messages.

    Raises:
        AnnotationError: the image or the category is not in the file, the image has another size, or an object is
            damaged.
    """
    try:
        if "shapes" in content:
            return _labelme(content, category, size, what)
        return _coco(content, category, image, size, what)
    except (AttributeError, KeyError, TypeError) as error:
        raise AnnotationError(
            f"{what} is an annotation file with a missing or wrong entry ({type(error).__name__}: {error}): expected "
            "COCO's images, categories and annotations, or labelme's shapes"
        ) from error


def _coco(
    content: Mapping[str, Any], category: str, image: str | None, size: tuple[int, int], what: str
) -> Bool[np.ndarray, "height width"]:
    chosen = _image(content["images"], image, what)
    _check_size(chosen, ("height", "width"), size, what)
    names = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
    there = [entry for entry in content["annotations"] if entry["image_id"] == chosen["id"]]
    of_category = [entry for entry in there if names[entry["category_id"]].casefold() == category.casefold()]
    if not of_category:
        found = [names[entry["category_id"]] for entry in there]
        raise _without(category, chosen["file_name"], found, what)
    masks = [segmentation_mask(entry["segmentation"], size, what) for entry in of_category]
    return np.logical_or.reduce(masks)


def _image(images: Sequence[Mapping[str, Any]], name: str | None, what: str) -> Mapping[str, Any]:
    """Return the file's entry for an image, found by its name with or without extension; None means the only entry."""
    if name is None:
        if len(images) == 1:
            return images[0]
        raise AnnotationError(
            f"{what} is a file of {len(images)} images: expected the name of one image: call "
            "`masks = ovam.masks.annotations.annotation_of(..., image='name.jpg')`, and pass `masks` to the function "
            "that you called"
        )
    path = PurePosixPath(name)
    for part in ("name", "stem"):
        fitting = [each for each in images if getattr(PurePosixPath(each["file_name"]), part) == getattr(path, part)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise AnnotationError(
                f"{what} has {len(fitting)} images named {path.name!r}: expected one; leave the others out of the file"
            )
    raise AnnotationError(
        f"{what} has no image {path.name!r} among its {len(images)}: expected one of "
        f"{_some([str(each['file_name']) for each in images])}"
    )


def _labelme(
    content: Mapping[str, Any], category: str, size: tuple[int, int], what: str
) -> Bool[np.ndarray, "height width"]:
    _check_size(content, ("imageHeight", "imageWidth"), size, what)
    of_category = [shape for shape in content["shapes"] if str(shape["label"]).casefold() == category.casefold()]
    if not of_category:
        raise _without(category, content.get("imagePath"), [str(shape["label"]) for shape in content["shapes"]], what)
    return polygon_mask([_outline(shape, what) for shape in of_category], size)


def _outline(shape: Mapping[str, Any], what: str) -> list[Any]:
    kind, points = shape.get("shape_type", "polygon"), [list(point) for point in shape["points"]]
    if kind == "rectangle" and len(points) == 2 and all(len(point) == 2 for point in points):
        (left, top), (right, bottom) = points
        points = [[left, top], [right, top], [right, bottom], [left, bottom]]
    elif kind != "polygon":
        raise AnnotationError(f"{what} has a shape of type {kind!r}: expected polygons and rectangles")
    return [value for point in points for value in point]


def _check_size(entry: Mapping[str, Any], sides: tuple[str, str], size: tuple[int, int], what: str) -> None:
    stored = tuple(entry.get(side) for side in sides)
    if None not in stored and stored != size:
        raise AnnotationError(
            f"{what} is for an image of {stored[0]} x {stored[1]}, but the image is {size[0]} x {size[1]} (height x "
            "width): expected the same size; annotate the image at its own size"
        )


def _without(category: str, image: object, there: Sequence[str], what: str) -> AnnotationError:
    found = _some(sorted(set(there))) if there else "no object"
    return AnnotationError(f"{what} has no object {category!r} in {image!r}: expected at least one; there is {found}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
