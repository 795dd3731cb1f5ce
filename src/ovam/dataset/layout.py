"""The folder of a labelled data set: names of its files, what they hold, and how they are read.

This is the one module that knows the names. `recipe.toml`, `dataset.json`, `manifest*.jsonl`, `items/000123.json`,
`images/000123.png`, `masks/000123.png`, `metadata.jsonl`, `README.md`, `contact-sheet.png`, `inputs/`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ovam.dataset.classes import ClassEntry
from ovam.dataset.schema import ABOUT_FILE, FORMAT, ITEM_FILE, ROW
from ovam.errors import DatasetError
from ovam.header import Check
from ovam.json_text import parsed, read_json
from ovam.masks.mask_like import IGNORE

ABOUT, RECIPE, METADATA, CARD, SHEET = "dataset.json", "recipe.toml", "metadata.jsonl", "README.md", "contact-sheet.png"
ITEMS, IMAGES, MASKS, INPUTS = "items", "images", "masks", "inputs"
_DIGITS = 6
_ITEM = re.compile(r"\d{6,}\.json")


@dataclass(frozen=True)
class About:
    """What `dataset.json` tells.

    Attributes:
        name: Name of the data set.
        version: Version of ovam that made it.
        model: `name` and `hash` of the model.
        recipe: Hash of the recipe.
        classes: Classes with their numbers in masks.
        tokens: SHA-256 of the file of tokens of each class that has one.
        size: (height, width) of all images.
        licence: Licence, or "".
        view: Of a view, what it is a choice of.
    """

    name: str
    version: str
    model: Mapping[str, str]
    recipe: str
    classes: tuple[ClassEntry, ...]
    tokens: Mapping[str, str]
    size: tuple[int, int]
    licence: str = ""
    view: Mapping[str, Any] | None = None

    @property
    def ids(self) -> dict[str, int]:
        """Number of each class in masks."""
        return {one.name: one.id for one in self.classes}

    def json(self) -> dict[str, Any]:
        """Return the content of `dataset.json`."""
        classes = [{**one.table(), "tokens": self.tokens.get(one.name)} for one in self.classes]
        told = {
            "format": FORMAT,
            "name": self.name,
            "ovam": self.version,
            "model": dict(self.model),
            "recipe": self.recipe,
            "classes": classes,
            "ignore": IGNORE,
            "size": list(self.size),
            "licence": self.licence,
        }
        return told if self.view is None else {**told, "view": dict(self.view)}


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

        What there is of each class is a list in the order of `classes`, so that all lines have the same columns.
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


@dataclass(frozen=True)
class Dataset:
    """A labelled data set.

    Attributes:
        folder: Its folder.
        about: What `dataset.json` tells.
        items: Its items, in the order of their numbers.
    """

    folder: Path
    about: About
    items: tuple[Item, ...]

    def of_split(self, split: str) -> tuple[Item, ...]:
        """Return the items of a split."""
        return tuple(item for item in self.items if item.split == split)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have items: train, validation, test."""
        there = {item.split for item in self.items}
        return tuple(split for split in ("train", "validation", "test") if split in there)


def read(folder: str | Path) -> Dataset:
    """Read a data set, or a view of one.

    Splits are those of `metadata.jsonl`, if that is there: near duplicates share one.

    Raises:
        DatasetError: the folder is no data set, or a file of it is damaged or names a file outside of the folder.
    """
    folder = Path(folder)
    about = read_about(folder)
    splits = _splits(folder)
    items = [read_item(folder, path.name) for path in item_files(folder)]
    placed = [_placed(item, splits.get(item.index)) for item in items]
    return Dataset(folder, about, tuple(sorted(placed, key=lambda item: item.index)))


def _placed(item: Item, split: str | None) -> Item:
    return item if split in (None, item.split) else Item(**{**item.__dict__, "split": split})


def read_about(folder: Path) -> About:
    """Read `dataset.json`.

    Raises:
        DatasetError: it is missing, damaged, or of a newer format.
    """
    path = folder / ABOUT
    try:
        told = read_json(path)
    except OSError as error:
        raise DatasetError(
            f"{folder} is no data set ({ABOUT} can't be read: {error.strerror or error}): expected a folder that "
            "`ovam dataset generate` wrote"
        ) from error
    except ValueError as error:
        raise DatasetError(f"{path} is damaged ({error}): expected what `ovam dataset generate` wrote") from error
    if isinstance(told, dict) and isinstance(told.get("format"), int) and told["format"] > FORMAT:
        raise DatasetError(f"{path} is of format {told['format']}, newer than {FORMAT}: update ovam")
    _checked(told, ABOUT_FILE, path)
    if told["ignore"] != IGNORE:
        raise DatasetError(f"{path}: ignore={told['ignore']}: expected {IGNORE}, as in all data sets of ovam")
    classes = tuple(ClassEntry(**{n: one[n] for n in ("name", "id", "words", "against")}) for one in told["classes"])
    tokens = {one["name"]: one["tokens"] for one in told["classes"] if one.get("tokens")}
    return About(
        told["name"],
        told["ovam"],
        told["model"],
        told["recipe"],
        classes,
        tokens,
        (told["size"][0], told["size"][1]),
        told.get("licence", ""),
        told.get("view"),
    )


def read_item(folder: Path, name: str) -> Item:
    """Read one of the files in `items/`.

    Raises:
        DatasetError: it is damaged, or names a file outside of the folder.
    """
    path = folder / ITEMS / name
    try:
        told = read_json(path)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{path} is damaged ({error}): expected an item; delete this file and generate again, which makes it anew"
        ) from error
    _checked(told, ITEM_FILE, path)
    if name != f"{stem_of(told['index'])}.json":
        raise DatasetError(f"{path} tells of item {told['index']}: expected the item of its own name")
    image, mask = told["image"], told["mask"]
    return Item(
        folder,
        told["index"],
        told["unit"],
        told["seed"],
        told["prompt"],
        tuple(told["classes"]),
        told["split"],
        checked_name(image["file"], path),
        image["sha256"],
        checked_name(mask["file"], path),
        mask["sha256"],
        told["areas"],
        told["ignored"],
        told["scores"],
        told["hash"],
    )


def item_files(folder: Path) -> list[Path]:
    """Return the files of all items that are done, sorted by number."""
    found = [path for path in (folder / ITEMS).glob("*.json") if _ITEM.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.stem))


def stem_of(index: int) -> str:
    """Return the name of an item's files, without the ending."""
    return f"{index:0{_DIGITS}d}"


def checked_name(name: str, where: str | Path) -> str:
    """Return a file's name that stands in a file, if it stays inside the folder.

    Raises:
        DatasetError: it is absolute, has `..` or a backslash, or is empty.
    """
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    odd = not parts or ".." in parts or parts[0] == "/" or "\\" in name or "\0" in name or ":" in parts[0]
    if odd:
        raise DatasetError(f"{where} names the file {name!r}: expected a relative name inside the folder, without '..'")
    return name


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


def rows_of(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of `metadata.jsonl`, or none if it is missing.

    Raises:
        DatasetError: a line is damaged, or names a file outside of the folder.
    """
    path = folder / METADATA
    if not path.is_file():
        return
    for place, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        where = f"{path}, line {place}"
        try:
            row = parsed(line)
        except ValueError as error:
            raise DatasetError(f"{where} is damaged ({error}): delete {METADATA} and generate again") from error
        try:
            ROW(row, "the line")
        except ValueError as error:
            raise DatasetError(f"{where}: {error}") from error
        checked_name(row["file_name"], where)
        checked_name(row["mask_file_name"], where)
        yield row


def rows_text(items: Iterator[Item] | tuple[Item, ...], ids: Mapping[str, int]) -> str:
    """Return the content of `metadata.jsonl`."""
    return "".join(json.dumps(item.row(ids), ensure_ascii=False) + "\n" for item in items)


def _splits(folder: Path) -> dict[int, str]:
    return {row["index"]: row["split"] for row in rows_of(folder)}


def _checked(told: Any, check: Check, path: Path) -> None:
    try:
        check(told, path.name)
    except ValueError as error:
        raise DatasetError(f"{path} is damaged: {error}") from error
