"""Recipes of labelled data sets: begin one, or take one from a file, a folder or flags."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovam import __version__
from ovam.dataset.names import RECIPE
from ovam.dataset.recipe import HOME, Recipe, kept_recipe, read_recipe, recipe_of
from ovam.dataset.recipe_text import recipe_text
from ovam.errors import OptionError


def new(output: str | Path, flags: Mapping[str, Any], *, overwrite: bool = False) -> dict[str, Any]:
    """Write a recipe with all fields and their help.

    Args:
        output: File to write.
        flags: Fields that differ from their defaults, by name; names of files start from the current folder.
        overwrite: Whether a file that is there is replaced.

    Returns:
        The file, the number of images, and the classes.

    Raises:
        RecipeError: a field is not allowed.
        OptionError: the file is there already, or can't be written.
    """
    path = Path(output)
    if path.exists() and not overwrite:
        raise OptionError(f"{path} is there already: expected a new name; delete it, or give --overwrite")
    flags = {"vocabulary": "voc", **flags} if not {"classes", "vocabulary"} & set(flags) else flags
    near = {name: _from(path.parent, name, value) for name, value in flags.items()}
    recipe = _made(near, path.parent)
    recipe.digest()  # its files can be read
    try:
        path.write_text(recipe_text(recipe), encoding="utf-8")
    except OSError as error:
        raise OptionError(
            f"{path} can't be written ({error.strerror}): expected a folder that you may write to"
        ) from error
    names = [one.name for one in recipe.classes]
    return {
        "command": "dataset new",
        "version": __version__,
        "output": str(path),
        "images": recipe.data.number,
        "classes": names,
    }


def recipe_for(path: str | Path | None, flags: Mapping[str, Any], output_dir: str | Path | None = None) -> Recipe:
    """Return the recipe of a file, of a folder that was begun, or of flags alone; flags win.

    Args:
        path: File of the recipe, or None.
        flags: Fields by name; names of files start from the current folder.
        output_dir: Folder of the data set; its own recipe is taken if there is no file.

    Raises:
        RecipeError: the recipe can't be used.
    """
    if path is not None:
        recipe = read_recipe(path)
    elif output_dir is not None and (Path(output_dir) / RECIPE).is_file():
        recipe = kept_recipe(Path(output_dir))
    else:
        return _made(flags, Path())
    absolute = {name: _absolute(name, value) for name, value in flags.items()}
    return recipe.with_flags(absolute) if flags else recipe


def _made(flags: Mapping[str, Any], base: Path) -> Recipe:
    tables: dict[str, dict[str, Any]] = {}
    for name, value in flags.items():
        tables.setdefault(HOME[name], {})[name] = value
    return recipe_of(tables, base=base)


def _from(folder: Path, name: str, value: Any) -> Any:
    """Return names of files as they start from the folder of a recipe; a model's folder becomes an absolute name."""
    if name == "tokens":
        return [os.path.relpath(each, folder) for each in value]
    if name == "captions" and value:
        return os.path.relpath(value, folder)
    return str(Path(value).absolute()) if name == "model" and Path(value).is_dir() else value


def _absolute(name: str, value: Any) -> Any:
    """Return names of files as absolute ones, since a recipe's names start from its own folder."""
    if name == "tokens":
        return [str(Path(each).absolute()) for each in value]
    return str(Path(value).absolute()) if name == "captions" and value else value
