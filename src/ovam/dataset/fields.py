"""Fields of a recipe: each is declared once with its default, bounds and help; files and flags follow from that."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from types import NoneType
from typing import Any, get_args, get_type_hints

from ovam.errors import RecipeError
from ovam.input_file import is_text

LARGEST = 2**53
"""Bound of whole numbers without a bound of their own: all smaller ones are the same in TOML and JSON."""


@dataclass(frozen=True)
class FieldInfo:
    """Facts about a field besides its default.

    Attributes:
        help: One sentence.
        least: Smallest number that is allowed.
        most: Largest number that is allowed.
        choices: Texts that are allowed; all are if there are none.
        files: Whether the value is the name of a file, or a list of such names.
    """

    help: str
    least: float | int = 0
    most: float | int = LARGEST
    choices: tuple[str, ...] = ()
    files: bool = False


def option(default: Any, help: str, **info: Any) -> Any:
    """Declare a field of a recipe."""
    return field(default=default, metadata={"info": FieldInfo(help, **info)})


def info_of(one: Field[Any]) -> FieldInfo:
    """Return the facts about a field."""
    found = one.metadata["info"]
    assert isinstance(found, FieldInfo)
    return found


def type_of(kind: type[Any], name: str) -> tuple[Any, bool]:
    """Return the type of a field (bool, int, float, str or tuple) and whether it may be None."""
    hint = get_type_hints(kind)[name]
    parts = get_args(hint)
    if NoneType in parts:
        return next(part for part in parts if part is not NoneType), True
    return (tuple if parts else hint), False


def check_section(section: Any, prefix: str = "") -> None:
    """Check all fields of a section of a recipe, and bring their values to their types.

    Raises:
        RecipeError: a value has another type than the field, or is out of its bounds.
    """
    for one in fields(section):
        if "info" in one.metadata:
            kind, optional = type_of(type(section), one.name)
            value = getattr(section, one.name)
            if value is not None or not optional:
                object.__setattr__(section, one.name, _checked(prefix + one.name, value, kind, info_of(one)))


def _checked(name: str, value: Any, kind: Any, info: FieldInfo) -> Any:
    checks = {bool: _truth, int: _whole, float: _number, str: _text, tuple: _texts}
    return checks[kind](name, value, info)


def _truth(name: str, value: Any, info: FieldInfo) -> bool:
    if not isinstance(value, bool):
        raise RecipeError(f"{name}={value!r}: expected true or false")
    return value


def _whole(name: str, value: Any, info: FieldInfo) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not info.least <= value <= info.most:
        raise RecipeError(f"{name}={value!r}: expected a whole number from {info.least:.0f} to {info.most:.0f}")
    return value


def _number(name: str, value: Any, info: FieldInfo) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not known or not info.least <= value <= info.most:
        raise RecipeError(f"{name}={value!r}: expected a number from {info.least:g} to {info.most:g}")
    return float(value)


def _text(name: str, value: Any, info: FieldInfo) -> str:
    if not isinstance(value, str) or not is_text(value):
        raise RecipeError(f"{name}={value!r}: expected a text")
    if info.choices and value not in info.choices:
        raise RecipeError(f"{name}={value!r}: expected one of {', '.join(map(repr, info.choices))}")
    return value


def _texts(name: str, value: Any, info: FieldInfo) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise RecipeError(f"{name}={value!r}: expected a list of texts")
    found = tuple(_text(name, each, FieldInfo("")).strip() for each in value)
    if not all(found):
        raise RecipeError(f"{name}={list(value)!r}: expected texts that are not empty")
    if len(set(found)) < len(found):
        raise RecipeError(f"{name}={list(value)!r}: expected each text once")
    return found


def check_keys(found: Mapping[str, Any], known: Sequence[str], where: str, everywhere: Sequence[str] = ()) -> None:
    """Check that a table of a recipe has only known keys.

    Args:
        found: The table.
        known: Keys that it may have.
        where: What stands before the key in messages, such as "masks.".
        everywhere: Keys of all tables, with what stands before them, in case the key belongs into another table.

    Raises:
        RecipeError: a key is unknown; the nearest known one is named.
    """
    for key in found:
        if key not in known:
            elsewhere = [name for name in everywhere if name.rpartition(".")[2] == key]
            near = elsewhere or [where + name for name in get_close_matches(key, known, 1, 0.5)]
            near = near or get_close_matches(where + key, everywhere, 1, 0.4)
            advice = f"the nearest known one is {near[0]!r}" if near else f"expected some of {', '.join(known)}"
            raise RecipeError(f"unknown key {where + key!r} in the recipe: {advice}")
