"""One image of a data set with its mask, and how its own file and its mask are read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ovam.dataset.names import ITEMS, checked_name, stem_of
from ovam.dataset.schema import ITEM_FILE
from ovam.errors import DatasetError
from ovam.json_text import read_json


class DamagedItemError(DatasetError):
    """An item's own file does not hold an item."""


@dataclass(frozen=True)
class Item:
    """One image with its mask.

    Attributes:
        folder: Folder of the data set.
        index: Number of the item.
        unit: Number of the batch that it was generated in.
        seed: Seed of its noise.
        prompt: Its prompt.
        classes: Classes that the prompt names.
        split: train, validation or test.
        image: Name of the image's file.
        image_sha256: Hash of that file.
        mask: Name of the mask's file.
        mask_sha256: Hash of that file.
        areas: Share of the pixels of each class of the prompt.
        ignored: Share of the undecided pixels.
        scores: Scores for filters: numbers, or numbers by class.
        hash: Perceptual hash of the image, 32 hexadecimal digits.
    """

    folder: Path
    index: int
    unit: int
    seed: int
    prompt: str
    classes: tuple[str, ...]
    split: str
    image: str
    image_sha256: str
    mask: str
    mask_sha256: str
    areas: Mapping[str, float]
    ignored: float
    scores: Mapping[str, Any]
    hash: str

    @property
    def stem(self) -> str:
        """Name of the item's files, without the ending."""
        return stem_of(self.index)

    @property
    def image_path(self) -> Path:
        """The image's file: RGB."""
        return self.folder / self.image

    @property
    def mask_path(self) -> Path:
        """The mask's file: a palette PNG whose pixels are numbers of classes, 0 background, 255 undecided."""
        return self.folder / self.mask

    @property
    def whole(self) -> bool:
        """Whether both of its files are there."""
        return self.image_path.is_file() and self.mask_path.is_file()

    def picture(self) -> Image.Image:
        """Return the image, RGB.

        Raises:
            DatasetError: it can't be read.
        """
        try:
            with Image.open(self.image_path, formats=["PNG"]) as picture:
                return picture.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DatasetError(
                f"{self.image_path} can't be read ({error}): expected a picture; delete it and generate again, which "
                "makes it anew"
            ) from error

    def labels(self) -> UInt8[np.ndarray, "height width"]:
        """Return the numbers of the mask's pixels.

        Raises:
            DatasetError: the mask can't be read, or is no palette PNG.
        """
        return read_labels(self.mask_path)

    def json(self) -> dict[str, Any]:
        """Return the content of the item's own file."""
        return {
            "index": self.index,
            "unit": self.unit,
            "seed": self.seed,
            "prompt": self.prompt,
            "classes": list(self.classes),
            "split": self.split,
            "image": {"file": self.image, "sha256": self.image_sha256},
            "mask": {"file": self.mask, "sha256": self.mask_sha256},
            "areas": dict(self.areas),
            "ignored": self.ignored,
            "scores": dict(self.scores),
            "hash": self.hash,
        }

    def row(self, ids: Mapping[str, int]) -> dict[str, Any]:
        """Return the item's line of `metadata.jsonl`: flat, with one column for each score.

        Values for each class are stored as a list in the order of `classes`, so that all lines have the same columns.
        """
        by_class = {name: value for name, value in self.scores.items() if isinstance(value, Mapping)}
        return {
            "file_name": self.image,
            "mask_file_name": self.mask,
            "split": self.split,
            "index": self.index,
            "prompt": self.prompt,
            "seed": self.seed,
            "classes": list(self.classes),
            "class_ids": [ids[name] for name in self.classes],
            "areas": [self.areas[name] for name in self.classes],
            "ignored": self.ignored,
            **{name: [float(value[one]) for one in self.classes] for name, value in by_class.items()},
            **{name: float(value) for name, value in self.scores.items() if name not in by_class},
        }


def read_item(folder: Path, name: str) -> Item:
    """Read one of the files in `items/`.

    Raises:
        DamagedItemError: its content is not that of an item.
        DatasetError: it can't be read, or names a file outside of the folder.
    """
    path = folder / ITEMS / name
    try:
        content = read_json(path)
        ITEM_FILE(content, path.name)
    except OSError as error:
        raise DatasetError(f"{path} can't be read ({error.strerror or error}): expected an item's file") from error
    except ValueError as error:
        raise DamagedItemError(
            f"{path} is damaged ({error}): expected an item; delete this file and generate again, which makes it anew"
        ) from error
    if name != f"{stem_of(content['index'])}.json":
        raise DamagedItemError(
            f"{path} describes item {content['index']}: expected the item that the file is named after"
        )
    image, mask = content["image"], content["mask"]
    return Item(
        folder,
        content["index"],
        content["unit"],
        content["seed"],
        content["prompt"],
        tuple(content["classes"]),
        content["split"],
        checked_name(image["file"], path),
        image["sha256"],
        checked_name(mask["file"], path),
        mask["sha256"],
        content["areas"],
        content["ignored"],
        content["scores"],
        content["hash"],
    )


def misfit(item: Item, ids: Mapping[str, int]) -> str:
    """Return what is wrong with an item's classes, or with areas and scores by class; "" if nothing is.

    Args:
        item: The item.
        ids: Number of each class of the data set.
    """
    unknown = [name for name in item.classes if name not in ids]
    if unknown:
        return f"item {item.index} has the class {unknown[0]!r}: expected some of {', '.join(ids)}"
    by_class = {"areas": item.areas, **{n: v for n, v in item.scores.items() if isinstance(v, Mapping)}}
    for name, values in by_class.items():
        if set(values) != set(item.classes):
            return (
                f"item {item.index} has {name} of {', '.join(values) or 'no class'}: expected {', '.join(item.classes)}"
            )
    return ""


def check_fit(items: Iterable[Item], ids: Mapping[str, int]) -> None:
    """Check that items fit the classes of their data set.

    Raises:
        DatasetError: one does not; see `misfit`.
    """
    for item in items:
        if problem := misfit(item, ids):
            raise DatasetError(
                f"{item.folder}: {problem}; delete the item's file and generate again, which makes it anew"
            )


def read_labels(path: Path) -> UInt8[np.ndarray, "height width"]:
    """Return the numbers of a mask's pixels.

    Raises:
        DatasetError: the file can't be read, or is no palette PNG.
    """
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.mode != "P":
                raise ValueError(f"its mode is {picture.mode}")
            return np.array(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(
            f"mask {path} can't be read ({error}): expected a palette PNG, whose pixels are numbers of classes"
        ) from error
