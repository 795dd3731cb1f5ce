"""COCO's panoptic format: a picture whose colours are numbers of segments, and a table of the segments."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovam.dataset.exports.coco import NAMES, head_of
from ovam.dataset.exports.copying import copied
from ovam.dataset.exports.objects import Thing, things_of
from ovam.dataset.layout import Dataset
from ovam.output_files import write_bytes, write_picture


def write_panoptic(data: Dataset, folder: Path) -> None:
    """Write `annotations/panoptic_train.json`, the folder `annotations/panoptic_train` and so on, and the images.

    Each connected piece of a class is a segment, and all classes are things. Background and undecided pixels are both
    0, which COCO calls void.

    Args:
        data: The data set.
        folder: An empty folder.
    """
    for split in data.splits:
        items, name = data.of_split(split), NAMES[split]
        annotations = list[dict[str, Any]]()
        for item in items:
            things = list(things_of(item.labels(), data.about))
            copied(item.image_path, folder / name / f"{item.stem}.png")
            write_picture(folder / "annotations" / f"panoptic_{name}" / f"{item.stem}.png", _picture(things, data))
            annotation = {"image_id": item.index, "file_name": f"{item.stem}.png", "segments_info": _segments(things)}
            annotations.append(annotation)
        head = head_of(data.about, items)
        head["categories"] = [{**one, "isthing": 1} for one in head["categories"]]
        table = json.dumps({**head, "annotations": annotations})
        write_bytes(folder / "annotations" / f"panoptic_{name}.json", table.encode())


def _picture(things: list[Thing], data: Dataset) -> Image.Image:
    """Return the numbers of segments as colours: red + 256 green + 65536 blue."""
    numbers = np.zeros(data.about.size, dtype=np.uint32)
    for number, thing in enumerate(things, start=1):
        numbers[thing.mask] = number
    colours = np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16 & 255], axis=-1)
    return Image.fromarray(colours.astype(np.uint8))


def _segments(things: list[Thing]) -> list[dict[str, Any]]:
    return [
        {"id": number, "category_id": one.id, "area": one.area, "bbox": list(one.box), "iscrowd": 0}
        for number, one in enumerate(things, start=1)
    ]
