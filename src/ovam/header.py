"""Schemas of the JSON headers of files: they say what each field may hold, and check it before it is used.

A schema is a `Check`: a function that gets a value and its place in the header. If the value is not allowed, it raises
a `ValueError` that names the place. Fields that a schema does not name are ignored.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from torch import Tensor

Check = Callable[[Any, str], None]
Made = TypeVar("Made")
_SHOWN = 40  # characters of a value in a message


def text(pattern: str = ".*", meaning: str = "a text") -> Check:
    """Return a check for texts that match a regular expression from beginning to end."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, str) or not re.fullmatch(pattern, value, re.DOTALL):
            raise _refused(where, value, meaning)

    return check


def whole(least: int, most: int) -> Check:
    """Return a check for whole numbers from `least` to `most`, both included; True and False are not accepted."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise _refused(where, value, f"a whole number from {least} to {most}")

    return check


def number(least: float = -math.inf, most: float = math.inf) -> Check:
    """Return a check for finite numbers from `least` to `most`, both included; True and False are not accepted."""

    def check(value: Any, where: str) -> None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not least <= value <= most or abs(value) == math.inf:
            bounds = "" if most == math.inf else f" from {least:g} to {most:g}"
            raise _refused(where, value, f"a finite number{bounds}")

    return check


def one_of(*values: Any) -> Check:
    """Return a check for one of these values, which are texts or None."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, str | None) or value not in values:
            raise _refused(where, value, "one of " + ", ".join(map(repr, values)))

    return check


def truth(value: Any, where: str) -> None:
    """Check that a value is true or false."""
    if not isinstance(value, bool):
        raise _refused(where, value, "true or false")


def or_null(inner: Check) -> Check:
    """Return a check for null, and for all that another check accepts."""

    def check(value: Any, where: str) -> None:
        if value is not None:
            inner(value, where)

    return check


def listed(inner: Check, least: int = 0, most: int | None = None) -> Check:
    """Return a check for lists whose entries another check accepts, with `least` to `most` entries."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list | tuple) or len(value) < least or (most is not None and len(value) > most):
            length = f" of {least}" if least == most else f" of at least {least}" if least else ""
            raise _refused(where, value, f"a list{length}")
        for i, entry in enumerate(value):
            inner(entry, f"{where}[{i}]")

    return check


def by_name(inner: Check) -> Check:
    """Return a check for objects with any names, whose values another check accepts."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise _refused(where, value, "an object")
        for name, entry in value.items():
            inner(entry, f"{where}[{name[:_SHOWN]!r}]")

    return check


def record(needed: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """Return a check for objects with these fields; optional fields may be missing, and other fields are ignored."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise _refused(where, value, "an object")
        begin = f"{where}." if where else ""
        for name, inner in needed.items():
            if name not in value:
                raise ValueError(f"{begin}{name} is missing")
            inner(value[name], begin + name)
        for name, inner in (optional or {}).items():
            if name in value:
                inner(value[name], begin + name)

    return check


def made(kind: type[Made], values: Mapping[str, Any]) -> Made:
    """Make a dataclass from the fields that it knows; files of later versions may have more."""
    assert is_dataclass(kind)
    return kind(**{each.name: values[each.name] for each in fields(kind) if each.name in values})


def check_different(names: Sequence[str], where: str) -> None:
    """Raise ValueError if a name occurs twice."""
    seen = set[str]()
    for name in names:
        if name in seen:
            raise ValueError(f"{where} names {name[:_SHOWN]!r} twice: expected each once")
        seen.add(name)


def tensor_of(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the tensor of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in tensors:
        raise ValueError(f"{name} is missing")
    return tensors[name]


def _refused(where: str, value: Any, meaning: str) -> ValueError:
    shown = repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    if isinstance(value, list | tuple):
        shown = f"a list of {len(value)}"
    return ValueError(f"{where} is {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '...'}: expected {meaning}")
