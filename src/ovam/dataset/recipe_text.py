"""Write a recipe as TOML, with the help of each field as a comment."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ovam.dataset.classes import classes_of
from ovam.dataset.fields import info_of
from ovam.dataset.recipe import SECTIONS, Recipe

_HEAD = """# What `ovam dataset generate` makes. A line that is left out has the value that stands here.
# Prompt, seed and first split of an image follow from this file and the image's number alone.
"""


_CLASSES = "# Each class: its number in masks, its words, and contrast words for images that show it."


def recipe_text(
    recipe: Recipe, *, changed: Mapping[str, Any] | None = None, head: str = _HEAD, all_classes: bool = False
) -> str:
    """Return a recipe as TOML with all fields.

    Args:
        recipe: The recipe.
        changed: Values of fields to write instead, by their names without the section.
        head: Comment at the beginning.
        all_classes: Whether the tables of all classes count. By default those that follow from `vocabulary` and
            `classes` are comments, so that these two can be edited.
    """
    changed = changed or {}
    lines = [head] if head else []
    for section in SECTIONS:
        part = getattr(recipe, section)
        lines.append(f"[{section}]")
        for one in fields(part):
            info = info_of(one)
            choices = f" One of {', '.join(map(repr, info.choices))}." if info.choices else ""
            value = changed.get(one.name, getattr(part, one.name))
            lines += [f"# {info.help}{choices}", f"{one.name} = {value_text(value)}"]
        lines.append("")
    follow = () if all_classes or not (recipe.data.vocabulary or recipe.data.classes) else classes_of(recipe.data, ())
    lines.append(f"{_CLASSES} To change one, remove its #." if follow else _CLASSES)
    for entry in recipe.classes:
        table = ["[[class]]", *(f"{name} = {value_text(value)}" for name, value in entry.table().items())]
        lines += [*(f"# {line}" if entry in follow else line for line in table), ""]
    return "\n".join(lines)


def value_text(value: Any) -> str:
    """Return a value as TOML has it.

    Example:
        >>> value_text(("a", True, 0.5))
        '["a", true, 0.5]'
    """
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_text, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
