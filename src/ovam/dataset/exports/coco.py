"""COCO: instances as run lengths, one table for each split."""

import json
from pathlib import Path
from typing import Any

from ovam.dataset.about import About
from ovam.dataset.exports.copying import copied
from ovam.dataset.exports.objects import things_of
from ovam.dataset.item import Item
from ovam.dataset.layout import Dataset
from ovam.masks.run_lengths import rle_of
from ovam.output_files import write_bytes

NAMES = {"train": "train", "validation": "val", "test": "test"}
"""Names of the splits in COCO."""


def write_coco(data: Dataset, folder: Path) -> None:
    """Write `annotations/instances_train.json` and so on, and the images in a folder for each split.

    Each connected piece of a class is an instance. Undecided pixels, which COCO does not have, are background.

    Args:
        data: The data set.
        folder: An empty folder.
    """
    for split in data.splits:
        items = data.of_split(split)
        annotations = list[dict[str, Any]]()
        for item in items:
            copied(item.image_path, folder / NAMES[split] / f"{item.stem}.png")
            annotations += _annotations(item, data.about, len(annotations))
        table = {**head_of(data.about, items), "annotations": annotations}
        write_bytes(folder / "annotations" / f"instances_{NAMES[split]}.json", json.dumps(table).encode())


def head_of(about: About, items: tuple[Item, ...]) -> dict[str, Any]:
    """Return what COCO's tables have besides annotations; a class keeps its number."""
    height, width = about.size
    return {
        "info": {"description": about.name, "version": about.recipe},
        "licenses": [{"id": 1, "name": about.licence or "not stated", "url": ""}],
        "images": [
            {"id": item.index, "file_name": f"{item.stem}.png", "height": height, "width": width, "license": 1}
            for item in items
        ],
        "categories": [{"id": one.id, "name": one.name, "supercategory": one.name} for one in about.classes],
    }


def _annotations(item: Item, about: About, before: int) -> list[dict[str, Any]]:
    return [
        {
            "id": number,
            "image_id": item.index,
            "category_id": thing.id,
            "segmentation": rle_of(thing.mask),
            "area": thing.area,
            "bbox": list(thing.box),
            "iscrowd": 0,
        }
        for number, thing in enumerate(things_of(item.labels(), about), start=before + 1)
    ]
