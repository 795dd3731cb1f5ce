"""Check a data set: every file that should be there, what masks hold, hashes, and that tables agree."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovam import __version__
from ovam.dataset.about import About, read_about
from ovam.dataset.item import Item, misfit, read_item, read_labels
from ovam.dataset.kept_scores import SCORES, read_scores
from ovam.dataset.manifest import lines_in
from ovam.dataset.names import IMAGES, MASKS, METADATA, RECIPE, item_files
from ovam.dataset.recipe import kept_recipe
from ovam.dataset.table import rows_of
from ovam.errors import DatasetError, RecipeError
from ovam.masks.mask_like import IGNORE
from ovam.progress import Progress, no_progress

_SHOWN = 50


def check(folder: str | Path, *, progress: Progress = no_progress) -> dict[str, Any]:
    """Check a data set or a view.

    Args:
        folder: Its folder.
        progress: Called with the number of items.

    Returns:
        `passed`, the number of items, and `problems`: a list of sentences, at most 50, and how many there are.

    Raises:
        DatasetError: the folder is no data set.
    """
    folder = Path(folder)
    about = read_about(folder)
    items, problems = list[Item](), list[str]()
    files = item_files(folder)
    for place, path in enumerate(files):
        progress("checking items", place, len(files))
        try:
            items.append(read_item(folder, path.name))
        except DatasetError as error:
            problems.append(str(error))
            continue
        problems += _of_item(items[-1], about)
    if not files:
        problems.append(f"{folder} has no items: expected at least one")
    problems += [*_of_files(folder, items), *_of_table(folder, items), *_of_manifest(folder, items)]
    problems += [*_of_recipe(folder, about), *_of_scores(folder)]
    return {
        "command": "dataset check",
        "version": __version__,
        "folder": str(folder),
        "items": len(files),
        "passed": not problems,
        "problems": problems[:_SHOWN],
        "problems_found": len(problems),
    }


def _of_item(item: Item, about: About) -> Iterator[str]:
    for name, digest in ((item.image, item.image_sha256), (item.mask, item.mask_sha256)):
        path = item.folder / name
        if not path.is_file():
            yield f"{name} is missing: expected the file of item {item.index}"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            yield (
                f"{name} has another SHA-256 than item {item.index} tells: it was changed or is damaged; delete it and "
                "generate again"
            )
    if problem := misfit(item, about.ids):
        yield problem
    if item.image_path.is_file():
        yield from _of_image(item, about)
    if item.mask_path.is_file():
        yield from problems_of_mask(item, about)


def _of_image(item: Item, about: About) -> Iterator[str]:
    try:
        with Image.open(item.image_path) as picture:
            picture.load()
            size, mode = picture.size, picture.mode
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        yield f"{item.image} can't be read ({error}): expected a picture"
        return
    if size != about.size[::-1] or mode != "RGB":
        yield f"{item.image} is {mode} of {size[1]} x {size[0]}: expected RGB of {about.size[0]} x {about.size[1]}"


def problems_of_mask(item: Item, about: About) -> Iterator[str]:
    """Yield what is wrong with an item's mask: its size, or values that are no numbers of the item's classes."""
    try:
        labels = read_labels(item.mask_path)
    except DatasetError as error:
        yield str(error)
        return
    if labels.shape != about.size:
        yield f"{item.mask} is {labels.shape[0]} x {labels.shape[1]}: expected {about.size[0]} x {about.size[1]}"
    known = {0, IGNORE, *(about.ids[name] for name in item.classes if name in about.ids)}
    strange = [int(value) for value in np.unique(labels) if value not in known]
    if strange:
        yield f"{item.mask} holds {strange[0]}: expected 0, {IGNORE}, and the numbers of {', '.join(item.classes)}"


def _of_files(folder: Path, items: list[Item]) -> Iterator[str]:
    known = {name for item in items for name in (item.image, item.mask)}
    for part in (IMAGES, MASKS):
        for path in sorted((folder / part).glob("*")):
            name = f"{part}/{path.name}"
            if name not in known:
                yield f"{name} belongs to no item: an image without its mask, or left by a run that was stopped"


def _of_recipe(folder: Path, about: About) -> Iterator[str]:
    try:
        recipe = kept_recipe(folder)
        digest = recipe.digest()
    except (DatasetError, RecipeError) as error:
        yield str(error)
        return
    done = len(item_files(folder))
    if about.view is None and done < recipe.data.number:
        yield (
            f"{done} of the {recipe.data.number} items are there: the run is not complete, or the others failed; "
            "generate again, which tries them once more"
        )
    if digest != about.recipe:
        yield f"{RECIPE} was changed after the data set was begun: expected the recipe that its items were made by"


def _of_scores(folder: Path) -> Iterator[str]:
    for path in sorted((folder / SCORES).glob("*.jsonl")):
        try:
            read_scores(path)
        except DatasetError as error:
            yield str(error)


def _of_table(folder: Path, items: list[Item]) -> Iterator[str]:
    if not (folder / METADATA).is_file():
        yield f"{METADATA} is missing: the run is not complete; generate again, which goes on with it"
        return
    try:
        rows = list(rows_of(folder))
    except DatasetError as error:
        yield str(error)
        return
    found = [(row["index"], row["file_name"], row["mask_file_name"]) for row in rows]
    expected = [(item.index, item.image, item.mask) for item in sorted(items, key=lambda item: item.index)]
    if found != expected:
        yield f"{METADATA} has {len(found)} lines that do not fit the {len(expected)} items: generate again"


def _of_manifest(folder: Path, items: list[Item]) -> Iterator[str]:
    done = [line["index"] for line in lines_in(folder) if line.get("status") == "done"]
    lost = {item.index for item in items}.symmetric_difference(done)
    if len(set(done)) < len(done):
        yield f"the manifest has {len(done)} lines for {len(set(done))} items: generate again, which mends it"
    if lost:
        yield f"the manifest and the items differ in item {min(lost)}: generate again, which mends it"
