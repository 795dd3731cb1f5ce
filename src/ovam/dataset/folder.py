"""Prepare the folder of a data set: begin it, or find out that it belongs to the same recipe, and what is done."""

from dataclasses import dataclass, replace
from pathlib import Path

from ovam import __version__
from ovam.dataset.about import About, read_about
from ovam.dataset.item import DamagedItemError, read_item
from ovam.dataset.manifest import Shard, append, done_line, lines_in, mended
from ovam.dataset.model import Facts
from ovam.dataset.names import ABOUT, INPUTS, RECIPE, item_files
from ovam.dataset.recipe import Recipe, differences, kept_recipe
from ovam.dataset.recipe_text import recipe_text
from ovam.dataset.store import full_disk_as_error
from ovam.defaults import CHOSEN_HASH
from ovam.errors import DatasetError, RecipeError
from ovam.json_text import json_text
from ovam.output_files import write_bytes

_HEAD = """# The recipe of this data set, with all fields. Files that it names are in `inputs/`.
"""


@dataclass(frozen=True)
class There:
    """What a folder holds already.

    Attributes:
        units: Unit of each item that is done.
        mended: Whether a line of a manifest was cut short, or missing, and has been mended.
    """

    units: dict[int, int]
    mended: bool = False


def check_recipe(folder: Path, recipe: Recipe) -> None:
    """Check that a folder is empty, or belongs to this recipe.

    Raises:
        DatasetError: the folder holds other files, a view, or the data set of another recipe, whose differences are
            named.
    """
    if not (folder / RECIPE).is_file() and not (folder / ABOUT).is_file():
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        # the first things that a run writes
        file_name = next((name for name in names if name != INPUTS and not name.endswith(".partial")), None)
        if file_name is not None:
            raise DatasetError(
                f"output_dir={str(folder)!r} holds other files ({file_name}) and no data set: expected a new or empty "
                "folder, or a data set to go on with"
            )
        return
    if (folder / ABOUT).is_file() and read_about(folder).view is not None:
        raise DatasetError(f"{folder} is a view, which `ovam dataset filter` wrote: expected another output folder")
    try:
        before = kept_recipe(folder)
        changes = differences(before.facts(), recipe.facts())
    except RecipeError as error:
        raise DatasetError(
            f"{folder} belongs to a recipe that can't be read any more ({error}): expected a new output folder"
        ) from error
    if (folder / ABOUT).is_file() and before.digest() != read_about(folder).recipe:
        raise DatasetError(
            f"{folder / RECIPE} was changed after the data set was begun: expected the recipe that its items were made "
            "by; undo the change, or give the changed recipe a new output folder"
        )
    if changes:
        raise DatasetError(
            f"{folder} belongs to another recipe: {'; '.join(changes[:5])}{'; ...' if len(changes) > 5 else ''}; "
            "choose another output folder, or undo the changes in the recipe"
        )
    if recipe.data.number < before.data.number:
        raise DatasetError(
            f"number={recipe.data.number}: {folder} was begun with {before.data.number}: expected as many or more"
        )


def begin(folder: Path, recipe: Recipe, model: Facts, tokens: dict[str, str]) -> About:
    """Write the recipe, the files that it names, and `dataset.json`; return the content of `dataset.json`.

    Raises:
        DatasetError: the folder's images were made by another model.
    """
    about = About(
        recipe.data.name,
        __version__,
        {"name": model.name, "hash": model.hash},
        recipe.digest(),
        recipe.classes,
        tokens,
        model.size,
        recipe.data.licence,
        CHOSEN_HASH,
    )
    if (folder / ABOUT).is_file():
        _check_same(folder, read_about(folder), model)
    _write_recipe(folder, recipe)
    write_bytes(folder / ABOUT, (json_text(about.json()) + "\n").encode())
    return about


def _check_same(folder: Path, before: About, model: Facts) -> None:
    """Check that new items would be made as those that are there."""
    if before.model["hash"] != model.hash:
        raise DatasetError(
            f"{folder} was made by model {before.model['name']!r} with weights {before.model['hash']}, and the "
            f"model has {model.hash} now: expected the same weights; choose another output folder"
        )
    if before.size != model.size:
        raise DatasetError(
            f"{folder} has images of {before.size}, and the model makes {model.size}: choose another folder"
        )


def check_defaults(folder: Path) -> None:
    """Check that new masks would be made with the same defaults of refinement and CRF as those that are there.

    Raises:
        DatasetError: they would not, or the folder does not say.
    """
    if not (folder / ABOUT).is_file() or (before := read_about(folder)).defaults == CHOSEN_HASH:
        return
    if not before.defaults:
        problem = f"does not say with which defaults of refinement and CRF ovam {before.version} made its masks"
    else:
        problem = (
            f"has masks that were made with other defaults of refinement and CRF ({before.defaults}) than those of "
            f"this version ({CHOSEN_HASH})"
        )
    raise DatasetError(
        f"{folder} {problem}, and new masks could differ from them: finish it with the version of ovam that began it, "
        "or choose another output folder"
    )


def refreshed(folder: Path, recipe: Recipe) -> About:
    """Write the recipe and `dataset.json` of a finished data set again; its name and its licence may have changed."""
    about = replace(read_about(folder), name=recipe.data.name, licence=recipe.data.licence)
    _write_recipe(folder, recipe)
    write_bytes(folder / ABOUT, (json_text(about.json()) + "\n").encode())
    return about


def _write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write the recipe with copies of its files, so that the folder can be gone on with anywhere."""
    names = dict[str, str]()
    with full_disk_as_error(folder):
        for path in dict.fromkeys(path for paths in recipe.files().values() for path in paths):
            name, count = path.name, 1
            while name in names.values():
                count += 1
                name = f"{path.stem}-{count}{path.suffix}"
            names[str(path)] = name
            place, content = folder / INPUTS / name, path.read_bytes()
            if not (place.is_file() and place.read_bytes() == content):
                write_bytes(place, content)
    held = {str(recipe.base / name): f"{INPUTS}/{names[str(recipe.base / name)]}" for name in recipe.file_names()}
    changed = {
        "tokens": [held[str(recipe.base / name)] for name in recipe.masks.tokens],
        "captions": held.get(str(recipe.base / recipe.prompts.captions), "") if recipe.prompts.captions else "",
    }
    write_bytes(folder / RECIPE, recipe_text(recipe, changed=changed, head=_HEAD, all_classes=True).encode())


def look(folder: Path, shard: Shard) -> There:
    """Look which items are done, and mend the shard's manifest.

    Items whose own file is damaged, or whose image or mask is gone, count as not done. A line that was cut short is cut
    off, and items without a line get one.
    """
    units = dict[int, int]()
    for path in item_files(folder):
        try:
            item = read_item(folder, path.name)
        except DamagedItemError:
            path.unlink()
            continue
        if item.whole:
            units[item.index] = item.unit
    torn = mended(folder / shard.manifest)
    recorded = {line["index"] for line in lines_in(folder) if line.get("status") == "done"}
    silent = [index for index in sorted(units) if index not in recorded and shard.has(units[index])]
    with full_disk_as_error(folder):
        for index in silent:
            append(folder / shard.manifest, done_line(index, units[index]))
    return There(units, torn or bool(silent))
