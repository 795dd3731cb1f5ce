"""Write a recipe as TOML, with the help of each field as a comment."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ovam.dataset.fields import info_of
from ovam.dataset.recipe import SECTIONS, Recipe

_HEAD = """# What `ovam dataset generate` makes. A line that is left out has the value that stands here.
# Prompt, seed and first split of an image follow from this file and the image's number alone.
"""


def recipe_text(recipe: Recipe, *, changed: Mapping[str, Any] | None = None, head: str = _HEAD) -> str:
    """Return a recipe as TOML with all fields.

    Args:
        recipe: The recipe.
        changed: Values of fields to write instead, by their names without the section.
        head: Comment at the beginning.
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
    lines.append("# Each class: its number in masks, its words, and contrast words for images that show it.")
    for entry in recipe.classes:
        lines += ["[[class]]", *(f"{name} = {value_text(value)}" for name, value in entry.table().items()), ""]
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
