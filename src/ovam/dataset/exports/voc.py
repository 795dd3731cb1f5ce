"""Pascal VOC: JPEG images, masks of classes and of objects with its palette, boxes, lists of splits."""

from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from ovam.dataset.about import About
from ovam.dataset.exports.copying import copied
from ovam.dataset.exports.objects import Thing, things_of
from ovam.dataset.item import Item
from ovam.dataset.layout import Dataset
from ovam.masks.mask_like import IGNORE
from ovam.output_files import write_bytes, write_picture
from ovam.pictures import palette_png

NAMES = {"train": "train", "validation": "val", "test": "test"}
"""Names of the splits in Pascal VOC."""

_QUALITY = 95
_MOST = IGNORE - 1  # objects that a mask of 8 bits can tell apart


def write_voc(data: Dataset, folder: Path) -> None:
    """Write a data set as Pascal VOC has it.

    Its readers expect JPEG, so images are written anew, at quality 95. Masks of classes are the same bytes as in the
    data set. In masks of objects, the 255th object and further ones of an image are undecided.

    Args:
        data: The data set.
        folder: An empty folder.
    """
    lists: dict[str, list[str]] = {name: [] for name in (*NAMES.values(), "trainval")}
    for item in data.items:
        labels = item.labels()
        things = list(things_of(labels, data.about))
        place = folder / "JPEGImages" / f"{item.stem}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        item.picture().save(place, "JPEG", quality=_QUALITY, subsampling=0)
        copied(item.mask_path, folder / "SegmentationClass" / f"{item.stem}.png")
        write_picture(folder / "SegmentationObject" / f"{item.stem}.png", palette_png(_objects(labels, things)))
        write_bytes(folder / "Annotations" / f"{item.stem}.xml", _xml(item, things, data.about).encode())
        lists[NAMES[item.split]].append(item.stem)
        if item.split != "test":
            lists["trainval"].append(item.stem)
    for name, stems in lists.items():
        if stems:
            write_bytes(
                folder / "ImageSets" / "Segmentation" / f"{name}.txt", "".join(f"{s}\n" for s in stems).encode()
            )
    classes = [(0, "background"), *((one.id, one.name) for one in data.about.classes), (IGNORE, "undecided")]
    write_bytes(folder / "labels.txt", "".join(f"{number} {name}\n" for number, name in classes).encode())


def _objects(labels: np.ndarray, things: list[Thing]) -> np.ndarray:
    found = np.where(labels == IGNORE, IGNORE, 0).astype(np.uint8)
    for number, thing in enumerate(things, start=1):
        found[thing.mask] = number if number <= _MOST else IGNORE
    return found


def _xml(item: Item, things: list[Thing], about: About) -> str:
    height, width = about.size
    objects = "".join(_object(thing) for thing in things)
    return (
        f"<annotation>\n\t<folder>{escape(about.name)}</folder>\n\t<filename>{item.stem}.jpg</filename>\n"
        f"\t<size>\n\t\t<width>{width}</width>\n\t\t<height>{height}</height>\n\t\t<depth>3</depth>\n\t</size>\n"
        f"\t<segmented>1</segmented>\n{objects}</annotation>\n"
    )


def _object(thing: Thing) -> str:
    """Return an object; in Pascal VOC the upper left pixel is (1, 1)."""
    x, y, width, height = thing.box
    corners = (("xmin", x + 1), ("ymin", y + 1), ("xmax", x + width), ("ymax", y + height))
    box = "".join(f"\t\t\t<{name}>{value}</{name}>\n" for name, value in corners)
    return (
        f"\t<object>\n\t\t<name>{escape(thing.name)}</name>\n\t\t<difficult>0</difficult>\n"
        f"\t\t<bndbox>\n{box}\t\t</bndbox>\n\t</object>\n"
    )
