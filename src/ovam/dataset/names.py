"""Names of the files of a labelled data set, and checks of names in such files. This module imports nothing heavy."""

import re
from pathlib import Path, PurePosixPath

from ovam.errors import DatasetError

ABOUT, RECIPE, METADATA, CARD, SHEET = "dataset.json", "recipe.toml", "metadata.jsonl", "README.md", "contact-sheet.png"
ITEMS, IMAGES, MASKS, INPUTS = "items", "images", "masks", "inputs"
_DIGITS = 6
_ITEM = re.compile(r"\d{6,}\.json")


def item_files(folder: Path) -> list[Path]:
    """Return the files of all items that are done, sorted by number."""
    found = [path for path in (folder / ITEMS).glob("*.json") if _ITEM.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.stem))


def stem_of(index: int) -> str:
    """Return the name of an item's files, without the ending."""
    return f"{index:0{_DIGITS}d}"


def checked_name(name: str, where: str | Path) -> str:
    """Return a file name that was read from a file of the data set, if it leads to a place inside the folder.

    Raises:
        DatasetError: it is absolute, has `..` or a backslash, or is empty.
    """
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    odd = not parts or ".." in parts or parts[0] == "/" or "\\" in name or "\0" in name or ":" in parts[0]
    if odd:
        raise DatasetError(f"{where} names the file {name!r}: expected a relative name inside the folder, without '..'")
    return name
