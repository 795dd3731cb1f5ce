"""Data sets that can be trained on: this project's, Pascal VOC's, and the scenes of `ovam mini scenes`.

All code reads data sets with `read_labelled`: for every layout it returns pairs of files, and the names of the ids.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ovam.dataset.layout import check_finished, read
from ovam.dataset.names import ABOUT, checked_name
from ovam.errors import DatasetError
from ovam.json_text import read_json
from ovam.voc_names import VOC

Part = Literal["train", "val"]
_NAMES: dict[Part, tuple[str, ...]] = {"train": ("train",), "val": ("val", "validation")}
_OTHER_SPLITS = ("val", "validation", "test")
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True)
class Labelled:
    """A data set: pictures, each with its mask.

    Attributes:
        folder: As given.
        layout: What kind of folder it is.
        classes: Names by id, without the background.
        pairs: Picture and mask of each item, in the data set's order.
        split: Name of the part that was read; None where the folder has no parts.
    """

    folder: Path
    layout: str
    classes: Mapping[int, str]
    pairs: tuple[tuple[Path, Path], ...]
    split: str | None = None


def read_labelled(folder: str | Path, part: Part) -> Labelled:
    """Find the pictures and masks of a folder; none of them is opened.

    Args:
        folder: A data set of `ovam dataset`, a folder with `JPEGImages` and `SegmentationClass` (or `VOCdevkit` around
            it), or one with `images`, `labels` and `names.json`.
        part: "train" or "val". If the data set has parts, the one of that name is read. If it has no validation part,
            "val" reads all of it.

    Raises:
        DatasetError: the folder has none of these layouts, has no pictures of that part, has a picture without a mask,
            or is a data set of ovam whose run is not finished.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"data set {folder} is not there, or no folder: expected the folder of a data set")
    voc = _voc_root(folder)
    if (folder / ABOUT).is_file():
        labelled = _own(folder, part)
    elif voc is not None:
        labelled = _voc(folder, voc, part)
    elif (folder / "names.json").is_file() and (folder / "labels").is_dir():
        labelled = _scenes(folder)
    else:
        raise DatasetError(
            f"data set {folder} has none of the known layouts: expected dataset.json with images/ and masks/, as in "
            "`ovam dataset`; JPEGImages/ and SegmentationClass/, as in Pascal VOC; or images/, labels/ and names.json"
        )
    return _checked(labelled, part)


def _checked(found: Labelled, part: Part) -> Labelled:
    if not found.pairs:
        raise DatasetError(f"data set {found.folder} has no pictures for {part!r}: expected at least one with its mask")
    lacking = [file.name for pair in found.pairs for file in pair[1:] if not file.is_file()]
    gone = [file.name for file, _ in found.pairs if not file.is_file()]
    for names, what in ((lacking, "masks"), (gone, "pictures")):
        if names:
            raise DatasetError(
                f"data set {found.folder} lacks {len(names)} of {len(found.pairs)} {what}, first {names[0]}: "
                "expected a picture and a mask for each item; copy it again, or take the item out of its list"
            )
    return found


def _own(folder: Path, part: Part) -> Labelled:
    """Read a data set of this project, or a view of one."""
    found = read(folder)
    check_finished(found)
    split = next((name for name in _NAMES[part] if name in found.splits), "train" if part == "train" else None)
    items = found.items if split is None else found.of_split(split)
    classes = {number: name for name, number in found.about.ids.items()}
    return Labelled(folder, "ovam", classes, tuple((item.image_path, item.mask_path) for item in items), split)


def _voc_root(folder: Path) -> Path | None:
    """The folder with `JPEGImages` and `SegmentationClass`: this one, or the newest one inside `VOCdevkit`."""
    within = (
        folder,
        *sorted(folder.glob("VOC20*"), reverse=True),
        *sorted(folder.glob("VOCdevkit/VOC20*"), reverse=True),
    )
    return next((each for each in within if (each / "SegmentationClass").is_dir()), None)


def _voc(folder: Path, root: Path, part: Part) -> Labelled:
    lists = root / "ImageSets" / "Segmentation"
    split = next((name for name in _NAMES[part] if (lists / f"{name}.txt").is_file()), None)
    masks = sorted((root / "SegmentationClass").glob("*.png"))
    held = {name for one in _OTHER_SPLITS if (file := lists / f"{one}.txt").is_file() for name in _text(file).split()}
    if split is None and part == "train" and held:
        split, masks = "train", [mask for mask in masks if mask.stem not in held]
    elif split is not None:
        names = _text(lists / f"{split}.txt").split()
        masks = [root / "SegmentationClass" / checked_name(f"{name}.png", lists / f"{split}.txt") for name in names]
    pairs = tuple((_picture(root / "JPEGImages", mask.stem), mask) for mask in masks)
    return Labelled(folder, "Pascal VOC", _named(root) or VOC, pairs, split)


def _named(root: Path) -> dict[int, str]:
    """Names by id of a folder of other classes; empty where no file tells them.

    `labels.txt` has lines such as `18 dog`, as exports of `ovam dataset` do; `labelmap.txt` lists names by rising id,
    as annotation tools do.
    """
    listed, numbered = root / "labelmap.txt", root / "labels.txt"
    if numbered.is_file():
        pairs = [line.split(maxsplit=1) for line in _lines(numbered)]
        try:
            return {int(number): name for number, name in pairs if int(number) not in (0, 255)}
        except ValueError as error:
            raise DatasetError(f"{numbered} can't be read ({error}): expected lines such as '18 dog'") from error
    names = [line.split(":")[0].strip() for line in (_lines(listed) if listed.is_file() else ())]
    return {i: name for i, name in enumerate(names) if i}


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in _text(path).splitlines() if line.strip() and line[0] != "#"]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise DatasetError(f"{path} can't be read ({reason}): expected the text file of a data set") from error


def _scenes(folder: Path) -> Labelled:
    names = _json(folder / "names.json").get("labels", {})
    if not isinstance(names, dict) or not all(key.isdecimal() for key in names):
        raise DatasetError(
            f'{folder / "names.json"}: labels={str(names)[:60]}: expected names by id, such as {{"18": "dog"}}'
        )
    classes = {int(i): str(name) for i, name in names.items() if i not in ("0", "255")}
    masks = sorted((folder / "labels").glob("*.png"))
    return Labelled(folder, "scenes", classes, tuple((_picture(folder / "images", mask.stem), mask) for mask in masks))


def _picture(folder: Path, stem: str) -> Path:
    """The picture of that name, whatever its kind."""
    found = (folder / f"{stem}{ending}" for ending in _PICTURES)
    return next((file for file in found if file.is_file()), folder / f"{stem}.jpg")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} can't be read ({error}): expected the JSON of a data set") from error
    if not isinstance(found, dict):
        raise DatasetError(f"{path} holds no record: expected the JSON of a data set")
    return found
