"""YOLO's segmentation format: outlines as text, in shares of the image's size."""

import json
from pathlib import Path

from ovam.dataset.about import About
from ovam.dataset.exports.copying import copied
from ovam.dataset.item import Item
from ovam.dataset.layout import Dataset
from ovam.masks.outlines import polygons_of
from ovam.output_files import write_bytes


def write_yolo(data: Dataset, folder: Path) -> None:
    """Write `data.yaml`, `images/train/` and `labels/train/` and so on.

    Classes are numbered from 0, in their order. Outlines follow the edges of the pixels; a line goes from the outline
    to each hole and back. Undecided pixels are background here.

    Args:
        data: The data set.
        folder: An empty folder.
    """
    for item in data.items:
        copied(item.image_path, folder / "images" / item.split / f"{item.stem}.png")
        write_bytes(folder / "labels" / item.split / f"{item.stem}.txt", _lines(item, data.about).encode())
    splits = data.splits
    validation = "validation" if "validation" in splits else splits[0]
    lines = [f"train: images/{splits[0]}", f"val: images/{validation}"]  # without path, the file's own folder counts
    lines += ["test: images/test"] if "test" in splits else []
    names = [f"  {number}: {json.dumps(one.name, ensure_ascii=False)}" for number, one in enumerate(data.about.classes)]
    write_bytes(folder / "data.yaml", "\n".join([*lines, "names:", *names, ""]).encode())


def _lines(item: Item, about: About) -> str:
    labels, (height, width) = item.labels(), about.size
    lines = list[str]()
    for number, one in enumerate(about.classes):
        for polygon in polygons_of(labels == one.id, tolerance=0):
            points = polygon.ring() / (width, height)
            lines.append(" ".join([str(number), *(f"{value:.6g}" for value in points.ravel())]))
    return "".join(f"{line}\n" for line in lines)
