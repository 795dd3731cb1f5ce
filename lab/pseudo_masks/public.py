"""Public benchmarks as their folders lie: Pascal VOC 2012, and ImageNet-Segmentation as ConceptAttention unpacks it."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ovam.errors import DatasetError
from ovam.train.classes import IGNORE
from ovam.train.files import read_mask, read_picture, size_of
from ovam.train.folder import read_labelled

_TABLE, _IMAGES, _MASKS = "data.csv", "images", "segmentation_masks"
_NAME = "simplified_name"


@dataclass(frozen=True)
class Item:
    """One annotated picture.

    Attributes:
        picture: Its file.
        mask: The file of its mask.
        words: What to ask for each number of the mask.
        binary: Whether every number but 0 is the one class.
    """

    picture: Path
    mask: Path
    words: Mapping[int, str]
    binary: bool = False

    def read(self) -> tuple[Image.Image, np.ndarray]:
        """The picture, and its labels (height, width) uint8: numbers of `words`, 0, or 255 for pixels left open.

        Raises:
            DatasetError: a file can't be read, the sizes differ, or the mask holds the number of no class.
        """
        picture, labels = read_picture(self.picture), read_mask(self.mask)
        if self.binary:
            labels = (labels > 0).astype(np.uint8)
        if labels.shape != (picture.height, picture.width):
            raise DatasetError(
                f"mask {self.mask} is {labels.shape[0]} x {labels.shape[1]} pixels, its picture {picture.height} x "
                f"{picture.width}: expected the same size"
            )
        stray = sorted(set(np.unique(labels).tolist()) - {0, IGNORE, *self.words})
        if stray:
            raise DatasetError(
                f"mask {self.mask} holds {', '.join(map(str, stray[:10]))}, the number of no class: expected 0, "
                f"{IGNORE}, and {min(self.words)} to {max(self.words)}"
            )
        return picture, labels


def is_imagenet_segmentation(folder: Path) -> bool:
    """Whether a folder is laid out as ConceptAttention's script unpacks `gtsegs_ijcv.mat`."""
    return (folder / _TABLE).is_file() and (folder / _MASKS).is_dir()


def imagenet_segmentation(folder: Path) -> list[Item]:
    """The pictures of ImageNet-Segmentation (Guillaumin et al., IJCV 2014), one class each.

    Args:
        folder: With `data.csv`, whose column `simplified_name` has the word of each picture; `images/0.png` and so on;
            and `segmentation_masks/0.png` and so on.

    Raises:
        DatasetError: the table can't be read, has no such column or an empty word; a file is missing; a mask and its
            picture differ in size.
    """
    table = folder / _TABLE
    try:
        with table.open(encoding="utf-8", newline="") as stream:
            names = [(line.get(_NAME) or "").strip() for line in csv.DictReader(stream)]
    except (OSError, ValueError, csv.Error) as error:
        raise DatasetError(f"{table} can't be read ({error}): expected a CSV file with the column {_NAME}") from error
    if not names or not all(names):
        raise DatasetError(
            f"{table} has {names.count('')} of {len(names)} lines without {_NAME}: expected a word for each picture"
        )
    items = []
    for number, name in enumerate(names):
        item = Item(folder / _IMAGES / f"{number}.png", folder / _MASKS / f"{number}.png", {1: name}, binary=True)
        for file in (item.picture, item.mask):
            if not file.is_file():
                raise DatasetError(f"{file} is not there: expected a picture and a mask for each line of {table}")
        _check_size(item)
        items.append(item)
    return items


def pascal_voc(folder: Path, words: Mapping[int, str]) -> list[Item]:
    """The validation pictures of Pascal VOC, or of a folder with the same numbers.

    Args:
        folder: `VOCdevkit`, `VOC2012` or what holds them.
        words: What to ask for each number.

    Raises:
        DatasetError: see `ovam.train.read_labelled`; or a class has no word; or a mask and its picture differ in size.
    """
    found = read_labelled(folder, "val")
    strange = [f"{number} {name}" for number, name in found.classes.items() if number not in words]
    if strange:
        raise DatasetError(
            f"data set {folder} has the classes {', '.join(strange[:5])}, which this protocol has no words for: "
            f"expected Pascal VOC's, {min(words)} to {max(words)}; measure other classes without --protocol"
        )
    items = [Item(picture, mask, words) for picture, mask in found.pairs]
    for item in items:
        _check_size(item)
    return items


def _check_size(item: Item) -> None:
    """Look at the headers alone."""
    size, other = size_of(item.picture), size_of(item.mask)
    if size != other:
        raise DatasetError(
            f"mask {item.mask} is {other[0]} x {other[1]} pixels, its picture {size[0]} x {size[1]}: expected the same "
            "size"
        )


def single(labels: np.ndarray) -> int | None:
    """The number of the only class of a picture; None where there are none or several."""
    there: Sequence[int] = sorted(set(np.unique(labels).tolist()) - {0, IGNORE})
    return there[0] if len(there) == 1 else None
