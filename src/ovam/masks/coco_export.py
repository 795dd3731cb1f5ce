"""Write objects in COCO's JSON format."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from ovam.checks import integer, number
from ovam.errors import OptionError
from ovam.masks.instances import Instance

Form = Literal["rle", "polygons"]
"""Format of the masks in COCO's annotations: run lengths or polygons."""


def coco_of(
    instances: Sequence[Instance],
    words: Sequence[str],
    size: tuple[int, int],
    *,
    file_name: str = "image.png",
    image_id: int = 1,
    categories: Mapping[str, int] | None = None,
    form: Form = "rle",
    tolerance: float | int = 1.0,
) -> dict[str, Any]:
    """Return a full COCO dictionary of one image: `images`, `categories`, `annotations`.

    Args:
        instances: The objects; each becomes an annotation with its score.
        words: The words; each becomes a category, even if it has no object.
        size: (height, width) of the image.
        file_name: Name of the image's file.
        image_id: Id of the image.
        categories: Id of each word; gaps are allowed, as in COCO's own ids. By default 1, 2, ...
        form: "rle" writes the masks themselves as run lengths; "polygons" writes their outlines.
        tolerance: Tolerance of the outlines, in pixels; see `ovam.masks.outlines.polygons_of`.

    Returns:
        Only types that JSON has. `bbox` and `area` describe the mask itself, even if the outlines are polygons with
        fewer corners. The ids of the annotations are 1, 2, ...

    Raises:
        OptionError: the form is unknown; an id is not a whole number; two words have the same id; a word has no id;
            or the tolerance is not a number of at least 0.
    """
    if form not in get_args(Form):
        raise OptionError(f"form={form!r}: expected one of {', '.join(map(repr, get_args(Form)))}")
    if integer(image_id) is None:
        raise OptionError(f"image_id={image_id!r}: expected a whole number")
    number("tolerance", tolerance, least=0.0)
    ids = _ids(words, categories)
    annotations = [
        {
            "id": place,
            "image_id": image_id,
            "category_id": ids[one.word],
            "segmentation": one.rle() if form == "rle" else [p.coco() for p in one.polygons(tolerance=tolerance)],
            "area": one.area,
            "bbox": list(one.box_xywh),
            "iscrowd": 0,
            "score": one.score,
        }
        for place, one in enumerate(instances, start=1)
    ]
    height, width = size
    return {
        "images": [{"id": image_id, "file_name": file_name, "height": height, "width": width}],
        "categories": [{"id": ids[word], "name": word} for word in words],
        "annotations": annotations,
    }


def _ids(words: Sequence[str], categories: Mapping[str, int] | None) -> dict[str, int]:
    if categories is None:
        return {word: place for place, word in enumerate(words, start=1)}
    absent = [word for word in words if word not in categories]
    if absent:
        raise OptionError(f"categories have no id for {', '.join(map(repr, absent[:5]))}: expected one for each word")
    ids = {word: integer(categories[word]) for word in words}
    known = {word: place for word, place in ids.items() if place is not None}
    if len(known) < len(ids) or len(set(known.values())) < len(known):
        raise OptionError(f"categories={dict(categories)!r}: expected a whole number for each word, no number twice")
    return known
