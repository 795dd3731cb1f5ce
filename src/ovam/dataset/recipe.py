"""A recipe: all that a data set is made of, read from one TOML file, checked, and written with every field."""

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ovam.dataset.classes import ClassEntry, classes_of
from ovam.dataset.fields import check_keys
from ovam.dataset.names import INPUTS, RECIPE, checked_name
from ovam.dataset.sections import (
    DataSection,
    FilterSection,
    MaskSection,
    ModelSection,
    PromptSection,
    SplitSection,
)
from ovam.errors import DatasetError, RecipeError
from ovam.input_file import regular

SECTIONS: Mapping[str, type[Any]] = {
    "data": DataSection,
    "prompts": PromptSection,
    "model": ModelSection,
    "masks": MaskSection,
    "filters": FilterSection,
    "splits": SplitSection,
}
"""Sections by their names in the file."""

HOME = {one.name: section for section, kind in SECTIONS.items() for one in fields(kind)}
"""Section of each field; no two sections have a field of the same name."""

_FREE = ("data.name", "data.number", "data.licence", "data.vocabulary", "data.classes")
"""Fields that leave every item as it is; the classes themselves are compared one by one."""

_LATER: Mapping[str, Any] = {
    "masks.method": "",
    "masks.votes": 0,
    "masks.self_attention_every": 1,
    "masks.ignore_changed": False,
}
"""Fields that came after the first format, and what they were before: at that value they stay out of the hash."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that a data set is made of.

    Attributes:
        data: Name, number of images, classes.
        prompts: What the images show.
        model: The model and its run.
        masks: How masks are made.
        filters: What `ovam dataset filter` keeps.
        splits: Shares of the splits.
        classes: The classes with their numbers and words.
        base: Folder that the names of files in the recipe start from.
    """

    data: DataSection
    prompts: PromptSection
    model: ModelSection
    masks: MaskSection
    filters: FilterSection
    splits: SplitSection
    classes: tuple[ClassEntry, ...]
    base: Path = field(default=Path(), compare=False)

    def file_names(self) -> tuple[str, ...]:
        """Return the names of all files that the recipe names, as they stand there."""
        return (*self.masks.tokens, *([self.prompts.captions] if self.prompts.captions else []))

    def files(self) -> dict[str, tuple[Path, ...]]:
        """Return the files that the recipe names, by field."""
        captions = (self.base / self.prompts.captions,) if self.prompts.captions else ()
        return {"prompts.captions": captions, "masks.tokens": tuple(self.base / name for name in self.masks.tokens)}

    def facts(self) -> dict[str, Any]:
        """Return what the items depend on, as plain values; files stand as their SHA-256.

        Raises:
            RecipeError: a file can't be read.
        """
        values: dict[str, Any] = {}
        for section in ("data", "prompts", "model", "masks", "splits"):
            part = getattr(self, section)
            values |= {f"{section}.{one.name}": getattr(part, one.name) for one in fields(part)}
        unchanged = [name for name, before in _LATER.items() if values[name] == before]
        values = {name: value for name, value in values.items() if name not in (*_FREE, *unchanged)}
        for name, paths in self.files().items():
            values[name] = [digest_of(path) for path in paths]
        for one in self.classes:
            values[f"class {one.name!r}"] = {"id": one.id, "words": one.words, "against": one.against}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def digest(self) -> str:
        """Return the hash that names this recipe: 16 hexadecimal digits.

        Prompt, seed and split of an item follow from it and the item's index alone. The number of images, name,
        licence and filters do not change it.
        """
        return hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode()).hexdigest()[:16]

    def with_flags(self, flags: Mapping[str, Any]) -> "Recipe":
        """Return the recipe with some fields changed, by their names without the section.

        Raises:
            RecipeError: a field is unknown, or its value is not allowed.
        """
        check_keys(flags, list(HOME), "")
        tables = {name: dict(values) for name, values in self._tables().items()}
        for name, value in flags.items():
            tables[HOME[name]][name] = value
        own = [one.table() for one in self.classes]
        if "classes" in flags or "vocabulary" in flags:
            own = []  # other classes: what was told of the old ones is void
        return _made({**tables, "class": own}, self.base)

    def _tables(self) -> dict[str, dict[str, Any]]:
        parts = {section: getattr(self, section) for section in SECTIONS}
        return {section: {one.name: getattr(part, one.name) for one in fields(part)} for section, part in parts.items()}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs between the facts of two recipes, as sentences."""
    pairs = {name: (_value(before, name), _value(now, name)) for name in dict.fromkeys((*before, *now))}
    return [f"{name} was {_shown(one)} and is {_shown(other)}" for name, (one, other) in pairs.items() if one != other]


def _value(facts: Mapping[str, Any], name: str) -> Any:
    return facts.get(name, _LATER.get(name))


def _shown(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file that a recipe names.

    Raises:
        RecipeError: it can't be read.
    """
    try:
        with regular(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RecipeError(
            f"{path} can't be read ({error.strerror or error}): expected a file that the recipe names; names start "
            "from the recipe's own folder"
        ) from error


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Raises:
        RecipeError: the file can't be read or is no TOML, or the recipe is not as expected; the key is named.
    """
    return _read(Path(path), {})


def kept_recipe(folder: Path) -> Recipe:
    """Read the recipe that a data set holds. Fields that are missing in an older one have the values of then.

    Raises:
        DatasetError: it names a file outside of the folder's own `inputs/`.
        The errors of `read_recipe`.
    """
    recipe = _read(folder / RECIPE, _LATER)
    for name in recipe.file_names():
        if not checked_name(name, folder / RECIPE).startswith(f"{INPUTS}/"):
            raise DatasetError(f"{folder / RECIPE} names the file {name!r}: expected a name in {INPUTS}/")
    return recipe


def _read(path: Path, missing: Mapping[str, Any]) -> Recipe:
    try:
        text = regular(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise RecipeError(f"{path} can't be read ({reason}): expected a recipe of `ovam dataset new`") from error
    try:
        tables = tomllib.loads(text)
        for name, value in missing.items():
            section, _, key = name.partition(".")
            if isinstance(table := tables.setdefault(section, {}), dict):
                table.setdefault(key, value)
        return recipe_of(tables, base=path.parent)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RecipeError(f"{path} is no TOML ({error}): expected a recipe of `ovam dataset new`") from error
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def recipe_of(tables: Mapping[str, Any] | None = None, *, base: str | Path = ".") -> Recipe:
    """Return the recipe of nested tables, as TOML has them; a field that is left out has its default.

    Args:
        tables: Sections by name, and `class`, a list of tables.
        base: Folder that names of files start from.

    Raises:
        RecipeError: a key is unknown, or a value is not allowed.
    """
    return _made(tables or {}, Path(base))


def _made(tables: Mapping[str, Any], base: Path) -> Recipe:
    everywhere = [f"{section}.{one.name}" for section, kind in SECTIONS.items() for one in fields(kind)]
    check_keys(tables, [*SECTIONS, "class"], "", [*everywhere, "class.name", "class.id", "class.words"])
    parts = {}
    for section, kind in SECTIONS.items():
        table = tables.get(section, {})
        if not isinstance(table, Mapping):
            raise RecipeError(f"{section}={table!r}: expected a table, [{section}]")
        check_keys(table, [one.name for one in fields(kind)], f"{section}.", everywhere)
        parts[section] = kind(**table)
    classes = classes_of(parts["data"], tables.get("class", []))
    _check_words(classes)
    return Recipe(**parts, classes=classes, base=base)


def _check_words(classes: Iterable[ClassEntry]) -> None:
    """Check that no word stands for two classes: the second one could never be told from the first."""
    owners: dict[str, str] = {}
    for one in classes:
        for word in one.words:
            other = owners.setdefault(word.casefold(), one.name)
            if other != one.name:
                raise RecipeError(
                    f"word {word!r} stands for {other!r} and {one.name!r}: expected it in one class alone"
                )
